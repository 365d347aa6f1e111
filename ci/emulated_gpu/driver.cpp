// The functions of libcuda that src/device/cuda uses, for a GPU that is emulated: device memory is
// host memory between guard pages, all work is done when it is enqueued, a graph is a list of what
// was recorded. Kernels come from the libraries that build.py made, in the folder of this one.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <unordered_map>

#include "driver.h"

namespace {

const uint64_t MEMORY_BYTES = 48ull << 30;
const size_t PAGE_BYTES = 4096, ALIGNMENT = 256;
// New memory up to this size is filled with NaN; beyond it is zero until it is touched.
const size_t MOST_FILLED_BYTES = 8 << 20;
const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_BINARY = 209, NOT_FOUND = 500;

struct Allocation {
  size_t bytes;
  uint8_t* mapping;
  size_t mapped_bytes;
};

std::map<uint64_t, Allocation> allocations;
uint64_t taken_bytes;

size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

[[noreturn]] void fault(const char* what, uint64_t address, size_t bytes) {
  fprintf(stderr, "emulated GPU: %s: %zu bytes at %#llx\n", what, bytes,
          (unsigned long long)address);
  abort();
}

// The host's copies reach into one allocation.
void check_within(uint64_t address, size_t bytes) {
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) fault("no memory of the GPU", address, bytes);
  const auto& [begin, allocation] = *--next;
  const bool within = address + bytes <= begin + allocation.bytes;
  if (!within) fault("beyond the end of an allocation", address, bytes);
}

void* memory_at(uint64_t address, size_t bytes) {
  check_within(address, bytes);
  return (void*)address;
}

// Of a binary's ELF file, whose sections or program headers are the last in it.
size_t bytes_of(const uint8_t* image) {
  uint64_t programs, sections;
  uint16_t program_bytes, program_count, section_bytes, section_count;
  memcpy(&programs, image + 32, 8);
  memcpy(&sections, image + 40, 8);
  memcpy(&program_bytes, image + 54, 2);
  memcpy(&program_count, image + 56, 2);
  memcpy(&section_bytes, image + 58, 2);
  memcpy(&section_count, image + 60, 2);
  const uint64_t behind_programs = programs + program_bytes * program_count;
  const uint64_t behind_sections = sections + section_bytes * section_count;
  return std::max(behind_programs, behind_sections);
}

// FNV-1a, as in build.py.
uint64_t hash_of(const uint8_t* bytes, size_t count) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < count; i++) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

// The folder of this library, with a slash.
std::string folder() {
  Dl_info info;
  dladdr((void*)&hash_of, &info);
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

// Library by hash of the binary that it stands for.
std::unordered_map<uint64_t, std::string> read_index() {
  std::unordered_map<uint64_t, std::string> index;
  std::ifstream file(folder() + "index");
  std::string hash, name;
  while (file >> hash >> name) index[strtoull(hash.c_str(), nullptr, 16)] = name;
  return index;
}

}  // namespace

std::recursive_mutex lock;

void enqueue(Stream* stream, std::function<void()> work) {
  const Locked locked(lock);
  if (stream && stream->recording) stream->recording->push_back(std::move(work));
  else work();
}

extern "C" {

// ---- The device ----

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) {
  *version = 0;
  return 0;
}
int cuGetErrorName(int, const char** text) {
  *text = "EMULATED";
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = "refused by the emulated GPU";
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int room, int) {
  snprintf(name, room, "emulated GPU");
  return 0;
}
// By CUdevice_attribute: compute capability 8.0, a few multiprocessors (grids are smaller then),
// an A100's shared memory of a block.
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const std::map<int, int> values = {{75, 8}, {76, 0}, {16, 8}, {97, 163 << 10}};
  const auto found = values.find(attribute);
  if (found == values.end()) return INVALID_VALUE;
  *value = found->second;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = (void*)(intptr_t)(device + 1);
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxEnablePeerAccess(void*, unsigned) { return 0; }
int cuDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return 0;
}

// ---- Memory ----

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  const Locked locked(lock);
  *total = MEMORY_BYTES;
  *free = MEMORY_BYTES - taken_bytes;
  return 0;
}

int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  const Locked locked(lock);
  if (bytes == 0) return INVALID_VALUE;
  if (taken_bytes + bytes > MEMORY_BYTES) return OUT_OF_MEMORY;
  const size_t used_bytes = round_up(round_up(bytes, ALIGNMENT), PAGE_BYTES);
  const size_t mapped_bytes = used_bytes + 2 * PAGE_BYTES;
  const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* mapping = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
  if (mapping == MAP_FAILED) return OUT_OF_MEMORY;

  // As near to the guard behind it as the alignment of allocations allows.
  uint8_t* begin = (uint8_t*)mapping;
  uint8_t* guard = begin + mapped_bytes - PAGE_BYTES;
  mprotect(begin, PAGE_BYTES, PROT_NONE);
  mprotect(guard, PAGE_BYTES, PROT_NONE);
  uint8_t* place = guard - round_up(bytes, ALIGNMENT);
  if (bytes <= MOST_FILLED_BYTES) memset(place, 0xff, bytes);

  *address = (uint64_t)place;
  allocations[*address] = {bytes, begin, mapped_bytes};
  taken_bytes += bytes;
  return 0;
}

