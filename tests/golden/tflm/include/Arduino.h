// A stand-in for tests: see README.md.
#pragma once

#include <cstddef>

using std::size_t;

struct StubSerial {
  void begin(unsigned long) {}
  template <typename T>
  void print(T) {}
  template <typename T>
  void print(T, int) {}
  template <typename T>
  void println(T) {}
};
extern StubSerial Serial;
void delay(unsigned long ms);
unsigned long micros();
