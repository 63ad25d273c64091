/* A stand-in for tests, see ../README.md. */
#ifndef STUB_ARDUINO_H
#define STUB_ARDUINO_H
#include <stddef.h>
#include <stdint.h>
typedef uint8_t byte;
unsigned long micros();
void delay(unsigned long ms);
class IPAddress {
 public:
  IPAddress(uint8_t a, uint8_t b, uint8_t c, uint8_t d) : bytes{a, b, c, d} {}
  uint8_t operator[](int i) const { return bytes[i]; }

 private:
  uint8_t bytes[4];
};
class SerialPort {
 public:
  void begin(unsigned long speed);
  size_t print(const char *text);
  size_t print(unsigned long number);
  size_t println(const char *text);
  size_t println();
  size_t write(const uint8_t *at, size_t n);
};
extern SerialPort Serial;
#endif
