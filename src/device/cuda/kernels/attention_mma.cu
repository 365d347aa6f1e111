// Paged causal attention on tensor cores, for half types and head sizes 64, 80, 96, 128, 256. Any
// page size, window and soft cap; any mix of chunks and single rows, by a work list that the host
// lays into the step's input (worklist.rs). f32, and other head sizes, go to attention.cu.
//
// The q heads of a KV head are packed into the rows of a tile: packed row r of a sequence is token
// r / group, head r % group, so K and V are read once per group. Warps multiply by mma m16n8k16
// over tiles of 64 keys (K and V, padded rows: no bank conflicts for ldmatrix), which come by
// cp.async into a ring of stages; one barrier a tile. Where a key lies is looked up one tile ahead
// of its copy, by one thread a key, so that no copy waits for the page table. S stays in registers
// and is repacked as the operand of P V.
//
//   chunk  eight warps x 16 packed rows, all 64 keys each: 128 rows share a tile of keys. Prompts.
//   split  16 packed rows, four warps, each 16 of the 64 keys, merged in shared memory: single
//          tokens. The host deals all their keys to as many blocks as the card holds at once; a
//          block walks over its items, and the last to finish some rows joins their parts.
//
// Shared memory: a stage is 2 x 64 x (dim + 8) x 2 bytes, 34 KiB at 128. split has two stages, so
// that three blocks fit a Hopper SM and their tiles in flight (100 KiB) cover the latency of HBM;
// chunk has three where they fit. Bytes: split reads K and V once per KV head (the floor), chunk
// once per 128 packed rows from L2. FLOPs: 4 x rows x keys x dim, half of it masked away in the
// diagonal tiles. Bound of chunk: each warp reads all of a tile from shared memory, 2048 clocks per
// 128 x 64 x 128 tile at 128 bytes a clock. On Hopper attention_prefill_sm90.cu has the chunks of
// head sizes 64, 128 and 256, whose operands need no such reads, and attention_ring_sm90.cu the
// single tokens, whose tiles come without addresses of 16 bytes each.
#include "attention_tile.cuh"

// f32 has no code here: the device never launches these for it.
#if ACT != 0
// Pages of the activations' type.
template <int D>
struct ActPages : OperandTile<D> {
  static constexpr int PIECES = D / 8;
  static constexpr float UNIT = 1.f;
  static constexpr bool OWN_SCALE = false;
};

#define CHUNK(D)                                                                     \
  begin();                                                                           \
  const WorkItem* item = call.items + blockIdx.x;                                    \
  Tile<ActPages<D>, D, 8, 1> t;                                                      \
  t.template run<false>(call, item, item->count, call.stages,                        \
                        shared_address(dynamic_shared));                             \
  t.write(call, item, call.value_scale)
#define SPLIT(D) split<ActPages<D>, D>(call)
#else
#define CHUNK(D) (void)call
#define SPLIT(D) (void)call
#endif

#define HEAD_SIZE(D, CHUNK, BLOCKS)        \
  ENTRY(chunk, CHUNK, D, CHUNK_THREADS, 1) \
  ENTRY(split, SPLIT, D, SPLIT_THREADS, BLOCKS)

HEAD_SIZE(64, CHUNK_OF_MMA, 3)
HEAD_SIZE(80, CHUNK, 3)
HEAD_SIZE(96, CHUNK, 3)
HEAD_SIZE(128, CHUNK_OF_MMA, 3)
HEAD_SIZE(256, CHUNK_OF_MMA, 1)
