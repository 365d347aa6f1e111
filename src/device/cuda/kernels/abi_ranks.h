// The parameters of what ranks of a model do together (ranks.cu, device/collective.rs), and how the
// memory lies through which they do it. abi.h says what holds for all of it.
//
// Each rank has a mailbox that all others write to. Of every other rank and of each block of the
// kernels it holds EXCHANGE_SLOTS places for a piece, how many pieces have arrived there, and how
// many of this rank's own pieces that one has taken; and of each block how many there were:
//
//   u8  pieces[ranks][EXCHANGE_BLOCKS][EXCHANGE_SLOTS][EXCHANGE_PIECE_BYTES]
//   u32 arrived[ranks][EXCHANGE_BLOCKS], taken[ranks][EXCHANGE_BLOCKS], sequence[EXCHANGE_BLOCKS]
//
// Counts go round; what counts is their difference.
#pragma once
#include "abi_ops.h"

constexpr u32 MOST_RANKS = 8;
constexpr u32 EXCHANGE_THREADS = 512;
constexpr u32 EXCHANGE_PIECE_BYTES = EXCHANGE_THREADS * 16;
// Pieces of a block that may be under way to a rank.
constexpr u32 EXCHANGE_SLOTS = 8;
// Blocks at most: all are on the card at once, beside whatever else runs there.
constexpr u32 EXCHANGE_BLOCKS = 64;

struct Ranks {
  DEVICE(u8) mailbox[MOST_RANKS];  // of each rank, this one among them
  // In the host's memory: not 0 where a rank is lost, and nobody is to wait any more.
  DEVICE(u32) stop;
  u32 rank, ranks;
};

// x = the sum of all ranks' x, in f32 and in the order of ranks.
struct SumRanks {
  Ranks all;
  DEVICE(void) x;  // [count], activations, or f32 of sum_ranks_f32; aligned to 16 bytes
  u64 count;
};

// whole = all ranks' parts side by side; columns behind the whole's end are dropped.
struct GatherRanks {
  Ranks all;
  DEVICE(const float) part;  // [rows, width], aligned to 16 bytes
  DEVICE(float) whole;  // [rows, all_width]
  u32 rows, width, all_width;
  u32 unused;
};
