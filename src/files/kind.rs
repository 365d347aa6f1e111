//! What files are to us, and how large each kind may be. Called by whoever opens one.

/// What a file is to us, which says how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// model.json and multi_lora.json.
    Arguments,
    /// config.json and all other small JSON beside a checkpoint.
    Config,
    /// Vocabularies and merges, in any format.
    Tokenizer,
    /// Which shard holds which tensor.
    Index,
    /// A token, or a commit that a name of the hub's stands for.
    Line,
    /// PEM files.
    Certificates,
    /// What an earlier start of ours found out.
    Choices,
    /// Tensors: read piece by piece, never as a whole.
    Weights,
    /// A model of one file, GGUF: as weights.
    Gguf,
}

impl Kind {
    /// The largest published ones stay below a third of these.
    pub fn max_bytes(self) -> u64 {
        match self {
            Kind::Line => 64 << 10,
            Kind::Choices => 8 << 20,
            Kind::Arguments | Kind::Config | Kind::Certificates => 16 << 20,
            Kind::Tokenizer | Kind::Index => 128 << 20,
            Kind::Weights | Kind::Gguf => 16 << 40,
        }
    }
}
