// The parameters of kernels for heads that draft from hidden states (drafts.cu). abi.h says what
// holds for all of it.
#pragma once
#include "abi_ops.h"

constexpr u32 DRAFT_THREADS = 128;

// out[r, first ..] = x[r]
struct PutColumns {
  DEVICE(const act) x;  // [rows, width]
  DEVICE(const u32) position;  // [rows]
  DEVICE(act) out;  // [rows, out_width]
  u32 width, out_width, first;
  u32 blank_start;  // Rows at position 0 are zeros.
};

// Rows of a step and those that are kept by page: store_hidden copies to the kept ones, load_hidden
// from them.
struct HiddenRows {
  DEVICE(act) x;  // [rows, width]
  DEVICE(act) kept;  // [pages * page_size, width]
  DEVICE(const u32) row;  // [rows], the token row that each stands for; null: itself
  DEVICE(const u32) position;  // [token rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  u32 width, page_size;
  u32 ahead;  // Positions behind the token row's.
  u32 unused;
};

// *at = row
struct BeginUnread {
  DEVICE(u32) at;
  u32 row, unused;
};

// rows[*at + r, first ..] = x[r], and kept[*at + r] = the kept row of r's position if first is 0.
struct PutUnread {
  DEVICE(const act) x;  // [rows, width]
  DEVICE(act) rows;  // [_, row_width]
  DEVICE(u32) kept;
  DEVICE(const u32) at;
  DEVICE(const u32) position;  // [rows]
  DEVICE(const u32) slot_of;
  SlotRows slots;
  u32 width, row_width, first, page_size;
};

// kept[of[r]] = x[r]
struct KeepUnread {
  DEVICE(const act) x;  // [rows, width]
  DEVICE(const u32) of;  // [rows]
  DEVICE(act) kept;  // [_, width]
  u32 width, unused;
};

// logits[s, t] = x[s, places[t]], or -inf
struct SpreadLogits {
  DEVICE(const float) x;  // [rows, few]
  DEVICE(const float) places;  // [vocab], below 0: none
  DEVICE(float) logits;  // [rows, vocab]
  u32 few, vocab;
};
