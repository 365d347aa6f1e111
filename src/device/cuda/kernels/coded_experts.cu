// Experts of codes on Hopper: the products of coded_wgmma.cu for the choices of one expert at a
// time, 16 or 64 of them in a tile, whose rows of x are gathered on the way. A block has 256
// outputs of an expert (128 gates with their ups) over all inputs. Floor: the codes of the experts
// that are met, once for each of their tiles, / bandwidth.
#include "coded_tile.cuh"

CODED_ENTRY(coded_experts_few_e4m3, CODE_KIND_E4M3, CODED_FEW_ROWS, true)
CODED_ENTRY(coded_experts_few_int8, CODE_KIND_INT8, CODED_FEW_ROWS, true)
CODED_ENTRY(coded_experts_few_int4, CODE_KIND_INT4, CODED_FEW_ROWS, true)
CODED_ENTRY(coded_experts_few_e2m1, CODE_KIND_E2M1, CODED_FEW_ROWS, true)
CODED_ENTRY(coded_experts_many_e4m3, CODE_KIND_E4M3, CODED_MANY_ROWS, true)
CODED_ENTRY(coded_experts_many_int8, CODE_KIND_INT8, CODED_MANY_ROWS, true)
CODED_ENTRY(coded_experts_many_int4, CODE_KIND_INT4, CODED_MANY_ROWS, true)
CODED_ENTRY(coded_experts_many_e2m1, CODE_KIND_E2M1, CODED_MANY_ROWS, true)
