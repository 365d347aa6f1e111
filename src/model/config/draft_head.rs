//! What a head is that drafts from a model's hidden states, and what it reads of the model. Plain
//! data: `eagle` reads it from files.

/// What a head makes its first layer's input of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// EAGLE: a product of the token's embedding beside the model's last, normed hidden state. No
    /// norm in front of the first layer, and none behind the last.
    Eagle,
    /// EAGLE-3: attention reads the normed embedding beside the normed hidden state, which is a
    /// product of what enters several of the model's layers.
    Eagle3 {
        /// The normed hidden state is what the layer adds to; else the one before its norm.
        norm_before_residual: bool,
        /// What it says of a token's hidden state is normed, where that is read for the next one.
        norm_output: bool,
    },
    /// A layer of the model's own that predicts one token further: a product of normed embedding
    /// and normed hidden state.
    NextToken {
        /// The embedding comes first.
        token_first: bool,
        /// Zeros stand in place of the embedding at position 0.
        blank_start: bool,
    },
}

impl HeadKind {
    /// Attention of the first layer reads two vectors beside each other.
    pub fn is_wide(self) -> bool {
        matches!(self, HeadKind::Eagle3 { .. })
    }

    /// The first layer's input is a product of embedding and hidden state.
    pub fn projects(self) -> bool {
        !self.is_wide()
    }
}

/// A head that drafts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftHead {
    /// How it reads the model.
    pub kind: HeadKind,
    /// Width of the model's residual.
    pub target_hidden: usize,
    /// The model's layers whose inputs it reads, as many as the model has for what leaves the last;
    /// empty: the model's last, normed hidden state.
    pub taps: Vec<usize>,
    /// Tokens that it can say, where these are not all.
    pub few: Option<usize>,
}

/// Which kind is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EagleVersion {
    /// EAGLE, and EAGLE-2, whose heads are the same.
    One,
    /// EAGLE-3.
    Three,
}
