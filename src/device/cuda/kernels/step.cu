// The start of a step: apply the diff to the slot rows and spread the plan's rows into token rows.
//
// One block per row of the plan, 256 threads. The step's input is one buffer of u32 words, copied
// from pinned memory in one piece: records, changes, then the words that both point to. A block
// first applies the changes of its own slot (so one launch does both without a grid-wide wait:
// nobody else reads that row), then writes id, position, slot and adapter slot of its token rows.
// Slots with changes and no tokens have a record with count 0. Bytes: the input once, 16 per token
// row. It lives on launch latency, ~2 us.
#include "logits_order.cuh"

// Words of a record.
enum {
  REC_SLOT,
  REC_TOKENS,
  REC_FLAGS,
  REC_CHUNK,
  REC_FIRST,
  REC_FIRST_LOGITS,
  REC_CHANGE,
  REC_CHANGES,
  REC_LOGITS_COUNT,
  REC_LOGITS,
  REC_WORDS
};
// Flag of a record: its token is the slot's last one.
enum { FEED_LAST = 1 };
// A logits row: its token row, and the token to report on or TO_SAMPLE.
enum { LOGITS_ROW, LOGITS_TARGET, LOGITS_WORDS };
// A change copies `count` words from the input to word `to` of the slot's row, or of the memory at
// another address.
enum { CHANGE_TO, CHANGE_FROM, CHANGE_COUNT, CHANGE_LOW, CHANGE_HIGH, CHANGE_WORDS };

extern "C" __global__ void prepare(const u32* input, u32* rows, u64 stride, u32* token,
                                   u32* position, u32* slot_of, u32* adapter_slot_of, u32* gather_row,
                                   u32* sample_slot, u32* target, u32 count, u32 padded) {
  begin();
  // Rows that a decode step is padded with: in nobody's slot.
  if (blockIdx.x == 0) {
    for (u32 i = count + threadIdx.x; i < padded; i += blockDim.x) {
      token[i] = 0;
      position[i] = 0;
      slot_of[i] = NO_SLOT;
      adapter_slot_of[i] = 0;
      gather_row[i] = i;
    }
  }
  const u32* record = input + blockIdx.x * REC_WORDS;
  const u32 slot = record[REC_SLOT], tokens = record[REC_TOKENS], flags = record[REC_FLAGS];
  u32* row = rows + slot * stride;
  const u32* change = input + record[REC_CHANGE];
  for (u32 c = 0; c < record[REC_CHANGES]; c++, change += CHANGE_WORDS) {
    const u32* from = input + change[CHANGE_FROM];
    const u64 far = change[CHANGE_LOW] | (u64)change[CHANGE_HIGH] << 32;
    u32* to = (far ? reinterpret_cast<u32*>(far) : row) + change[CHANGE_TO];
    for (u32 i = threadIdx.x; i < change[CHANGE_COUNT]; i += blockDim.x) to[i] = from[i];
  }
  __syncthreads();
  const u32 length = row[SLOT_LENGTH], last = row[SLOT_LAST], adapter = row[SLOT_ADAPTER];
  const u32 first = record[REC_FIRST];
  const u32* chunk = input + record[REC_CHUNK];
  __syncthreads();
  for (u32 i = threadIdx.x; i < tokens; i += blockDim.x) {
    token[first + i] = flags & FEED_LAST ? last : chunk[i];
    position[first + i] = length + i;
    slot_of[first + i] = slot;
    adapter_slot_of[first + i] = adapter;
  }
  const u32 count_logits = record[REC_LOGITS_COUNT], nth = record[REC_FIRST_LOGITS];
  const u32* logits = input + record[REC_LOGITS];
  for (u32 i = threadIdx.x; i < count_logits; i += blockDim.x) {
    gather_row[nth + i] = logits[i * LOGITS_WORDS + LOGITS_ROW];
    sample_slot[nth + i] = slot;
    target[nth + i] = logits[i * LOGITS_WORDS + LOGITS_TARGET];
  }
  if (threadIdx.x == 0 && tokens > 0) row[SLOT_LENGTH] = length + tokens;
}
