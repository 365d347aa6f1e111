// The parameters of what ranks of a model do together (ranks.cu, ranks_norm.cu,
// ranks_pushed.cu, ranks_rows.cu, device/collective.rs), and how the memory lies through which they do it. abi.h
// says what holds for all of it.
//
// Each rank has a mailbox that all others write to. Of every other rank and of each block of the
// kernels it holds EXCHANGE_SLOTS places for a piece and how many pieces have arrived, where that
// rank's tensors lie and how often the two have met; and of each block how many pieces and meetings
// of its own there were:
//
//   u8  pieces[ranks][EXCHANGE_BLOCKS][EXCHANGE_SLOTS][EXCHANGE_PIECE_BYTES]
//   u64 address[ranks][MEETING_BLOCKS][MEETING_PLACES]
//   u32 arrived[ranks][EXCHANGE_BLOCKS], sequence[EXCHANGE_BLOCKS]
//   u32 met[ranks][MEETING_BLOCKS], meetings[MEETING_BLOCKS]
//   u32 words[ranks][2][NORMED_COLUMNS], taken
//
// Counts go round; what counts is their difference.
//
// Words are of rows that products of a single row push as they make them: an output's 16 bits, and
// above them the low 16 bits of the row's number, so that who reads a word knows whether it is
// there. The n-th row has the places n % 2; `taken` is the number of the last row that the mailbox's
// rank has taken. All rows of a group have one width, so that a word has the number n - 2 until the
// n-th row comes. No word is overwritten that somebody still reads: a rank pushes row n behind its
// sum of row n - 1, for which all ranks had pushed that row, each behind its sum of row n - 2.
#pragma once
#include "abi_norms.h"

constexpr u32 EXCHANGE_THREADS = 512;
constexpr u32 EXCHANGE_PIECE_BYTES = EXCHANGE_THREADS * 16;
// Pieces of a block in one exchange at most; there is room for two exchanges.
constexpr u32 EXCHANGE_PIECES = 4;
constexpr u32 EXCHANGE_SLOTS = 2 * EXCHANGE_PIECES;
// Blocks at most: all are on the card at once, beside whatever else runs there.
constexpr u32 EXCHANGE_BLOCKS = 64;
// Blocks that meet at most, of a kernel that touches other ranks' memory; and tensors whose places
// they tell each other.
constexpr u32 MEETING_BLOCKS = 256;
constexpr u32 MEETING_PLACES = 5;

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
  u64 count;  // of sum_ranks and sum_ranks_f32, what EXCHANGE_PIECES of all blocks hold at most
};

// Columns of a row at most where a norm follows: threads of a block hold two times eight each.
constexpr u32 NORMED_COLUMNS = 2 * 8 * EXCHANGE_THREADS;

// x = the sum of all ranks' x, as of sum_ranks; then what add_norm does with it as delta, which is
// left as it was. RMS kinds, without a bias; the width a multiple of 8, NORMED_COLUMNS at most. A
// row takes one piece or more, of its own: no block has more rows than EXCHANGE_PIECES hold.
struct SumAddNorm {
  Ranks all;
  AddNorm norm;  // its delta is x
  u32 rows;
  // 1: the kernel behind may start while this one waits for other ranks (Member::leaves_ahead).
  u32 ahead;
};

// Threads of a block of sum_pushed_row, which have eight columns each; its blocks are one cluster.
constexpr u32 PUSHED_THREADS = 256;

// As SumAddNorm, of a single row of a half type that the products of all ranks push.
struct SumPushedRow {
  Ranks all;
  DEVICE(const u32) words;  // of this rank's mailbox
  DEVICE(u32) taken;        // of this rank's mailbox
  AddNorm norm;             // without delta
  u32 ahead;                // as of SumAddNorm
  u32 unused;
};

// As SumAddNorm, by sum_add_norm_rows: each rank makes a share of the rows alone, one behind the
// other, and gives all ranks of them what these want. A block has any number of rows.
struct SumAddNormRows {
  Ranks all;
  // Of the residual only this rank's rows are read. `out`, or `bytes` with `steps`, are null where
  // this rank wants none of them; `codes` are.
  AddNorm norm;
  u32 rows;
  u32 whole;  // 1: this rank wants all rows of the residual, else it has only its own.
};

// whole = all ranks' parts side by side; columns behind the whole's end are dropped. All of it, or
// of gather_ranks `vectors` times 16 bytes of the part from the `first` on, as many as
// EXCHANGE_PIECES of all blocks hold at most.
struct GatherRanks {
  Ranks all;
  DEVICE(const float) part;  // [rows, width], aligned to 16 bytes
  DEVICE(float) whole;  // [rows, all_width]
  u64 first, vectors;
  u32 rows, width, all_width;
  u32 unused;
};
