//! What the user says of a model that pools: [`PoolerOptions`], of model.json's `runner`, `convert`
//! and `pooler_config`. Plain data: `engine` reads it, `pooling` and `classifier` obey it.

use crate::device::Pooling;

/// Does the model pool or generate?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunnerKind {
    /// It pools if sentence-transformers' files say so, or an architecture that cannot generate.
    #[default]
    Auto,
    /// It generates; an error for one that cannot.
    Generate,
    /// It pools.
    Pooling,
}

/// What a model that pools makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convert {
    /// Vectors.
    Embed,
    /// Scores.
    Classify,
}

/// What the user said (`runner`, `convert`, `pooler_config`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolerOptions {
    /// Does the model pool?
    pub runner: RunnerKind,
    /// To what end; None: as the architecture's name says.
    pub convert: Option<Convert>,
    /// Which rows make the vector; None: as the files or the defaults say.
    pub kind: Option<Pooling>,
    /// Vectors to length 1, logits to scores; None: as the files or the defaults say.
    pub use_activation: Option<bool>,
    /// Of requests to embed that name none.
    pub dimensions: Option<usize>,
    /// Taken off each logit.
    pub logit_mean: Option<f64>,
    /// Divides it then.
    pub logit_sigma: Option<f64>,
}
