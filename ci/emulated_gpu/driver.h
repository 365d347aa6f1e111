// What the emulated driver and the emulated cuBLASLt share: the order of work.
#pragma once
#include <functional>
#include <mutex>
#include <vector>

#include "fibers.h"

using Graph = std::vector<std::function<void()>>;

struct Stream {
  // Null: work is done at once.
  Graph* recording = nullptr;
};

// Held by whoever works or changes the driver's state: one piece of work at a time.
extern std::recursive_mutex lock;
using Locked = std::lock_guard<std::recursive_mutex>;

// Does a piece of work, or records it.
void enqueue(Stream* stream, std::function<void()> work);
