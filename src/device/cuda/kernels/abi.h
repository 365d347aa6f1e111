// What host and kernels share. Here: slot rows, the records of a step's input, the sampler and
// logprobs, and where ranks push a row. The kernels of ops have theirs in abi_ops.h.
//
// Each kernel takes one struct from here, by value. Its symbol carries the struct's name
// (src/device/cuda/module.rs), so that a host that passes another struct finds no kernel. No kernel
// takes it as `__grid_constant__` but those that need its address (tensor maps, tables): with that
// NVRTC 12.9 no longer knows that all threads have the same parameters, and leaves checks of them
// (kind, bias, window, soft cap) inside of loops.
//
// src/device/cuda/abi.rs is what bindgen makes of both files for the host; tests/tidy holds it to
// that (`TRITON_VLLM_WRITE_BINDINGS=1 cargo test --release --test tidy bindings` writes it). Only
// integers of fixed size, floats, enums over u32 and device pointers stand here. Structs have no
// padding within them: pointers and u64 come first, at multiples of 8 bytes. Unless said otherwise
// pointers are to arrays, in C order, and none is null.
#pragma once

#ifdef __CUDACC_RTC__
#define DEVICE(T) T*
#else
// As bindgen reads it, without any header: pointers are addresses that the host does not follow.
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
#define u16 uint16_t
#define u32 uint32_t
#define u64 uint64_t
struct DevicePtr {
  u64 address;
};
#define DEVICE(T) DevicePtr
#endif

// ---- Slots ----

// The slot of a token row that only pads the batch: nothing may be read or written for it beyond
// its own row.
constexpr u32 NO_SLOT = ~0u;
// Instead of a mask's number or length: there is none.
constexpr u32 NO_MASK = ~0u;

// What was seen of a logits row: NaN or +inf; something above -inf.
constexpr u32 SEEN_WILD = 1;
constexpr u32 SEEN_ABOVE = 2;

// The start of a slot's row. Behind it lie room for the sampler's lists, the page table, and the
// counts: entries of a token and how often it was sampled (0 = it is in the prompt only).
struct SlotHeader {
  u32 length;  // Positions that are in pages.
  u32 last_token;  // The newest token, which the next step may feed.
  u32 outputs;  // Tokens that were sampled.
  u32 count_entries;  // Entries of the counts.
  float temperature;
  u32 top_k;  // 0 = all.
  float top_p;
  float ln_min_p;  // -inf = none.
  float repetition_penalty, frequency_penalty, presence_penalty;
  u32 seed_low, seed_high;
  u32 min_tokens;  // Below so many outputs the first list is masked.
  // The lists lie one behind the other. First the tokens that min_tokens masks: so many.
  u32 masked;
  u32 needs_counts;  // Whether the counts are kept.
  DEVICE(u32) lists;  // The lists where the row has no room for them; null: in the row.
  u32 biases;  // Biases: token and f32.
  // Bad words: where the tokens of each begin in the lists, how many they are; the tokens follow
  // the ring.
  u32 bad_words;
  u32 tail;  // The ring of newest outputs, between biases and bad words: output n is at n % tail.
  // The mask of allowed tokens: its words, or NO_MASK, and where it begins in the lists.
  u32 allowed_words;
  u32 allowed_at;
  u32 adapter;  // 1 + the slot of its adapter, 0 = none.
  u32 ahead;  // Tokens before the one that is chosen, beyond the slot's positions.
  u32 unused[7];
};
static_assert(sizeof(SlotHeader) == 32 * 4, "a row begins with 32 words");

// All slot rows, and where the parts of a row lie, in words.
struct SlotRows {
  DEVICE(u32) rows;
  u64 stride;  // Words of a row, a multiple of 32.
  u32 lists, pages, counts;
  u32 counts_capacity;  // Entries of two words.
};

// ---- A step's input (step.cu) ----

// Flag of a record: its token is the one that the slot sampled last.
constexpr u32 FEED_LAST = 1;
// And: its tokens have places beside positions.
constexpr u32 HAS_PLACES = 2;
// The target of a logits row that is sampled from; another value is the token to report on.
constexpr u32 TO_SAMPLE = ~0u;
// The sampled id of a row that is not finite.
constexpr u32 NOT_FINITE = ~0u;

