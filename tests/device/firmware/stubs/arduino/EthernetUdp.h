/* A stand-in for tests, see ../README.md. */
#ifndef STUB_ETHERNET_UDP_H
#define STUB_ETHERNET_UDP_H
#include "Arduino.h"
class EthernetUDP {
 public:
  uint8_t begin(uint16_t port);
  int beginPacket(IPAddress ip, uint16_t port);
  size_t write(const uint8_t *at, size_t n);
  int endPacket();
  int parsePacket();
  int read(uint8_t *at, size_t n);
  IPAddress remoteIP();
  uint16_t remotePort();
};
#endif
