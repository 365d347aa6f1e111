//! Layers that keep a state of fixed size of each sequence: a short convolution, and a matrix for
//! each head, which the gated delta rule or a selective scan (Mamba 2 and 1) moves on. `engine`
//! reserves states with the slots and says by `SlotChange`s which copies of them to keep and to go
//! on from; `model::decoder` calls the ops. Nothing here knows pages.
//!
//! A slot's state belongs to the sequence that has the slot, and each op moves its own part of it
//! on by the step's rows of that sequence, in their order. At position 0 it is zeros, whatever the
//! slot held before; behind cached tokens it is what `RestoreState` put there.
//!
//! It cannot be computed backwards, so what may have to be taken back is kept: of a chunk of at
//! most `DeviceLimits::spares` + 1 rows, as those with drafts are, the state behind each row but
//! the last lies in a spare of the slot. `Truncate` makes the spare behind the last row that stays
//! the slot's state. Ops write spares whether the rows are drafts or not, so that nothing but the
//! rows decides what a step launches; of longer chunks they may write some or none.
//!
//! The other ways were worse: to run the accepted tokens once more takes a pass of the whole model,
//! and to keep a step's inputs of the recurrences and catch up in the next step makes each op two.
//! A copy behind a rejected draft costs its bytes twice, some ten microseconds of a step, and
//! states are found where they always are.

use super::types::DeviceTypes;
use super::Norm;
use crate::error::Result;
use crate::ids::{SlotId, SnapshotId};

/// What layers keep of a sequence, by shape: `[layer]` of a matrix for each head in f32, and of the
/// convolution's last inputs in the type of activations. Without layers there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateShape {
    /// Layers that keep a state.
    pub layers: usize,
    /// Inputs of the convolution that the next token needs: its taps less one.
    pub tail_rows: usize,
    /// Elements of an input.
    pub tail_width: usize,
    /// Matrices of a layer; 0: there is only a convolution.
    pub heads: usize,
    /// Rows of a matrix: elements of a value.
    pub rows: usize,
    /// Elements of a row: of a key.
    pub columns: usize,
}

impl StateShape {
    /// What parts of a state are aligned to, in bytes.
    pub const ALIGNMENT: u64 = 128;

    /// Bytes of a layer's matrices.
    pub fn matrix_bytes(&self) -> u64 {
        aligned(&[self.heads, self.rows, self.columns, size_of::<f32>()])
    }

    /// Bytes of a layer's last inputs of the convolution, where an element has so many.
    pub fn tail_bytes(&self, element: usize) -> u64 {
        aligned(&[self.tail_rows, self.tail_width, element])
    }

    /// Bytes of a sequence's state.
    pub fn bytes(&self, element: usize) -> u64 {
        let layer = self.matrix_bytes().saturating_add(self.tail_bytes(element));
        layer.saturating_mul(self.layers as u64)
    }
}

/// Spares of a slot at most: with one row more a chunk is short enough for ops that go token by
/// token on all devices.
pub const SPARES_MAX: usize = 62;

/// Where a state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePlace {
    /// A slot's own.
    Slot(SlotId),
    /// Behind this row of the slot's newest chunk.
    Spare(SlotId, usize),
    /// A copy for others to go on from.
    Snapshot(SnapshotId),
}

/// A state that is copied in front of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateCopy {
    /// What is copied.
    pub from: StatePlace,
    /// What is overwritten.
    pub to: StatePlace,
}

fn aligned(factors: &[usize]) -> u64 {
    let bytes = factors.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64));
    bytes.checked_next_multiple_of(StateShape::ALIGNMENT).unwrap_or(u64::MAX)
}

/// A convolution over the newest rows of a sequence, each channel by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSpec {
    /// Rows that it sees, the token's own included.
    pub taps: usize,
    /// Channels: the first columns of its input.
    pub width: usize,
    /// Its result passes through x * sigmoid(x).
    pub silu: bool,
}

/// Shape of the gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaSpec {
    /// Heads of q and k.
    pub key_heads: usize,
    /// Heads of v, each with a matrix; a multiple of `key_heads`. Those that follow each other
    /// share a key head.
    pub value_heads: usize,
    /// Elements of a head of q or k.
    pub key_dim: usize,
    /// Elements of a head of v.
    pub value_dim: usize,
}

impl DeltaSpec {
    /// Columns of q, k and v side by side.
    pub fn mixed_width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_width()
    }

    /// Columns of v.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }
}

/// What the gated delta rule has learned, an element for each value head.
pub struct DeltaWeights<'w, W> {
    /// ln of the rate of decay.
    pub log_decay: &'w W,
    /// Added to a token's share of the rate.
    pub rate_bias: &'w W,
}

/// Shape of the selective scan of Mamba 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanSpec {
    /// Heads, each with a matrix and a rate of decay.
    pub heads: usize,
    /// Elements of a head of x: rows of its matrix.
    pub head_dim: usize,
    /// Groups of heads that follow each other and share B and C; `heads` is a multiple.
    pub groups: usize,
    /// Elements of B and of C: columns of a matrix.
    pub state: usize,
}

impl ScanSpec {
    /// Columns of x, of all heads.
    pub fn inner_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of B, or of C.
    pub fn group_width(&self) -> usize {
        self.groups * self.state
    }

    /// Columns of x, B and C side by side.
    pub fn mixed_width(&self) -> usize {
        self.inner_width() + 2 * self.group_width()
    }
}

/// What a selective scan has learned, an element for each head.
pub struct ScanWeights<'w, W> {
    /// ln of the rate of decay.
    pub log_decay: &'w W,
    /// Added to a token's step.
    pub rate_bias: &'w W,
    /// What of x goes to the output past the matrix.
    pub skip: &'w W,
}

