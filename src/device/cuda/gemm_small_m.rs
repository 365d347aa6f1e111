//! Which products go to the kernels of kernels/gemm_small_m.cu, and their launch: few rows of a
//! half type, where streaming the weights is all there is to do. `Cuda`'s linear ops ask it first;
//! it knows no weight's name.

use super::abi::{self, Activation, CodedEnd, SmallGemm};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::module::Kernels;
use crate::device::DType;
use crate::error::Result;

/// Compute capability that has bulk copies.
const OLDEST_CAPABILITY: u32 = 90;
/// Shared memory of a block of kernels with a ring of them, at most. Cards of compute capability
/// 12.0 have less.
const MOST_SHARED_BYTES: usize = {
    let (plain, coded) = (abi::SMALL_M_SHARED_BYTES, abi::CODED_SMALL_SHARED_BYTES);
    (if plain > coded { plain } else { coded }) as usize
};
const SHARED_BYTES: usize = abi::SMALL_M_SHARED_BYTES as usize;

/// What a product ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Activations `[rows, outputs]`.
    Act(Activation),
    /// Activations `[rows, outputs / 2]`: act(gate) * up.
    Gated(Activation),
    /// f32 `[rows, outputs]`.
    Logits,
}

impl End {
    /// As kernels by tiles and of codes are told.
    pub(super) fn told(self) -> (CodedEnd, Activation) {
        match self {
            End::Act(kind) => (CodedEnd::Act, kind),
            End::Gated(kind) => (CodedEnd::Gated, kind),
            End::Logits => (CodedEnd::Logits, Activation::None),
        }
    }
}

/// One product. Addresses are of device memory; `bias` is f32, or null.
#[derive(Debug, Clone, Copy)]
pub struct SmallProduct {
    pub rows: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub x: DevicePtr,
    pub w: DevicePtr,
    pub bias: DevicePtr,
    pub end: End,
    pub to: Goes,
    /// x is first normed.
    pub norm: Option<NormOfRow>,
    /// Of [`End::Logits`], or null: where each block leaves the best of its part of a row, for
    /// `draw_rows`; [`parts`] of each row.
    pub best: DevicePtr,
}

/// Where a product's outputs go.
#[derive(Debug, Clone, Copy)]
pub enum Goes {
    /// To a tensor of their own, as the product's end says.
    To(DevicePtr),
    /// They are added to what is there, `[rows, outputs]`. Of [`End::Act`] alone.
    Onto(DevicePtr),
    /// Those of a single row, to all ranks. Of [`End::Act`] alone.
    Push(abi::RowPush),
}

impl Goes {
    /// As kernels are told: y, what is added to, and where is pushed; nulls but for one.
    pub(super) fn told(self) -> (DevicePtr, DevicePtr, abi::RowPush) {
        let none = abi::RowPush {
            to: [DevicePtr::NULL; abi::MOST_RANKS as usize],
            taken: DevicePtr::NULL,
            ranks: 0,
            unused: 0,
        };
        match self {
            Goes::To(y) => (y, DevicePtr::NULL, none),
            Goes::Onto(residual) => (DevicePtr::NULL, residual, none),
            Goes::Push(push) => (DevicePtr::NULL, DevicePtr::NULL, push),
        }
    }
}

/// An RMS norm without a bias, of the single row that a product reads.
#[derive(Debug, Clone, Copy)]
pub struct NormOfRow {
    /// f32 `[inputs]`
    pub weight: DevicePtr,
    /// Where the normed row goes too.
    pub out: DevicePtr,
    pub eps: f32,
    pub kind: abi::NormKind,
}

/// A norm as kernels are told: its weight, where the normed row goes, epsilon and kind. Nulls
/// without one.
pub(super) fn told(norm: Option<NormOfRow>) -> (DevicePtr, DevicePtr, f32, abi::NormKind) {
    match norm {
        Some(norm) => (norm.weight, norm.out, norm.eps, norm.kind),
        None => (DevicePtr::NULL, DevicePtr::NULL, 0.0, abi::NormKind::Rms),
    }
}

/// Stages of the ring; a normed row of so many inputs is held beside them.
pub fn stages(normed_inputs: usize) -> usize {
    let stage = abi::SMALL_M_STAGE_BYTES as usize + 2 * 8;
    let room = SHARED_BYTES - abi::SMALL_M_SUMS_BYTES as usize - normed_inputs * 2;
    (room / stage).min(abi::SMALL_M_STAGES as usize)
}

/// Whether what a product that [`takes`] accepts reads may be normed by it: of one row that is
/// faster than by a launch, of several it is slower.
pub fn norms(rows: usize, inputs: usize) -> bool {
    rows == 1 && inputs <= abi::SMALL_M_NORMED_INPUTS as usize
}

/// Whether kernels with rings of bulk copies run: by the compute capability of the machine code, 0
/// of PTX (which is that of an older card and has none of them), and a block's shared memory.
fn rings_run(code: u32, shared_bytes: usize) -> bool {
    code >= OLDEST_CAPABILITY && shared_bytes >= MOST_SHARED_BYTES
}

