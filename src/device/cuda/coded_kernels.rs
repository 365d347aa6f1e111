//! Which kernel multiplies by which codes. The products of codes and their experts ask it; it knows
//! no weight.

use super::abi::{self, CodeKind, CodedFewExperts, CodedSmall, CodedTiles};
use super::context::Context;
use super::gemm_small_m;
use super::launch::Kernel;
use super::module::Kernels;
use super::shares::Shares;
use crate::device::{CodeType, DType, WeightDesc};
use crate::error::Result;

/// Compute capabilities: E4M3 in tensor cores; wgmma.
pub const E4M3_PRODUCTS: u32 = 89;
pub const WGMMA: u32 = 90;

/// The kernels take the shared memory that they need; how many clusters of those of tiles the card
/// holds.
pub fn prepare(context: &Context, k: &Kernels) -> Result<Shares> {
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1] {
        for wide in [false, true] {
            if let Some(kernel) = few(k, kind, wide) {
                kernel.allow_shared(abi::FEW_SHARED_BYTES as usize)?;
            }
        }
    }

    if !gemm_small_m::copies_in_bulk(context, k) {
        return Ok(Shares::default());
    }
    let shared = abi::CODED_SMALL_SHARED_BYTES as usize;
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1, CodeKind::Table] {
        small(k, kind).allow_shared(shared)?;
    }
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1] {
        for first in [true, false] {
            if let Some(kernel) = small_experts(k, kind, first) {
                kernel.allow_shared(shared)?;
            }
        }
    }
    for kernel in [
        &k.coded_small_e4m3_bytes,
        &k.coded_small_e4m3_bytes_pushed,
        &k.coded_small_e4m3_row,
        &k.coded_small_e4m3_row_pushed,
        &k.coded_small_e4m3_normed,
    ] {
        kernel.allow_shared(shared)?;
    }
    if context.capability != WGMMA {
        return Ok(Shares::default());
    }
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1] {
        for rows in [1, abi::CODED_MANY_ROWS as usize] {
            for kernel in [wgmma(k, kind, rows), experts(k, kind, rows)].into_iter().flatten() {
                kernel.kernel.allow_shared(kernel.shared)?;
            }
        }
    }
    let many = tiled(&k.coded_many_int4, false);
    Shares::of(|blocks| many.kernel.resident_clusters(blocks, abi::CODED_THREADS, many.shared))
}

/// The kernel for a few rows.
pub fn small(k: &Kernels, kind: CodeKind) -> &Kernel<CodedSmall> {
    match kind {
        CodeKind::E4m3 => &k.coded_small_e4m3,
        CodeKind::Int8 => &k.coded_small_int8,
        CodeKind::Int4 => &k.coded_small_int4,
        CodeKind::E2m1 => &k.coded_small_e2m1,
        CodeKind::Table => &k.coded_small_table,
    }
}

/// The kernel for experts of a few rows: their first product, or the second one; none for tables.
pub fn small_experts(k: &Kernels, kind: CodeKind, first: bool) -> Option<&Kernel<CodedSmall>> {
    Some(match (kind, first) {
        (CodeKind::E4m3, true) => &k.coded_up_e4m3,
        (CodeKind::Int8, true) => &k.coded_up_int8,
        (CodeKind::Int4, true) => &k.coded_up_int4,
        (CodeKind::E2m1, true) => &k.coded_up_e2m1,
        (CodeKind::E4m3, false) => &k.coded_down_e4m3,
        (CodeKind::Int8, false) => &k.coded_down_int8,
        (CodeKind::Int4, false) => &k.coded_down_int4,
        (CodeKind::E2m1, false) => &k.coded_down_e2m1,
        (CodeKind::Table, _) => return None,
    })
}

/// A kernel of tiles.
#[derive(Clone, Copy)]
pub struct Tiled<'a> {
    /// The kernel itself.
    pub kernel: &'a Kernel<CodedTiles>,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Rows of x of a tile.
    pub columns: usize,
}