// A sequence of the step, or a slot that only changes. Places in the input count words from its
// start.
struct StepRecord {
  u32 slot;
  u32 tokens;  // Token rows; 0: there are only changes.
  u32 flags;  // FEED_LAST, HAS_PLACES.
  u32 chunk;  // Where its tokens lie in the input, unless FEED_LAST.
  u32 first_row;  // Its first token row.
  u32 first_logits_row;
  u32 changes;  // Where its changes lie in the input.
  u32 change_count;
  u32 logits_count;  // Its logits rows.
  u32 logits;  // Where these lie in the input.
  u32 places;  // Where three numbers of each token lie, if it has places.
  u32 unused;
};
static_assert(sizeof(StepRecord) == 12 * 4, "records lie one behind the other");

// Drafts of a sequence in a step at most.
constexpr u32 MAX_DRAFTS = 64;

// Where a logits row stands among the drafts of its sequence; both 0: there are none.
struct RowDrafts {
  u32 before;  // Drafts up to its token row, which all lie in front of it.
  u32 behind;  // Drafts behind it.
};
static_assert(sizeof(RowDrafts) == 2 * 4, "they lie one behind the other");

// A logits row of a sequence.
struct LogitsRecord {
  u32 row;  // Its token row.
  u32 target;  // The token to report on, or TO_SAMPLE.
  RowDrafts drafts;
};
static_assert(sizeof(LogitsRecord) == 4 * 4, "logits rows lie one behind the other");

// `count` words from word `from` of the input to word `to` of the slot's row, or of the memory at
// `far`.
struct RowChange {
  DEVICE(u32) far;  // Null: the row.
  u32 to, from, count, unused;
};
static_assert(sizeof(RowChange) == 6 * 4, "changes lie one behind the other");

// `words` u32 from pinned memory of the host; both places begin at 16 bytes and have room for a
// multiple of four words.
struct FetchInput {
  DEVICE(const u32) from;
  DEVICE(u32) to;
  u32 words;
  u32 unused;
};

struct PrepareStep {
  DEVICE(const u32) input;  // Records, a block each; changes; then the words that both point to.
  SlotRows slots;
  DEVICE(u32) token;  // Of each token row.
  DEVICE(u32) position;
  DEVICE(u32) places;  // [rows, 3], what turns go by (RopeStore): a position, where there are none
  DEVICE(u32) slot_of;
  DEVICE(u32) adapter_slot_of;  // 1 + the adapter slot, 0 = none.
  DEVICE(u32) gather_row;  // Of each logits row: its token row, its slot, its target, its drafts.
  DEVICE(u32) sample_slot;
  DEVICE(u32) target;
  DEVICE(RowDrafts) drafts;
  u32 rows;  // Token rows, and those with padding.
  u32 padded_rows;
  u32 logits_rows;  // Logits rows, and those with padding.
  u32 padded_logits_rows;
};

// ---- The sampler (sampler.cu) ----

constexpr u32 ADJUST_THREADS = 512;
constexpr u32 SCAN_THREADS = 512;
constexpr u32 DRAW_THREADS = 1024;

struct MaskRows {
  DEVICE(float) logits;  // [rows, vocab]
  DEVICE(const u32) mask_of;  // [rows], or NO_MASK: only rows that are sampled from have one
  DEVICE(const u32) masks;  // [masks, mask_words]
  DEVICE(u32) seen;  // [rows], what was seen of a row (SEEN_*); 0 between steps
  u32 vocab;
  u32 length;  // Logits of a part of a row.
  u32 mask_words;
  u32 unused;
};

struct AdjustRows {
  DEVICE(float) logits;  // [rows, vocab]
  DEVICE(const u32) sample_slot;  // [rows]
  DEVICE(const u32) target;
  DEVICE(const u32) gather_row;
  DEVICE(const RowDrafts) drafts;
  DEVICE(const u32) token;  // [token rows]
  DEVICE(u32) seen;  // [rows]
  SlotRows slots;
  u32 vocab;
  u32 unused;
};

struct ScanRows {
  DEVICE(float) logits;  // [rows, vocab]
  DEVICE(const u32) sample_slot;  // [rows]
  DEVICE(const u32) target;
  DEVICE(const RowDrafts) drafts;
  DEVICE(u32) seen;  // [rows]
  SlotRows slots;
  DEVICE(u64) best;  // [rows, parts, 2]
  u32 vocab;
  u32 length;  // Logits of a part of a row, a multiple of 128.
};

