// y = act(steps (x W^T) + b) for 9 to some hundred rows of x and a W of codes on Hopper: codes
// become the left operand of wgmma in registers (codes.cuh), x^T is the right one, out of shared
// memory. So W is read as codes and never lies anywhere as numbers. Scales multiply f32 sums of a
// group's products.
//
// A tile is 256 outputs x 16 or 64 rows of x: four warpgroups that share each stage of x, because
// x out of L2 is as many bytes as the codes are. Where tiles are fewer than multiprocessors, a
// cluster of blocks shares a tile's inputs.
//
// Floor: bytes of codes and scales / bandwidth. Clocks of a multiprocessor for 128 inputs of a
// tile, four bits, 64 rows: 860 for the codes at 4.4 TB/s, 1024 for the products, about 1300 for
// codes and x at L2's 5.5 TB/s, about 1000 for arithmetic.
#include "coded_tile.cuh"

CODED_ENTRY(coded_few_e4m3, CODE_KIND_E4M3, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_int8, CODE_KIND_INT8, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_int4, CODE_KIND_INT4, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_few_e2m1, CODE_KIND_E2M1, CODED_FEW_ROWS, false)
CODED_ENTRY(coded_many_e4m3, CODE_KIND_E4M3, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_int8, CODE_KIND_INT8, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_int4, CODE_KIND_INT4, CODED_MANY_ROWS, false)
CODED_ENTRY(coded_many_e2m1, CODE_KIND_E2M1, CODED_MANY_ROWS, false)
