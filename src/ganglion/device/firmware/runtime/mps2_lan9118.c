/* The MPS2 board's Ethernet: a LAN9118 driven by polling after its interrupt ended a sleep, and of IPv4 and UDP what a
 * device needs. Addresses are fixed and there is no ARP: every packet goes to the one neighbour. */
#include "mps2.h"

#define LAN 0x40200000u
#define LAN_INTERRUPT 13u
#define LAN_RX_DATA MPS2_REGISTER(LAN + 0x00)
#define LAN_TX_DATA MPS2_REGISTER(LAN + 0x20)
#define LAN_RX_STATUS MPS2_REGISTER(LAN + 0x40)
#define LAN_TX_STATUS MPS2_REGISTER(LAN + 0x48)
#define LAN_INT_CFG MPS2_REGISTER(LAN + 0x54)
#define LAN_INT_STS MPS2_REGISTER(LAN + 0x58)
#define LAN_INT_EN MPS2_REGISTER(LAN + 0x5C)
#define LAN_FIFO_INT MPS2_REGISTER(LAN + 0x68)
#define LAN_TX_CFG MPS2_REGISTER(LAN + 0x70)
#define LAN_RX_INF MPS2_REGISTER(LAN + 0x7C)
#define LAN_TX_INF MPS2_REGISTER(LAN + 0x80)
#define LAN_MAC_CMD MPS2_REGISTER(LAN + 0xA4)
#define LAN_MAC_DATA MPS2_REGISTER(LAN + 0xA8)
#define LAN_MAC_CR 1u
#define LAN_RX_STATUS_LEVEL (1u << 3)

#define UDP_AT 42u /* Ethernet 14, IPv4 20, UDP 8 bytes */
#define BUS_PORT 4712u
#define COAP_PORT 5683u

static const uint8_t lan_own[6] = {2, 0, 0, 0, 0, 2}, lan_neighbour[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t lan_own_ip[4] = {10, 77, 0, 2}, lan_bus_ip[4] = {10, 77, 0, 1};
/* Two bytes in front put IPv4's and UDP's fields, and what they carry, at words. */
static _Alignas(8) uint8_t lan_packet[MPS2_PACKET_BYTES + 6];

static uint32_t lan_16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static void lan_put_16(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

/* The checksum of an IPv4 header (RFC 1071): 0 when the one in it is right. */
static uint32_t lan_checksum(const uint8_t *at) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < 20; i += 2) sum += lan_16(at + i);
  sum = (sum & 0xffffu) + (sum >> 16);
  sum = (sum & 0xffffu) + (sum >> 16);
  return ~sum & 0xffffu;
}

void mps2_link_start(void) {
  LAN_INT_CFG = 0x111; /* on, push-pull, high */
  LAN_FIFO_INT = 0;    /* one packet is enough */
  LAN_INT_STS = 0xFFFFFFFFu;
  LAN_INT_EN = LAN_RX_STATUS_LEVEL;
  LAN_TX_CFG = 2;
  LAN_MAC_DATA = 1u << 20 | 1u << 18 | 1u << 3 | 1u << 2; /* full duplex, all addresses, send, receive */
  LAN_MAC_CMD = 0x80000000u | LAN_MAC_CR;
  MPS2_INTERRUPT_ON(LAN_INTERRUPT);
}

uint32_t mps2_link_waits(void) { return LAN_RX_INF >> 16 & 0xffu; }

void mps2_link_interrupt(void) {}

/* UDP to us in one whole IPv4 packet without options; the bytes it carries, 0 for anything else. */
static uint32_t lan_udp(const uint8_t *p, uint32_t bytes) {
  const uint8_t *ip = p + 14, *udp = p + 34;
  uint32_t whole = lan_16(ip + 2), carried = lan_16(udp + 4);
  if (bytes < UDP_AT || lan_16(p + 12) != 0x0800 || ip[0] != 0x45 || ip[9] != 17 || lan_checksum(ip) != 0) return 0;
  if (whole < 28 || whole > bytes - 14 || (lan_16(ip + 6) & 0x3fffu) != 0 || !gd_same(ip + 16, lan_own_ip, 4)) return 0;
  return carried < 8 || carried > whole - 20 ? 0 : carried - 8;
}

uint32_t mps2_link_receive(gd_peer *from, uint8_t *at, uint32_t room) {
  uint8_t *p = lan_packet + 2;
  LAN_INT_STS = LAN_RX_STATUS_LEVEL;
  while (LAN_RX_INF >> 16 & 0xffu) {
    uint32_t status = LAN_RX_STATUS, bytes = status >> 16 & 0x3fffu, carried, port;
    for (uint32_t i = 0; i < bytes; i += 4) {
      uint32_t word = LAN_RX_DATA;
      if (i + 4 <= MPS2_PACKET_BYTES)
        for (uint32_t k = 0; k < 4; k++) p[i + k] = (uint8_t)(word >> 8 * k);
    }
    if (status & 1u << 15 || bytes < 4 || bytes - 4 > MPS2_PACKET_BYTES) continue; /* four are its check */
    carried = lan_udp(p, bytes - 4);
    port = lan_16(p + 36);
    if (carried == 0 || carried > room || (port != BUS_PORT && port != COAP_PORT)) continue;
    from->bytes = port == BUS_PORT ? 0 : 6;
    gd_copy(from->at, p + 26, 4);
    gd_copy(from->at + 4, p + 34, 2);
    gd_copy(at, p + UDP_AT, carried);
    return carried;
  }
  return 0;
}

void mps2_link_send(const gd_peer *to, const uint8_t *at, uint32_t bytes) {
  uint8_t *p = lan_packet + 2;
  uint32_t whole = UDP_AT + bytes;
  if (whole > MPS2_PACKET_BYTES || (to && to->bytes != 6)) return; /* the generator saw to it */
  gd_copy(p, lan_neighbour, 6);
  gd_copy(p + 6, lan_own, 6);
  for (uint32_t i = 12; i < UDP_AT; i++) p[i] = 0;
  lan_put_16(p + 12, 0x0800);
  p[14] = 0x45;
  lan_put_16(p + 16, whole - 14);
  lan_put_16(p + 20, 0x4000); /* not to be cut */
  p[22] = 64;
  p[23] = 17;
  gd_copy(p + 26, lan_own_ip, 4);
  gd_copy(p + 30, to ? to->at : lan_bus_ip, 4);
  lan_put_16(p + 24, lan_checksum(p + 14));
  lan_put_16(p + 34, to ? COAP_PORT : BUS_PORT);
  if (to) gd_copy(p + 36, to->at + 4, 2);
  else lan_put_16(p + 36, BUS_PORT);
  lan_put_16(p + 38, whole - 34); /* no UDP checksum: Ethernet has one */
  gd_copy(p + UDP_AT, at, bytes);
  while ((LAN_TX_INF & 0xffffu) < whole + 16) { /* it is on its way */
  }
  LAN_TX_DATA = 3u << 12 | whole;
  LAN_TX_DATA = whole;
  for (uint32_t i = 0; i < whole; i += 4)
    LAN_TX_DATA = (uint32_t)p[i] | (uint32_t)p[i + 1] << 8 | (uint32_t)p[i + 2] << 16 | (uint32_t)p[i + 3] << 24;
  while (LAN_TX_INF >> 16 & 0xffu) (void)LAN_TX_STATUS;
}
