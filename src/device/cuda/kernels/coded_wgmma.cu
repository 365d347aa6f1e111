// y = act(steps (x W^T) + b) for 9 to some hundred rows of x and a W of codes on Hopper: codes
// become the left operand of wgmma in registers (codes.cuh), x^T is the right one, out of shared
// memory. So W is read as codes and never lies anywhere as numbers. Scales
// multiply f32 sums of a group's products.
//
// A tile is 128 outputs x 16 or 64 rows of x; two warpgroups have 64 outputs each. The work, tiles
// x blocks of inputs, is cut into equal runs, one for each block of the grid, whatever the shape of
// W. A run's part of a tile goes to `partial`; the last of a tile's blocks adds the parts in their
// order, so that the same sums come out in every run. Codes and x come some stages ahead by
// cp.async, x into swizzled panels (warpgroup.cuh).
//
// Floor: bytes of codes and scales / bandwidth. Clocks of a multiprocessor for a block of 128
// inputs of four groups (two resident blocks), four bits, 64 rows: 860 for the bytes at 4.4 TB/s,
// 1024 for the products, so tensor cores and memory are both busy; x from L2 is as many bytes as
// the codes.
#include "coded_tile.cuh"

CODED_ENTRY(coded_few_e4m3, CODE_KIND_E4M3, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_int8, CODE_KIND_INT8, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_int4, CODE_KIND_INT4, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_e2m1, CODE_KIND_E2M1, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_many_e4m3, CODE_KIND_E4M3, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_int8, CODE_KIND_INT8, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_int4, CODE_KIND_INT4, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_e2m1, CODE_KIND_E2M1, CODED_MANY_ROWS, false)
