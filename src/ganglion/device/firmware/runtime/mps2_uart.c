/* The MPS2 board's serial line: the CMSDK UART, whose interrupt keeps what comes, and datagrams in SLIP with a check.
 * A datagram begins with the size of its peer and the peer; 0 is the bus. */
#include "mps2.h"
#include "slip.h"

#define UART 0x40004000u
#define UART_DATA MPS2_REGISTER(UART)
#define UART_STATE MPS2_REGISTER(UART + 4)
#define UART_CTRL MPS2_REGISTER(UART + 8)
#define UART_INTERRUPTS MPS2_REGISTER(UART + 12)
#define UART_BAUD_DIVISOR MPS2_REGISTER(UART + 16)
#define UART_TX_FULL 1u
#define UART_RX_FULL 2u
#define UART_RX_INTERRUPT 0u
/* More than a frame takes on the line, so that one may come while another one is computed. A power of two. */
#define UART_RING_BYTES 8192u

static uint8_t uart_ring[UART_RING_BYTES];
static volatile uint32_t uart_put, uart_taken;
static uint8_t uart_frame[1 + GD_PEER_BYTES + MPS2_HEAD_BYTES + GD_IN_BYTES + GD_SLIP_CHECK_BYTES];
static uint8_t uart_out[1 + GD_PEER_BYTES + MPS2_PACKET_BYTES];
static gd_slip uart_slip;

/* What finds no room is lost, and its frame fails its check. The interrupt is cleared first: cleared last, it would be for
 * a byte that came after the look, too, and the line would stand still, since nothing comes while one waits. */
void mps2_link_interrupt(void) {
  UART_INTERRUPTS = 2;
  while (UART_STATE & UART_RX_FULL) {
    uint8_t byte = (uint8_t)UART_DATA;
    if (uart_put - uart_taken < UART_RING_BYTES) {
      uart_ring[uart_put % UART_RING_BYTES] = byte;
      uart_put = uart_put + 1;
    }
  }
}

void mps2_link_start(void) {
  uart_put = uart_taken = 0;
  gd_slip_start(&uart_slip, uart_frame, sizeof uart_frame);
  UART_BAUD_DIVISOR = 217; /* 115,200 of 25 MHz */
  UART_CTRL = 1u | 2u | 8u; /* send, receive, interrupt on receiving */
  MPS2_INTERRUPT_ON(UART_RX_INTERRUPT);
  __asm__ volatile("cpsie i" ::: "memory");
}

uint32_t mps2_link_waits(void) { return uart_put != uart_taken; }

uint32_t mps2_link_receive(gd_peer *from, uint8_t *at, uint32_t room) {
  while (uart_put != uart_taken) {
    uint8_t byte = uart_ring[uart_taken % UART_RING_BYTES];
    uint32_t bytes, peer, carried;
    uart_taken = uart_taken + 1;
    bytes = gd_slip_receive(&uart_slip, byte);
    if (bytes == 0) continue;
    peer = uart_slip.at[0];
    if (peer > GD_PEER_BYTES || 1 + peer >= bytes) continue;
    carried = bytes - 1 - peer;
    if (carried > room) continue;
    from->bytes = peer;
    gd_copy(from->at, uart_slip.at + 1, peer);
    gd_copy(at, uart_slip.at + 1 + peer, carried);
    return carried;
  }
  return 0;
}

void mps2_link_send(const gd_peer *to, const uint8_t *at, uint32_t bytes) {
  uint32_t peer = to ? to->bytes : 0;
  gd_slip_sender sender;
  int32_t byte;
  if (peer > GD_PEER_BYTES || 1 + peer + bytes > sizeof uart_out) return; /* the generator saw to it */
  uart_out[0] = (uint8_t)peer;
  if (to) gd_copy(uart_out + 1, to->at, peer);
  gd_copy(uart_out + 1 + peer, at, bytes);
  gd_slip_send(&sender, uart_out, 1 + peer + bytes);
  while ((byte = gd_slip_next(&sender)) >= 0) {
    while (UART_STATE & UART_TX_FULL) {
    }
    UART_DATA = (uint32_t)byte;
  }
}
