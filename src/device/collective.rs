//! Several devices that share a model, each a rank: how one finds its share of a weight's products
//! ([`Join`]), and what ranks do together ([`Collective`]). A device calls its collective inside
//! the ops of weights that say so; `model` says it as it loads them, and the forward pass knows
//! nothing of it. `engine` tells the group when a rank is lost. A device of its own is rank 0 of 1.

use crate::error::{Error, Result};

/// Which of the devices that share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// From 0 on.
    pub index: usize,
    /// How many there are, at least one.
    pub of: usize,
}

impl Rank {
    /// A device that shares with none.
    pub const ALONE: Rank = Rank { index: 0, of: 1 };

    /// Ranks of a group, in order.
    pub fn all(of: usize) -> impl Iterator<Item = Rank> {
        (0..of).map(move |index| Rank { index, of })
    }
}

/// How what ops make of a rank's share of a weight becomes what they would make of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Join {
    /// It stays the rank's: of the whole weight, or of outputs that the rank alone goes on with.
    #[default]
    None,
    /// Ranks hold different inputs: `linear`, `linear_gathered`, `combine` and `add_gated` end with
    /// the sum over ranks. Over a norm of `norm_heads`: its mean is over the elements of all ranks.
    Sum,
    /// Ranks hold different rows, all as many; this one those from `first` on, some of which may
    /// lie behind the end of the whole. `embed` ends with the sum over ranks, rows that are not
    /// here count as zeros; `logits` with all ranks' columns side by side.
    Rows {
        /// The first of this rank.
        first: usize,
    },
}

/// What ranks do together. All ranks of a group call the same in the same order; each returns once
/// it has what it needs, with the same bits on all.
pub trait Collective<T>: Send {
    /// Which rank this is.
    fn rank(&self) -> Rank;

    /// The first `rows` rows of `x` = their sum over ranks, added up in f32 in the order of ranks.
    ///
    /// # Errors
    /// That of a rank that is lost.
    fn all_reduce(&mut self, x: &mut T, rows: usize) -> Result<()>;

    /// The first `rows` rows of all ranks' `part`, side by side in the order of ranks, into
    /// `whole`, which may be narrower than all of them: columns behind its end are dropped.
    ///
    /// # Errors
    /// As `all_reduce`.
    fn all_gather(&mut self, part: &T, rows: usize, whole: &mut T) -> Result<()>;
}

/// The ranks of a model as those see them who drive them.
pub trait RankGroup: Send + Sync {
    /// A rank is lost: all that wait for it, and all that ever would, get this error at once. Later
    /// ones change nothing.
    fn fail(&self, error: Error);

    /// The first error that a rank was lost by.
    fn failure(&self) -> Option<Error>;
}
