/* A stand-in for tests, see ../README.md. */
#ifndef STUB_EEPROM_H
#define STUB_EEPROM_H
class EEPROMClass {
 public:
  template <typename T>
  T &get(int, T &value) { return value; }
  template <typename T>
  const T &put(int, const T &value) { return value; }
};
extern EEPROMClass EEPROM;
#endif
