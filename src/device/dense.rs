//! Ops over token rows and logits rows one by one: lookup, norms, linears, the head.

use std::ops::Range;

use super::types::DeviceTypes;
use crate::error::Result;

/// The rule of a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormKind {
    /// x / sqrt(mean(x^2) + eps) * w
    Rms,
    /// x / sqrt(mean(x^2) + eps) * (1 + w)
    RmsPlusOne,
    /// (x - mean) / sqrt(var + eps) * w + b
    Layer,
}

/// A norm: its weights and rule.
pub struct Norm<W> {
    /// The rule.
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// As wide as a row, or as what is normed of it.
    pub weight: W,
    /// Of `Layer` alone.
    pub bias: Option<W>,
}

/// A sublayer between two seams, by its first linear and its last one.
pub struct Sublayer<'a, W> {
    /// It alone reads what the seam before it leaves in `normed`.
    pub first: &'a W,
    /// Nobody reads the residual before the seam behind it.
    pub last: &'a W,
}

impl<W> Clone for Sublayer<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Sublayer<'_, W> {}

/// Where a sublayer's output goes: to the residual, whose norm is what the next one reads. Tensors
/// are `[R, _]`, as wide as the residual.
pub struct Seam<'a, W, T> {
    /// Over the residual.
    pub norm: &'a Norm<W>,
    /// The output on its way; what it holds afterwards nobody may read.
    pub delta: &'a mut T,
    /// What the output is added to.
    pub residual: &'a mut T,
    /// The norm of the sum.
    pub normed: &'a mut T,
    /// Where a sublayer, and nothing but it, reads both: a device may leave there only what that
    /// takes up. None: anybody may read them.
    pub next: Option<Sublayer<'a, W>>,
}

/// Numbers of [`Activation::XIelu`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct XIelu {
    /// Of x^2, where x > 0.
    pub positive: f32,
    /// Of e^x - 1 - x elsewhere.
    pub negative: f32,
    /// Of x.
    pub linear: f32,
    /// The largest exponent, below 0.
    pub limit: f32,
}

/// What follows a linear.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// max(x, 0)^2
    ReluSquared,
    /// x * P(X <= x), X normal: the exact form.
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// x * sigmoid(1.702 x)
    QuickGelu,
    /// x * sigmoid(x)
    Silu,
    /// positive x^2 + linear x where x > 0, else negative (e^min(x, limit) - 1 - x) + linear x; not
    /// of experts.
    XIelu(XIelu),
    /// silu(gate) * up over a `GateUp` weight.
    SiluGated,
    /// gelu(gate) * up, in the exact form, over a `GateUp` weight.
    GeluGated,
    /// gelu(gate) * up, by tanh, over a `GateUp` weight.
    GeluTanhGated,
    /// gate * sigmoid(1.702 gate) * (up + 1), over a `GateUp` weight, of a gate of at most 7 and an
    /// up within -7..=7: GPT-OSS.
    SwigluOai,
}

impl Activation {
    /// The same without a gate.
    pub fn ungated(self) -> Activation {
        match self {
            Activation::SiluGated | Activation::SwigluOai => Activation::Silu,
            Activation::GeluTanhGated => Activation::GeluTanh,
            plain => plain,
        }
    }

    /// It halves the width.
    pub fn is_gated(self) -> bool {
        matches!(
            self,
            Activation::SiluGated
                | Activation::GeluGated
                | Activation::GeluTanhGated
                | Activation::SwigluOai
        )
    }
}

/// Which of a step's token rows have logits, as far as the order of ops depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsRows {
    /// Each: what `gather` would make is what it is made of.
    All,
    /// So many, so few of all that what they alone need is better made of them alone: gathered
    /// first, and then ops over these rows (`VisionOps::begin_rows`).
    Few(usize),
    /// Others: they are gathered for the head.
    Gathered,
}

/// Ops without attention over the current batch.
pub trait DenseOps: DeviceTypes {
    /// `out[r] = table[token(r)] * scale`; `[R, inputs of table]`.
    fn embed(&mut self, table: &Self::Weight, scale: f32, out: &mut Self::Tensor) -> Result<()>;

    /// `x[r] += table[position(r) + offset]`
    fn add_positions(
        &mut self,
        table: &Self::Weight,
        offset: usize,
        x: &mut Self::Tensor,
    ) -> Result<()>;

    /// out = norm(x), row by row.
    fn norm(
        &mut self,
        norm: &Norm<Self::Weight>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Norm parts of each row in place, each as wide as the norm's weight: those that fill these
    /// columns. RMS kinds only.
    fn norm_parts(
        &mut self,
        norm: &Norm<Self::Weight>,
        columns: Range<usize>,
        x: &mut Self::Tensor,
    ) -> Result<()>;

    /// residual += delta; out = norm(residual). The fused form of every layer's seam.
    fn add_norm(
        &mut self,
        norm: &Norm<Self::Weight>,
        delta: &Self::Tensor,
        residual: &mut Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// residual += delta. The seam of blocks that read the residual without a norm.
    fn add(&mut self, delta: &Self::Tensor, residual: &mut Self::Tensor) -> Result<()>;

    /// x = min(max(x, -limit), limit)
    fn clamp(&mut self, limit: f32, x: &mut Self::Tensor) -> Result<()>;

    /// x = factor * x
    fn scale(&mut self, factor: f32, x: &mut Self::Tensor) -> Result<()>;

    /// out = x W^T + b; `[R, inputs]` -> `[R, outputs]`.
    fn linear(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `linear` into the seam's delta, then its `add_norm`: the same numbers, but that a device may
    /// round the sum with the residual once, and leave anything in the delta. A device whose
    /// weights are shared out by ranks may make one of the sum over ranks and of what follows.
    fn linear_add_norm(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Tensor,
        seam: Seam<'_, Self::Weight, Self::Tensor>,
    ) -> Result<()> {
        self.linear(weight, bias, x, seam.delta)?;
        self.add_norm(seam.norm, seam.delta, seam.residual, seam.normed)
    }

    /// out = act(x W^T + b); a gated activation halves the width: `[R, outputs / 2]`.
    fn linear_act(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        act: Activation,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Of the step that was begun.
    fn logits_rows(&self) -> LogitsRows;

    /// `out[s] = x[token row of logits row s]`; `[S, width]`.
    fn gather(&mut self, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// `linear` over the S gathered rows (project_out before a head).
    fn linear_gathered(
        &mut self,
        weight: &Self::Weight,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// logits = x W^T, with an optional cap * tanh(l / cap); `[S, inputs]` -> f32 `[S, vocab]`.
    fn logits(
        &mut self,
        head: &Self::Weight,
        softcap: Option<f32>,
        x: &Self::Tensor,
        logits: &mut Self::Tensor,
    ) -> Result<()>;

    /// `logits[s] += bias`, after `logits`; the few models whose head has one.
    fn bias_logits(&mut self, bias: &Self::Weight, logits: &mut Self::Tensor) -> Result<()>;
}
