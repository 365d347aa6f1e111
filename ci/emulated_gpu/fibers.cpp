// Runs the blocks of a kernel on one host thread, a fiber for each of their threads: the half of
// the emulated GPU that kernels talk to (device.h). Warps go on in an order of chance from barrier
// to barrier, so what a missing barrier allows happens sooner or later. driver.cpp calls it.
#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

// Saves the registers that a call must keep, and goes on where the other one saved its own.
extern "C" void switch_fibers(void** from, void* to);
__asm__(R"(
.text
.globl switch_fibers
switch_fibers:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace {

const size_t STACK_BYTES = 128 << 10;
const size_t SHARED_BYTES = 1 << 18;
const size_t MOST_THREADS = 1024;
// Behind the dynamic shared memory of a block: nobody may write there.
const size_t FENCE_BYTES = 1024;
// Rounds in which no thread gets on, until that is called a deadlock.
const unsigned PATIENCE = 10000;

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  void* stack_pointer = nullptr;
  uint8_t* stack = nullptr;
  Index index{};
  bool done = false;
  // Asynchronous copies: those that are committed by groups, and those that are not yet.
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

// Lanes that have come to an instruction of the whole warp.
struct Warp {
  unsigned arrived = 0, alive = 0;
  uint64_t met = 0;
  OfWarp all = nullptr;
  void* lanes[32] = {};
};

// The barrier of the block, and the votes of those who have come to it.
struct Barrier {
  unsigned arrived = 0, alive = 0, yes = 0, result = 0, of = 0;
  uint64_t met = 0;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier barrier;
Fiber* current;
void* scheduler;
// Grows whenever a thread gets on.
uint64_t progress;
std::mt19937 chance(1);
const Launch* running;

void yield() { switch_fibers(&current->stack_pointer, scheduler); }

void release(Barrier& b) {
  b.result = b.yes;
  b.of = b.arrived;
  b.arrived = b.yes = 0;
  b.met++;
  progress++;
}

void release(Warp& warp) {
  warp.all(warp.lanes);
  std::fill(std::begin(warp.lanes), std::end(warp.lanes), nullptr);
  warp.arrived = 0;
  warp.met++;
  progress++;
}

void perform(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    memset(copy.to, 0, 16);
    memcpy(copy.to, copy.from, copy.bytes);
  }
}

void enter() {
  running->kernel->call(running->parameters);
  for (const auto& group : current->groups) perform(group);
  current->done = true;
  for (;;) yield();
}

void prepare(Fiber& fiber, unsigned thread) {
  if (!fiber.stack) {
    const int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    fiber.stack = (uint8_t*)mmap(nullptr, STACK_BYTES, access, kind, -1, 0);
  }
  fiber.index = {thread, 0, 0};
  fiber.done = false;
  fiber.groups.clear();
  fiber.open.clear();

  // As `switch_fibers` would have left it: six registers, and where to go on.
  void** top = (void**)(fiber.stack + STACK_BYTES - 64);
  *--top = nullptr;
  *--top = (void*)enter;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
}

// A thread has ended: whoever waited for it alone goes on.
void retire(Warp& warp) {
  warp.alive--;
  barrier.alive--;
  progress++;
  if (warp.alive && warp.arrived == warp.alive) release(warp);
  if (barrier.alive && barrier.arrived == barrier.alive) release(barrier);
}

void run_block(unsigned threads) {
  barrier = Barrier();
  barrier.alive = threads;
  warps.assign((threads + 31) / 32, Warp());
  for (unsigned thread = 0; thread < threads; thread++) {
    prepare(fibers[thread], thread);
    warps[thread / 32].alive++;
  }

  std::vector<unsigned> order(warps.size());
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  unsigned idle = 0;
  while (barrier.alive) {
    const uint64_t before = progress;
    std::shuffle(order.begin(), order.end(), chance);
    for (unsigned warp : order)
      for (unsigned thread = 32 * warp; thread < std::min(32 * warp + 32, threads); thread++) {
        current = &fibers[thread];
        if (current->done) continue;
        emulated_thread = &current->index;
        switch_fibers(&scheduler, current->stack_pointer);
        if (current->done) retire(warps[warp]);
      }
    idle = progress == before ? idle + 1 : 0;
    if (idle > PATIENCE) emulated_fault("no thread gets on: a barrier that not all come to?");
  }
}

}  // namespace

extern "C" {

Index* emulated_thread;
Index emulated_block, emulated_grid, emulated_threads;
alignas(1024) unsigned char emulated_shared[SHARED_BYTES];

void emulated_fault(const char* what) {
  const char* name = running ? running->kernel->name.c_str() : "none";
  const unsigned thread = emulated_thread ? emulated_thread->x : 0;
  fprintf(stderr, "emulated GPU: kernel %s, block %u,%u, thread %u: %s\n", name, emulated_block.x,
          emulated_block.y, thread, what);
  abort();
}

int emulated_vote(int x, Vote vote) {
  barrier.yes += x != 0;
  const uint64_t met = barrier.met;
  if (++barrier.arrived == barrier.alive) release(barrier);
  while (barrier.met == met) yield();
  if (vote == ALL) return barrier.result == barrier.of;
  return vote == ANY ? barrier.result > 0 : barrier.result;
}

void emulated_warp(void* mine, OfWarp all) {
  Warp& warp = warps[emulated_thread->x / 32];
  if (warp.arrived && warp.all != all) emulated_fault("lanes of a warp are at different places");
  warp.lanes[emulated_thread->x % 32] = mine;
  warp.all = all;
  const uint64_t met = warp.met;
  if (++warp.arrived == warp.alive) release(warp);
  while (warp.met == met) yield();
}

void emulated_copy(void* to, const void* from, int bytes) {
  const bool aligned = (uintptr_t)to % 16 == 0 && (bytes == 0 || (uintptr_t)from % 16 == 0);
  if (!aligned) emulated_fault("cp.async between addresses that are not aligned");
  current->open.push_back({to, from, bytes});
}

void emulated_commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

// As late as allowed: a copy that nobody waits for is not there.
void emulated_wait(int groups) {
  while (current->groups.size() > (size_t)groups) {
    perform(current->groups.front());
    current->groups.erase(current->groups.begin());
  }
}
}

void run_blocks(const Launch& launch) {
  running = &launch;
  if (launch.threads == 0 || launch.threads > MOST_THREADS) emulated_fault("threads of a block");
  if (launch.shared_bytes + FENCE_BYTES > SHARED_BYTES) emulated_fault("bytes of shared memory");
  if (fibers.size() < launch.threads) fibers.resize(launch.threads);
  emulated_grid = launch.grid;
  emulated_threads = {launch.threads, 1, 1};

  uint8_t* fence = emulated_shared + launch.shared_bytes;
  for (unsigned y = 0; y < launch.grid.y; y++)
    for (unsigned x = 0; x < launch.grid.x; x++) {
      emulated_block = {x, y, 0};
      // NaN in every type.
      memset(emulated_shared, 0xff, launch.shared_bytes + FENCE_BYTES);
      run_block(launch.threads);
      if (std::count(fence, fence + FENCE_BYTES, 0xff) != FENCE_BYTES)
        emulated_fault("wrote behind its dynamic shared memory");
    }
  emulated_thread = nullptr;
  running = nullptr;
}
