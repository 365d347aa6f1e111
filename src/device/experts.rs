//! A mixture of experts: rows choose experts, each expert multiplies the rows that chose it, each
//! row adds up what its experts gave.

use super::types::DeviceTypes;
use super::Activation;
use crate::error::Result;

/// How the rows of a mixture of experts choose theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// At most [`MAX_EXPERTS`].
    pub experts: usize,
    /// Experts of one row, at most `experts`.
    pub top_k: usize,
    /// The chosen weights are divided by their sum; else they are shares of all experts' sum.
    pub renormalise: bool,
}

/// What one block of threads can sort.
pub const MAX_EXPERTS: usize = 1024;

/// Ops of a mixture of experts over the current batch.
pub trait ExpertOps: DeviceTypes {
    /// Which experts `rows` rows chose: f32 `[rows, 2 top_k]`, the experts' numbers and then their
    /// weights, in the order in which they were chosen; and behind them whatever the device groups
    /// rows by.
    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Self::Tensor>;

    /// `routes[r]` = the `top_k` largest of `softmax(x[r] W^T + bias)`, W `[experts, inputs]`, all
    /// in f32; of equals the one with the smaller number. With a `choice_bias`, those are chosen
    /// whose share and bias add up to the most; weights are shares all the same. Biases are vectors
    /// of an element for each expert. The ops below read the routes; row `r * top_k + j` of their
    /// tensors belongs to choice j of row r.
    fn route(
        &mut self,
        gate: &Self::Weight,
        bias: Option<&Self::Weight>,
        choice_bias: Option<&Self::Weight>,
        routing: &Routing,
        x: &Self::Tensor,
        routes: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r, j] = act(x[r] W^T + b)`, a gated act, W and b of choice j's expert; `[R * top_k,
    /// outputs / 2]`. The biases of all experts are one vector.
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
