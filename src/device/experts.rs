//! A mixture of experts: rows choose experts, each expert multiplies the rows that chose it, each
//! row adds up what its experts gave.

use super::types::DeviceTypes;
use super::{Activation, DenseOps, Seam};
use crate::error::Result;

/// What a router's products become before experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteScore {
    /// Shares of a softmax over all experts.
    Softmax,
    /// 1 / (1 + e^-x), each by itself.
    Sigmoid,
    /// The weight of a choice is its share of a softmax over the experts that are left and come
    /// near to it: those whose x lies at most [`SPARSE_MIXER_SPAN`] * max(|x|, best) below the
    /// best.
    SparseMixer,
    /// The same, of experts that are chosen by their products. Without groups and biases.
    SigmoidOfChosen,
}

/// Twice the jitter of Phi-3.5-MoE.
pub const SPARSE_MIXER_SPAN: f32 = 0.02;

/// Experts in groups of neighbours, of which a row meets some only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteGroups {
    /// At most [`MAX_EXPERT_GROUPS`]; a divisor of the number of experts.
    pub count: usize,
    /// Groups of one row. They hold at least `top_k` experts.
    pub top: usize,
}

/// How the rows of a mixture of experts choose theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// At most [`MAX_EXPERTS`].
    pub experts: usize,
    /// Experts of one row, at most `experts`.
    pub top_k: usize,
    /// What products become.
    pub score: RouteScore,
    /// None: a row may choose any expert.
    pub groups: Option<RouteGroups>,
    /// The chosen scores are divided by their sum.
    pub renormalise: bool,
    /// Multiplies the weights in the end.
    pub scale: f32,
}

impl Routing {
    /// By softmax, without groups and scale.
    pub fn softmax(experts: usize, top_k: usize, renormalise: bool) -> Routing {
        let score = RouteScore::Softmax;
        Routing { experts, top_k, score, groups: None, renormalise, scale: 1.0 }
    }
}

/// What one block of threads can sort.
pub const MAX_EXPERTS: usize = 1024;
/// What one warp keeps scores of.
pub const MAX_EXPERT_GROUPS: usize = 64;

/// Ops of a mixture of experts over the current batch.
pub trait ExpertOps: DeviceTypes {
    /// Which experts `rows` rows chose: f32 `[rows, 2 top_k]`, the experts' numbers and then their
    /// weights, in the order in which they were chosen; and behind them whatever the device groups
    /// rows by.
    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Self::Tensor>;

    /// `routes[r]` = the `top_k` largest of `score(x[r] W^T + bias)`, W `[experts, inputs]`, all
    /// in f32; of equals the one with the smaller number. With a `choice_bias`, those are chosen
    /// whose score and bias add up to the most; weights are of scores all the same. Biases are
    /// vectors of an element for each expert. With groups, experts outside of the best ones are
    /// not chosen; a group's worth is its largest score, with a `choice_bias` the sum of its two
    /// largest sums. The ops below read the routes; row `r * top_k + j` of their tensors belongs
    /// to choice j of row r.
    fn route(
        &mut self,
        gate: &Self::Weight,
        bias: Option<&Self::Weight>,
        choice_bias: Option<&Self::Weight>,
        routing: &Routing,
        x: &Self::Tensor,
        routes: &mut Self::Tensor,
    ) -> Result<()>;

    /// Weights of routes times that of their expert in `scales`, a vector of an element for each.
    fn scale_routes(
        &mut self,
        scales: &Self::Weight,
        routing: &Routing,
        routes: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r] = weight(r) * x[r]`, of routes of one choice each, whose weights become 1: experts
    /// whose inputs are weighted, not their outputs.
    fn weigh_inputs(
        &mut self,
        routes: &mut Self::Tensor,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r, j] = act(x[r] W^T + b)`, W and b of choice j's expert; `[R * top_k, outputs / 2]`
    /// where the act is gated, else `[R * top_k, outputs]`, and the act is relu squared. The biases
    /// of all experts are one vector.
    fn experts_act(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        act: Activation,
        routes: &Self::Tensor,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r, j] = x[r, j] W^T + b`, of choice j's expert; `[R * top_k, inputs]` -> `[_,
    /// outputs]`.
    fn experts(
        &mut self,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        routes: &Self::Tensor,
        x: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r]` = sum over j of `weight(r, j) * parts[r, j]`, in the order of j; `down` is what the
    /// parts are products of.
    fn combine(
        &mut self,
        down: &Self::Weight,
        routes: &Self::Tensor,
        parts: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `experts` and `combine` in one; `parts` is room for what the first would give, and holds
    /// anything behind.
    fn experts_sum(
        &mut self,
        down: &Self::Weight,
        bias: Option<&Self::Weight>,
        routes: &Self::Tensor,
        x: &Self::Tensor,
        parts: &mut Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `experts_sum` into the seam's delta, then its `add_norm`, as [`DenseOps::linear_add_norm`].
    fn experts_sum_add_norm(
        &mut self,
        down: &Self::Weight,
        bias: Option<&Self::Weight>,
        routes: &Self::Tensor,
        x: &Self::Tensor,
        parts: &mut Self::Tensor,
        seam: Seam<'_, Self::Weight, Self::Tensor>,
    ) -> Result<()>
    where
        Self: DenseOps,
    {
        self.experts_sum(down, bias, routes, x, parts, seam.delta)?;
        self.add_norm(seam.norm, seam.delta, seam.residual, seam.normed)
    }

    /// `out[r] += sigmoid(x[r] . gate) * delta[r]`; `gate` is a vector as wide as x. The expert
    /// that all rows share.
    fn add_gated(
        &mut self,
        gate: &Self::Weight,
        x: &Self::Tensor,
        delta: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;
}
