/* A stand-in for tests, see ../README.md. */
#ifndef STUB_ETHERNET_H
#define STUB_ETHERNET_H
#include "Arduino.h"
class EthernetClass {
 public:
  int begin(uint8_t *mac);
};
extern EthernetClass Ethernet;
#endif
