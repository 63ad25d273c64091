/* ARM's MPS2 board with the AN386 image (Cortex-M4F), as QEMU's mps2-an386 gives it: what its two links have in common.
 *
 * Over a link goes what the box holds (box.c). From the bus, where sensor and technician are, come boxes: START, FRAME,
 * CLOSE and REPORT; records but datagrams go back there. Datagrams go to their peers. */
#ifndef GANGLION_MPS2_H
#define GANGLION_MPS2_H

#define MPS2_REGISTER(at) (*(volatile uint32_t *)(uintptr_t)(at))
#define MPS2_INTERRUPT_ON(n) (MPS2_REGISTER(0xE000E100u + 4u * ((n) / 32u)) = 1u << (n) % 32u)
#define MPS2_HEAD_BYTES 88u
/* The most that fits a packet of Ethernet. */
#define MPS2_PACKET_BYTES 1514u

void mps2_link_start(void);
/* Whether something came: asked with interrupts masked, before a sleep that it would end. */
uint32_t mps2_link_waits(void);
/* The handler of interrupt 0, for a link that takes interrupts; others leave them masked. */
void mps2_link_interrupt(void);
/* The bytes of what came, 0 when nothing did; `from->bytes` is 0 for the bus. What has no room is dropped. */
uint32_t mps2_link_receive(gd_peer *from, uint8_t *at, uint32_t room);
/* `to` is 0 for the bus. */
void mps2_link_send(const gd_peer *to, const uint8_t *at, uint32_t bytes);

#endif
