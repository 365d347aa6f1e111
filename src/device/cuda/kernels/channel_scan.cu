// The selective scan of Mamba 1, token by token in f32; a row's bits depend on its sequence alone,
// so that chunks and company change none.
//
// A thread has a channel: its row of numbers and their rates of decay lie in registers while it
// walks through the sequence's rows of the step. B and C of a token are the same for all threads of
// a block. Bytes of a decode step: 2 x 4 x width x state a sequence, and the rates of decay once.
// Grid (sequences, blocks of channels); in recorded steps (token rows, ...).
#include "state_rows.cuh"

template <int STATE>
__device__ __forceinline__ void run(const ChannelScan& a, u32 row, u32 slot, u32 channel) {
  float* const entry = reinterpret_cast<float*>(a.matrices + slot * a.slot_bytes);
  float* const own = entry + (u64)channel * a.state;
  const float* const log_decay = a.log_decay + (u64)channel * a.state;
  const bool begins = a.position[row] == 0;
  float s[STATE], decay[STATE];
#pragma unroll
  for (u32 n = 0; n < STATE; n++) {
    decay[n] = n < a.state ? expf(log_decay[n]) : 0.f;
    s[n] = n < a.state && !begins ? own[n] : 0.f;
  }

  const float rate_bias = a.rate_bias[channel], skip = a.skip[channel];
  // The row as it is now, to the sequence's entry or to the one behind it by so many.
  const auto store = [&](u32 behind) {
    float* const there = own + behind * (a.entry_bytes / sizeof(float));
#pragma unroll
    for (u32 n = 0; n < STATE; n++)
      if (n < a.state) there[n] = s[n];
  };
  for (u32 nth = 0;; nth++, row++) {
    const u64 at = (u64)row * a.width + channel;
    const act* const b = a.bc + (u64)row * 2 * a.state;
    const float x = to_f32(a.x[at]), step = softplus(to_f32(a.rates[at]) + rate_bias);
    const float taken = step * x;
    float y = 0.f;
#pragma unroll
    for (u32 n = 0; n < STATE; n++) {
      if (n >= a.state) continue;
      s[n] = expf(-decay[n] * step) * s[n] + taken * to_f32(b[n]);
      y += s[n] * to_f32(b[a.state + n]);
    }
    a.out[at] = from_f32<act>(y + skip * x);
    if (row + 1 >= a.rows || a.slot_of[row + 1] != slot) break;
    if (nth < a.spares) store(1 + nth);
  }
  store(0);
}

template <int STATE>
__device__ __forceinline__ void scan(const ChannelScan& a) {
  const u32 row = a.records ? a.records[blockIdx.x].first_row : blockIdx.x;
  const u32 slot = a.slot_of[row], channel = blockIdx.y * CHANNEL_SCAN_THREADS + threadIdx.x;
  if (channel >= a.width) return;
  if (slot == NO_SLOT) {
    // Rows that only pad the batch hold numbers.
    a.out[(u64)row * a.width + channel] = from_f32<act>(0.f);
    return;
  }
  if (!a.records && row > 0 && a.slot_of[row - 1] == slot) return;
  run<STATE>(a, row, slot, channel);
}

#define ENTRY(STATE)                                             \
  __global__ void __launch_bounds__(CHANNEL_SCAN_THREADS)        \
      channel_scan_##STATE(const ChannelScan a) {                \
    begin();                                                     \
    scan<STATE>(a);                                              \
  }
ENTRY(16)
ENTRY(64)
