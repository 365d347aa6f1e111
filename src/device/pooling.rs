//! Models that embed: a sequence becomes one vector instead of a next token.

use super::types::DeviceTypes;
use crate::error::Result;

/// How the token rows of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first row (BERT's `[CLS]`).
    First,
    /// The last row.
    Last,
    /// The mean of all rows.
    Mean,
}

/// The end of a step of a model that pools.
pub trait PoolingOps: DeviceTypes {
    /// `out[s]` = the token rows of the sequence of row s of logits, pooled; f32 `[S, width]` (of
    /// `logits_tensor`). All but `Pooling::Last` need the step to feed the sequence as a whole.
    fn pool(&mut self, kind: Pooling, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// The other end of a step, of models that pool: the S rows of `pooled` are the result's
    /// vectors.
    fn hand_over(&mut self, pooled: &Self::Tensor) -> Result<()>;
}
