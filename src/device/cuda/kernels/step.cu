// The start of a step: fetch its input, apply the diff to the slot rows and spread the plan's rows
// into token rows.
//
// The step's input is one buffer of u32 words: records, changes, then the words that both point to.
// fetch_input reads it out of pinned memory, while the step before still runs, and writes it when
// that is done. (A copy engine would wait for the step before, and the step for the copy engine.)
//
// prepare has a block of 128 threads per row of the plan. It first applies the changes of its own
// slot (so one launch does both without a grid-wide wait: nobody else reads that row), then writes
// id, position, slot and adapter slot of its token rows. Slots with changes and no tokens have a
// record with count 0. Bytes: the input once, 28 per token row. It lives on launch latency, ~2 us.
#include "logits_order.cuh"

__global__ void fetch_input(const FetchInput a) {
  const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  u32 words[4] = {};
  // The host may have written there since anybody read it last.
  if (first < a.words)
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(a.from + first));
  begin();
  if (first < a.words)
    *reinterpret_cast<uint4*>(a.to + first) = make_uint4(words[0], words[1], words[2], words[3]);
}

__global__ void prepare(const PrepareStep a) {
  begin();
  // Rows that a decode step is padded with: in nobody's slot.
  if (blockIdx.x == 0) {
    for (u32 i = a.rows + threadIdx.x; i < a.padded_rows; i += blockDim.x) {
      a.token[i] = 0;
      a.position[i] = 0;
      a.places[3 * i] = a.places[3 * i + 1] = a.places[3 * i + 2] = 0;
      a.slot_of[i] = NO_SLOT;
      a.adapter_slot_of[i] = 0;
    }
    // Nobody reads their logits. A head that drafts keeps what it says behind a logits row
    // (drafts.cu): those of sequences repeat the last one, which is sampled from.
    for (u32 i = a.logits_rows + threadIdx.x; i < a.padded_logits_rows; i += blockDim.x)
      a.gather_row[i] = i < a.rows ? a.rows - 1 : i;
  }
  const StepRecord& record = reinterpret_cast<const StepRecord*>(a.input)[blockIdx.x];
  const u32 slot = record.slot, tokens = record.tokens, flags = record.flags;
  u32* row = row_of(a.slots, slot);
  SlotHeader* header = header_of(row);
  const RowChange* change = reinterpret_cast<const RowChange*>(a.input + record.changes);
  for (u32 c = 0; c < record.change_count; c++, change++) {
    const u32* from = a.input + change->from;
    u32* to = (change->far ? change->far : row) + change->to;
    for (u32 i = threadIdx.x; i < change->count; i += blockDim.x) to[i] = from[i];
  }
  __syncthreads();
  const u32 length = header->length, last = header->last_token, adapter = header->adapter;
  const u32 first = record.first_row;
  const u32* chunk = a.input + record.chunk;
  const u32* places = flags & HAS_PLACES ? a.input + record.places : nullptr;
  __syncthreads();
  for (u32 i = threadIdx.x; i < tokens; i += blockDim.x) {
    a.token[first + i] = flags & FEED_LAST ? last : chunk[i];
    a.position[first + i] = length + i;
    for (u32 axis = 0; axis < 3; axis++)
      a.places[3 * (first + i) + axis] = places ? places[3 * i + axis] : length + i;
    a.slot_of[first + i] = slot;
    a.adapter_slot_of[first + i] = adapter;
  }
  const u32 nth = record.first_logits_row;
  const LogitsRecord* logits = reinterpret_cast<const LogitsRecord*>(a.input + record.logits);
  for (u32 i = threadIdx.x; i < record.logits_count; i += blockDim.x) {
    a.gather_row[nth + i] = logits[i].row;
    a.sample_slot[nth + i] = slot;
    a.target[nth + i] = logits[i].target;
    a.drafts[nth + i] = logits[i].drafts;
  }
  if (threadIdx.x == 0 && tokens > 0) header->length = length + tokens;
}