/// The same of this card.
pub fn copies_in_bulk(context: &Context, k: &Kernels) -> bool {
    rings_run(k.gemm_small_m.capability(), context.shared_bytes)
}

/// Whether a product of this size is ours.
pub fn takes(context: &Context, k: &Kernels, dtype: DType, rows: usize, inputs: usize) -> bool {
    copies_in_bulk(context, k)
        && dtype != DType::F32
        && (1..=abi::SMALL_M_ROWS as usize).contains(&rows)
        && inputs.is_multiple_of(8)
}

/// The kernels take the shared memory that they need.
pub fn prepare(context: &Context, k: &Kernels) -> Result<()> {
    if !copies_in_bulk(context, k) {
        return Ok(());
    }
    let kernels = [
        &k.gemm_small_m,
        &k.gemm_small_m_eights,
        &k.gemm_small_m_gated,
        &k.gemm_small_m_logits,
        &k.gemm_small_m_pushed,
        &k.gemm_small_m_pushed_eights,
        &k.experts_small_up,
        &k.experts_small_up_gated,
        &k.experts_small_down,
        &k.experts_small_down_eights,
    ];
    kernels.iter().try_for_each(|kernel| kernel.allow_shared(SHARED_BYTES))?;
    k.route_small.allow_shared(SHARED_BYTES)
}

/// Blocks at most.
pub fn most_blocks(context: &Context) -> usize {
    (abi::SMALL_M_BLOCKS_PER_MULTIPROCESSOR * context.multiprocessors) as usize
}

/// Parts of a row of `vocab` logits, each of which a block makes.
pub fn parts(context: &Context, vocab: usize) -> usize {
    vocab.div_ceil(abi::SMALL_M_TILE as usize).min(most_blocks(context))
}

/// Parts of all rows of a product of logits at most.
pub fn most_parts(context: &Context) -> usize {
    abi::SMALL_M_ROWS as usize * most_blocks(context)
}

/// Enqueue a product that [`takes`] accepts.
pub fn run(context: &Context, kernels: &Kernels, product: &SmallProduct) -> Result<()> {
    const EIGHTS: u32 = abi::SMALL_M_EIGHTS_TILE;
    let most = most_blocks(context);
    let few = product.outputs.div_ceil(EIGHTS as usize) <= most;
    let (kernel, outputs, tile, kind) = match product.end {
        End::Act(kind) => {
            let (tile, kernel) = match (few, product.to) {
                (true, Goes::Push(_)) => (EIGHTS, &kernels.gemm_small_m_pushed_eights),
                (true, _) => (EIGHTS, &kernels.gemm_small_m_eights),
                (false, Goes::Push(_)) => (abi::SMALL_M_TILE, &kernels.gemm_small_m_pushed),
                (false, _) => (abi::SMALL_M_TILE, &kernels.gemm_small_m),
            };
            (kernel, product.outputs, tile, kind)
        }
        End::Gated(kind) => {
            (&kernels.gemm_small_m_gated, product.outputs / 2, abi::SMALL_M_GATED_TILE, kind)
        }
        End::Logits => {
            (&kernels.gemm_small_m_logits, product.outputs, abi::SMALL_M_TILE, Activation::None)
        }
    };

    let blocks = [outputs.div_ceil(tile as usize).min(most), 1];
    let (norm_weight, normed, eps, norm_kind) = told(product.norm);
    let stages = stages(product.norm.map_or(0, |_| product.inputs));
    let (y, residual, push) = product.to.told();
    let parameters = SmallGemm {
        x: product.x,
        w: product.w,
        bias: product.bias,
        y,
        residual,
        norm_weight,
        normed,
        best: product.best,
        eps,
        norm_kind,
        stages: stages as u32,
        rows: product.rows as u32,
        outputs: product.outputs as u32,
        inputs: product.inputs as u32,
        kind,
        push,
        ..plain()
    };
    kernel.launch_shared(context, blocks, abi::SMALL_M_THREADS, SHARED_BYTES, &parameters)
}

/// What a product of no sizes yet is described by: no norm, no residual, nobody is pushed to.
pub(super) fn plain() -> SmallGemm {
    let (y, residual, push) = Goes::To(DevicePtr::NULL).told();
    let (norm_weight, normed, eps, norm_kind) = told(None);
    SmallGemm {
        x: DevicePtr::NULL,
        w: DevicePtr::NULL,
        bias: DevicePtr::NULL,
        y,
        residual,
        norm_weight,
        normed,
        best: DevicePtr::NULL,
        eps,
        norm_kind,
        stages: stages(0) as u32,
        rows: 0,
        outputs: 0,
        inputs: 0,
        kind: Activation::None,
        choices: 0,
        push,
        routes: DevicePtr::NULL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_run_where_code_and_room_are() {
        // Shared memory of a block, by the CUDA programming guide: 9.0 and 10.0 227 KiB, 8.9 and
        // 12.0 99 KiB. A card newer than all machine code of a build has PTX.
        let (large, small) = (227 * 1024, 99 * 1024);
        assert!(rings_run(90, large) && rings_run(100, large));
        assert!(!rings_run(120, small) && !rings_run(89, small) && !rings_run(80, 163 * 1024));
        assert!(!rings_run(0, large));
    }
}