/// A kernel with its tiles: of a few rows, or of many.
pub fn tiled(kernel: &Kernel<CodedTiles>, few: bool) -> Tiled<'_> {
    let (shared, columns) = if few {
        (abi::CODED_FEW_SHARED_BYTES, abi::CODED_FEW_ROWS)
    } else {
        (abi::CODED_MANY_SHARED_BYTES, abi::CODED_MANY_ROWS)
    };
    Tiled { kernel, shared: shared as usize, columns: columns as usize }
}

/// The kernel for so many rows; none for tables.
pub fn wgmma(k: &Kernels, kind: CodeKind, rows: usize) -> Option<Tiled<'_>> {
    let few = rows <= abi::CODED_FEW_ROWS as usize;
    let kernel = match (kind, few) {
        (CodeKind::E4m3, true) => &k.coded_few_e4m3,
        (CodeKind::Int8, true) => &k.coded_few_int8,
        (CodeKind::Int4, true) => &k.coded_few_int4,
        (CodeKind::E2m1, true) => &k.coded_few_e2m1,
        (CodeKind::E4m3, false) => &k.coded_many_e4m3,
        (CodeKind::Int8, false) => &k.coded_many_int8,
        (CodeKind::Int4, false) => &k.coded_many_int4,
        (CodeKind::E2m1, false) => &k.coded_many_e2m1,
        (CodeKind::Table, _) => return None,
    };
    Some(tiled(kernel, few))
}

/// The same of experts, by the choices of a tile.
pub fn experts(k: &Kernels, kind: CodeKind, choices: usize) -> Option<Tiled<'_>> {
    let few = choices <= abi::CODED_FEW_ROWS as usize;
    let kernel = match (kind, few) {
        (CodeKind::E4m3, true) => &k.coded_experts_few_e4m3,
        (CodeKind::Int8, true) => &k.coded_experts_few_int8,
        (CodeKind::Int4, true) => &k.coded_experts_few_int4,
        (CodeKind::E2m1, true) => &k.coded_experts_few_e2m1,
        (CodeKind::E4m3, false) => &k.coded_experts_many_e4m3,
        (CodeKind::Int8, false) => &k.coded_experts_many_int8,
        (CodeKind::Int4, false) => &k.coded_experts_many_int4,
        (CodeKind::E2m1, false) => &k.coded_experts_many_e2m1,
        (CodeKind::Table, _) => return None,
    };
    Some(tiled(kernel, few))
}

/// The kernel for few choices of each expert, by the rows of a step; none for tables.
pub fn few(k: &Kernels, kind: CodeKind, wide: bool) -> Option<&Kernel<CodedFewExperts>> {
    Some(match (kind, wide) {
        (CodeKind::E4m3, false) => &k.coded_few_8_e4m3,
        (CodeKind::Int8, false) => &k.coded_few_8_int8,
        (CodeKind::Int4, false) => &k.coded_few_8_int4,
        (CodeKind::E2m1, false) => &k.coded_few_8_e2m1,
        (CodeKind::E4m3, true) => &k.coded_few_16_e4m3,
        (CodeKind::Int8, true) => &k.coded_few_16_int8,
        (CodeKind::Int4, true) => &k.coded_few_16_int4,
        (CodeKind::E2m1, true) => &k.coded_few_16_e2m1,
        (CodeKind::Table, _) => return None,
    })
}

/// Whether there are kernels for experts of codes: those for few choices of each are of any card,
/// and take many where there is no wgmma.
pub fn has_experts(act: DType) -> bool {
    act != DType::F32
}

/// Whether experts may be held as codes of this form.
pub fn takes_experts(act: DType, desc: &WeightDesc<'_>) -> bool {
    let table = matches!(desc.quant.map(|form| form.codes), Some(CodeType::Table(_)));
    has_experts(act) && desc.inputs.is_multiple_of(8) && !table
}
