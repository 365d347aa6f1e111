// What heads need that draft from hidden states (device/drafts.rs): rows that are kept by page,
// rows beside each other, and logits of some tokens spread over all. Copies alone: each byte is
// read once and written once; at decode sizes they live on launch latency. Rows are copied 16 bytes
// a thread where widths are a multiple of 8 elements, else element by element.
#include "abi_drafts.h"
#include "common.cuh"

// By all threads of a block.
__device__ __forceinline__ void copy_row(const act* from, act* to, u32 width, bool whole) {
  if (whole) {
    typedef Eight<act> Chunk;
    for (u32 i = threadIdx.x; i < width / 8; i += blockDim.x)
      reinterpret_cast<Chunk*>(to)[i] = reinterpret_cast<const Chunk*>(from)[i];
  } else {
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
}

// A block per row.
__global__ void put_columns(const PutColumns a) {
  begin();
  const u32 row = blockIdx.x;
  act* to = a.out + (u64)row * a.out_width + a.first;
  if (a.blank_start && a.position[row] == 0) {
    for (u32 i = threadIdx.x; i < a.width; i += blockDim.x) to[i] = from_f32<act>(0.f);
    return;
  }
  const bool whole = a.width % 8 == 0 && a.out_width % 8 == 0 && a.first % 8 == 0;
  copy_row(a.x + (u64)row * a.width, to, a.width, whole);
}

// The number of the kept row of a slot's position.
__device__ __forceinline__ u32 number_of_kept(const SlotRows& slots, u32 slot, u32 at,
                                              u32 page_size) {
  return row_of(slots, slot)[slots.pages + at / page_size] * page_size + at % page_size;
}

// The kept row of a step's row; null for rows that only pad the step.
__device__ __forceinline__ act* kept_row(const HiddenRows& a) {
  const u32 row = a.row ? a.row[blockIdx.x] : blockIdx.x;
  const u32 slot = a.slot_of[row], at = a.position[row] + a.ahead;
  if (slot == NO_SLOT) return nullptr;
  return a.kept + (u64)number_of_kept(a.slots, slot, at, a.page_size) * a.width;
}

__global__ void store_hidden(const HiddenRows a) {
  begin();
  act* to = kept_row(a);
  if (to) copy_row(a.x + (u64)blockIdx.x * a.width, to, a.width, a.width % 8 == 0);
}

__global__ void load_hidden(const HiddenRows a) {
  begin();
  const act* from = kept_row(a);
  if (from) copy_row(from, a.x + (u64)blockIdx.x * a.width, a.width, a.width % 8 == 0);
}

// A launch of its own in front of a step: recorded steps read the word.
__global__ void begin_unread(const BeginUnread a) {
  begin();
  *a.at = a.row;
}

// A block per row; those that only pad the step have no place.
__global__ void put_unread(const PutUnread a) {
  begin();
  const u32 row = blockIdx.x, slot = a.slot_of[row];
  if (slot == NO_SLOT) return;
  const u32 to = *a.at + row;
  if (a.first == 0 && threadIdx.x == 0)
    a.kept[to] = number_of_kept(a.slots, slot, a.position[row], a.page_size);
  const bool whole = a.width % 8 == 0 && a.row_width % 8 == 0 && a.first % 8 == 0;
  copy_row(a.x + (u64)row * a.width, a.rows + (u64)to * a.row_width + a.first, a.width, whole);
}

__global__ void keep_unread(const KeepUnread a) {
  begin();
  const u32 row = blockIdx.x;
  copy_row(a.x + (u64)row * a.width, a.kept + (u64)a.of[row] * a.width, a.width,
           a.width % 8 == 0);
}

// An element for each thread, grid (rows, columns).
__global__ void spread_logits(const SpreadLogits a) {
  begin();
  const u32 token = blockIdx.y * blockDim.x + threadIdx.x;
  if (token >= a.vocab) return;
  const float place = a.places[token];
  a.logits[(u64)blockIdx.x * a.vocab + token] =
      place < 0.f ? -INFINITY : a.x[(u64)blockIdx.x * a.few + (u32)place];
}