int cuMemFree_v2(uint64_t address) {
  const Locked locked(lock);
  const auto found = allocations.find(address);
  if (found == allocations.end()) fault("freed, but not allocated", address, 0);
  munmap(found->second.mapping, found->second.mapped_bytes);
  taken_bytes -= found->second.bytes;
  allocations.erase(found);
  return 0;
}

int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
  *place = aligned_alloc(PAGE_BYTES, round_up(bytes, PAGE_BYTES));
  return *place ? 0 : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* place) {
  free(place);
  return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
  enqueue(stream, [=] { memcpy(memory_at(to, bytes), from, bytes); });
  return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
  enqueue(stream, [=] { memcpy(to, memory_at(from, bytes), bytes); });
  return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
  enqueue(stream, [=] { memmove(memory_at(to, bytes), memory_at(from, bytes), bytes); });
  return 0;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
  enqueue(stream, [=] { memset(memory_at(to, bytes), value, bytes); });
  return 0;
}

// ---- Streams, graphs, events: nothing is ever under way ----

int cuStreamCreate(Stream** stream, unsigned) {
  *stream = new Stream();
  return 0;
}
int cuStreamDestroy_v2(Stream* stream) {
  delete stream;
  return 0;
}
int cuStreamSynchronize(Stream*) {
  const Locked locked(lock);
  return 0;
}
int cuStreamBeginCapture_v2(Stream* stream, int) {
  stream->recording = new Graph();
  return 0;
}
int cuStreamEndCapture(Stream* stream, Graph** graph) {
  *graph = stream->recording;
  stream->recording = nullptr;
  return 0;
}
int cuGraphInstantiateWithFlags(Graph** executable, const Graph* graph, uint64_t) {
  *executable = new Graph(*graph);
  return 0;
}
int cuGraphDestroy(Graph* graph) {
  delete graph;
  return 0;
}
int cuGraphExecDestroy(Graph* graph) {
  delete graph;
  return 0;
}
int cuGraphLaunch(const Graph* graph, Stream* stream) {
  enqueue(stream, [=] {
    for (const auto& work : *graph) work();
  });
  return 0;
}
int cuEventCreate(void** event, unsigned) {
  *event = malloc(1);
  return 0;
}
int cuEventDestroy_v2(void* event) {
  free(event);
  return 0;
}
int cuEventRecord(void*, Stream*) { return 0; }
int cuStreamWaitEvent(Stream*, void*, unsigned) { return 0; }
int cuEventSynchronize(void*) {
  const Locked locked(lock);
  return 0;
}
int cuEventElapsedTime(float* ms, void*, void*) {
  *ms = 0.01f;
  return 0;
}

// ---- Kernels ----

int cuModuleLoadData(void** module, const uint8_t* image) {
  static const auto index = read_index();
  const size_t bytes = bytes_of(image);
  const auto found = index.find(hash_of(image, bytes));
  if (found == index.end()) {
    fprintf(stderr, "emulated GPU: a binary of %zu bytes that ci/emulate did not see\n", bytes);
    return NO_BINARY;
  }
  *module = dlopen((folder() + found->second).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!*module) fprintf(stderr, "emulated GPU: %s\n", dlerror());
  return *module ? 0 : NO_BINARY;
}
int cuModuleUnload(void* module) {
  dlclose(module);
  return 0;
}
int cuModuleGetFunction(Kernel** kernel, void* module, const char* name) {
  const auto call = (void (*)(const void*))dlsym(module, (std::string("call") + name).c_str());
  const auto bytes = (const size_t*)dlsym(module, (std::string("bytes") + name).c_str());
  if (!call || !bytes) return NOT_FOUND;
  // Kept for good: a graph may hold it, and there are few.
  *kernel = new Kernel{name, call, *bytes};
  return 0;
}
int cuFuncSetAttribute(Kernel*, int, int) { return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 2;
  return 0;
}
int cuOccupancyMaxActiveClusters(int* clusters, Kernel*, const void*) {
  *clusters = 1;
  return 0;
}
// For compute capability 9.0 and later.
int cuTensorMapEncodeTiled() { return INVALID_VALUE; }

// CUlaunchConfig.
struct Configuration {
  Index grid, block;
  unsigned shared_bytes;
  Stream* stream;
  void* attributes;
  unsigned attribute_count;
};
int cuLaunchKernelEx(const Configuration* configuration, const Kernel* kernel, void** parameters,
                     void**) {
  // In words of the strictest alignment that a parameter has.
  struct alignas(64) Word {
    uint8_t bytes[64];
  };
  std::vector<Word> words(round_up(kernel->parameter_bytes, sizeof(Word)) / sizeof(Word));
  memcpy((void*)words.data(), parameters[0], kernel->parameter_bytes);
  const Index grid = configuration->grid;
  const unsigned threads = configuration->block.x;
  const size_t shared_bytes = configuration->shared_bytes;
  enqueue(configuration->stream, [=] {
    run_blocks({kernel, grid, threads, shared_bytes, words.data()});
  });
  return 0;
}
}