struct DrawRows {
  DEVICE(const float) logits;  // [rows, vocab]
  DEVICE(const u32) sample_slot;  // [rows]
  DEVICE(const u32) target;
  DEVICE(const RowDrafts) drafts;
  DEVICE(u32) seen;  // [rows]
  SlotRows slots;
  DEVICE(const u64) best;  // [rows, parts, 2]
  DEVICE(u32) out;  // [rows], sampled ids or NOT_FINITE
  u32 vocab, parts;
  // `best` is of the product that made the logits: beside a part's largest stands what was seen of
  // it, and there is no noise. All rows are greedy.
  u32 of_product;
  u32 unused;
};

struct AcceptDrafts {
  DEVICE(const u32) sample_slot;  // [rows]
  DEVICE(const u32) gather_row;
  DEVICE(const RowDrafts) drafts;
  DEVICE(const u32) token;  // [token rows]
  DEVICE(const u32) out;  // [rows], sampled ids or NOT_FINITE
  SlotRows slots;
};

// ---- Logprobs (logprobs.cu) ----

constexpr u32 REPORT_THREADS = 256;
// Others that an answer lists at most where they are the largest.
constexpr u32 REPORT_MAX_TOP = 64;
// No kept copy, no list of tokens, no answer.
constexpr u32 NOT_ASKED = ~0u;

// What a logits row reports.
struct LogprobRequest {
  u32 row;
  u32 kept;  // The kept copy that stands for the row, or NOT_ASKED: the row itself.
  u32 count;  // How many others it lists.
  // Where their tokens begin, in words from the first request, or NOT_ASKED: the largest.
  u32 tokens;
  // Where the answer goes, in words of the answers, or NOT_ASKED: the host wants the whole row.
  u32 answer;
};
static_assert(sizeof(LogprobRequest) == 5 * 4, "requests lie one behind the other");

// The start of an answer; the others follow.
struct LogprobAnswer {
  float logprob;
  // 0: the row is not finite. Not said of kept rows, which the sampler judges and of which masks
  // may have left nothing.
  u32 rank;
};
static_assert(sizeof(LogprobAnswer) == 2 * 4, "answers are words");

struct TokenLogprob {
  u32 token;
  float logprob;
};
static_assert(sizeof(TokenLogprob) == 2 * 4, "answers are words");

// What report_parts finds in a part of a row.
struct ReportPiece {
  float peak;
  float sum;  // Of exp(logit - peak).
  u32 not_below;  // Logits that are not below the token's.
  u32 seen;  // SEEN_*
  u64 top[REPORT_MAX_TOP];  // The largest in order, with their tokens (logits_order.cuh).
};

struct KeepRows {
  DEVICE(const float) logits;  // [rows, vocab]
  DEVICE(float) kept;  // [requests, vocab]
  DEVICE(const LogprobRequest) requests;
  u32 vocab;
  u32 length;  // Logits of a part of a row.
};

struct ReportParts {
  DEVICE(const float) logits;  // [rows, vocab]
  DEVICE(const float) kept;  // [requests, vocab]
  DEVICE(const LogprobRequest) requests;
  DEVICE(const u32) target;  // [rows]
  DEVICE(const u32) sampled;  // [rows], sampled ids
  DEVICE(ReportPiece) pieces;  // [requests, parts]
  u32 vocab;
  u32 length;  // Logits of a part of a row.
};

struct ReportRows {
  DEVICE(const float) logits;  // As in ReportParts.
  DEVICE(const float) kept;
  DEVICE(const LogprobRequest) requests;
  DEVICE(const u32) target;
  DEVICE(const u32) sampled;
  DEVICE(const ReportPiece) pieces;
  DEVICE(u32) answers;  // Words.
  u32 vocab, parts;
};

// ---- Ranks ----

// Ranks that share a model, at most.
constexpr u32 MOST_RANKS = 8;

// Where the product of a single row puts its outputs for all ranks, each as it is done (row_push.cuh,
// abi_ranks.h).
struct RowPush {
  DEVICE(u32) to[MOST_RANKS];  // this rank's words in each rank's mailbox
  DEVICE(const u32) taken;     // the number of the last row that this rank took
  u32 ranks;
  u32 unused;
};
