// What driver.cpp asks of fibers.cpp.
#pragma once
#include <string>
#include <vector>

#include "device.h"

// A kernel of a loaded module; `call` takes the address of its parameters.
struct Kernel {
  std::string name;
  void (*call)(const void* parameters);
  size_t parameter_bytes;
};

struct Launch {
  const Kernel* kernel;
  Index grid;
  unsigned threads;
  size_t shared_bytes;
  const void* parameters;
};

// All blocks, one after the other. One caller at a time.
void run_blocks(const Launch& launch);