/// Shape of the selective scan of Mamba 1: each channel has a row of numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelScanSpec {
    /// Channels of x.
    pub width: usize,
    /// Elements of B and of C, and of a channel's row.
    pub state: usize,
}

/// What a gate multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x * sigmoid(x)
    Silu,
    /// sigmoid(x)
    Sigmoid,
}

/// Which of a norm and a gate comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateOrder {
    /// norm(x) * gate(z)
    NormFirst,
    /// norm(x * gate(z))
    GateFirst,
}

/// How a norm and a gate are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedNorm {
    /// What the gate multiplies by.
    pub gate: Gate,
    /// The gate's first column.
    pub first: usize,
    /// Columns of each part of a row that is normed by itself. The norm has a weight for each
    /// column of a part, the same for all parts, or one for each column of a row.
    pub part: usize,
    /// Which comes first.
    pub order: GateOrder,
}

/// Some columns of a tensor, from one on.
pub struct Columns<'t, T> {
    /// Of `[R, _]`.
    pub tensor: &'t T,
    /// The first column.
    pub first: usize,
}

/// Ops of layers with a state, over the current batch. `layer` counts these layers alone.
pub trait StateOps: DeviceTypes {
    /// `out[r, c] = act(bias[c] + sum of weight[c, k] * x(r - (taps - 1) + k, c))` over k in order,
    /// in f32, x(s) being row s of r's sequence: of this step, of steps before it, or zeros before
    /// position 0. `weight` is a vector of `[width, taps]`; x has `width` columns or more, out
    /// `width`.
    fn short_convolution(
        &mut self,
        layer: usize,
        spec: &ConvSpec,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r, c] = a[r, a.first + c] * b[r, b.first + c]`, for all columns of out. What a
    /// convolution without an activation is gated by, in front of it and behind.
    fn multiply(
        &mut self,
        a: Columns<'_, Self::Tensor>,
        b: Columns<'_, Self::Tensor>,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The gated delta rule (Yang et al., "Gated Delta Networks", 2024) in f32, token by token, of
    /// each value head: with q and k of length 1 (of x: `x / sqrt(sum x^2 + 1e-6)`), q times
    /// `key_dim^-0.5`,
    ///
    /// - `beta = sigmoid(b)`, `g = exp(-exp(log_decay) * softplus(a + rate_bias))`
    /// - `S = g S`, `S += beta (v - S k) k^T`, `out[r] = S q`
    ///
    /// `mixed`: `[R, mixed_width]`, q|k|v; `rates`: `[R, 2 value_heads]`, b|a; out:
    /// `[R, value_width]`.
    fn delta_rule(
        &mut self,
        layer: usize,
        spec: &DeltaSpec,
        weights: DeltaWeights<'_, Self::Weight>,
        mixed: &Self::Tensor,
        rates: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The selective scan of Mamba 2 (Dao and Gu, "Transformers are SSMs", 2024) in f32, token by
    /// token, of each head, with the B and C of its group:
    ///
    /// - `step = softplus(rate + rate_bias)`, `keep = exp(-exp(log_decay) * step)`
    /// - `S = keep S + step x B^T`, `out[r] = S C + skip x`
    ///
    /// `mixed`: `[R, mixed_width]`, x|B|C; `rates`: `heads` columns; out: `[R, inner_width]`.
    fn selective_scan(
        &mut self,
        layer: usize,
        spec: &ScanSpec,
        weights: ScanWeights<'_, Self::Weight>,
        mixed: &Self::Tensor,
        rates: Columns<'_, Self::Tensor>,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The selective scan of Mamba 1 (Gu and Dao, "Mamba", 2023) in f32, token by token, of each
    /// channel:
    ///
    /// - `step = softplus(rate + rate_bias)`, `keep[n] = exp(-exp(log_decay[n]) * step)`
    /// - `s[n] = keep[n] s[n] + step x B[n]`, `out[r] = sum of s[n] C[n] + skip x`
    ///
    /// `weights`: `[width, state]`, `[width]`, `[width]`. `x` and `rates`: `[R, width]`; `bc`:
    /// `[R, 2 state]`, B|C; out: `[R, width]`. States are one matrix of a row for each channel.
    #[allow(clippy::too_many_arguments)]
    fn channel_scan(
        &mut self,
        layer: usize,
        spec: &ChannelScanSpec,
        weights: ScanWeights<'_, Self::Weight>,
        x: &Self::Tensor,
        rates: &Self::Tensor,
        bc: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `x[r]` through a norm and a gate of `z[r]`, in the order of `spec`; without a norm
    /// `x[r] = x[r] * gate(z[r])`. RMS kinds only. `z` has as many columns from `spec.first` on as
    /// x. A norm whose weight has `Join::Sum` is over all ranks' columns, in one part.
    fn norm_gated(
        &mut self,
        spec: &GatedNorm,
        norm: Option<&Norm<Self::Weight>>,
        z: &Self::Tensor,
        x: &mut Self::Tensor,
    ) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_nothing_overflows() {
        let shape =
            StateShape { layers: 3, tail_rows: 3, tail_width: 10, heads: 2, rows: 4, columns: 5 };
        assert_eq!((shape.matrix_bytes(), shape.tail_bytes(2)), (256, 128));
        assert_eq!((shape.bytes(2), StateShape::default().bytes(4)), (3 * 384, 0));
        let huge = StateShape { heads: usize::MAX, rows: 1 << 60, ..shape };
        assert_eq!(huge.bytes(4), u64::MAX);
    }
}
