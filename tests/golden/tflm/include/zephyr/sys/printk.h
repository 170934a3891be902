// A stand-in for tests: see README.md.
#pragma once

extern "C" int printk(const char* format, ...);
