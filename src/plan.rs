//! StepPlan: the plain data in which scheduler and model meet. Built by `scheduler`, fed by
//! `engine` to `model` and `device`, answered by a [`StepResult`]. A leaf: it knows no room.
//!
//! Two rules make steps asynchronous. A plan never contains a value that the previous step
//! computes: it says "the token this slot sampled last" ([`Feed::Last`]) and the device looks it up
//! in the slot's row. And a plan carries *changes* of slot rows ([`SlotChange`]), not the rows.

use std::ops::Range;
use std::sync::Arc;

use crate::ids::{AdapterId, AdapterSlotId, GroupId, PageId, SlotId, TokenId};
use crate::sampling::{NonFinite, SamplerSpec, TokenLogprobs};

/// One step of the engine: at most `max_num_batched_tokens` token rows, prefill and decode mixed.
#[derive(Debug, Clone, Default)]
pub struct StepPlan {
    /// Counts from 1 in an engine's life. Results carry it back.
    pub step: u64,
    /// Applied in order, before anything else of the step.
    pub changes: Vec<SlotChange>,
    /// What runs, one entry per sequence, each slot at most once.
    pub rows: Vec<Row>,
    /// Token ids of all prefill chunks of this step, flat; [`Feed::Chunk`] points into it.
    pub chunk_tokens: Vec<TokenId>,
    /// What follows each scored position, flat; [`Row::score`] points into it.
    pub targets: Vec<TokenId>,
}

/// A change of one slot row on the device.
#[derive(Debug, Clone)]
pub enum SlotChange {
    /// Take the slot for a sequence (again after a preemption). Clears whatever the row held.
    Open(Box<SlotOpen>),
    /// Append pages to the slot's table of `group`: position p lives in `table[p / page_size]`.
    Pages { slot: SlotId, group: GroupId, pages: Vec<PageId> },
    /// The slot's sequence is over or preempted; the row may be reused from the next change on.
    Close { slot: SlotId },
    /// From now on `adapter slot` holds this adapter, whose weights were put there before the step.
    /// No open slot uses what the adapter slot held before.
    Adapter { adapter_slot: AdapterSlotId, adapter: AdapterId },
}

#[derive(Debug, Clone)]
pub struct SlotOpen {
    pub slot: SlotId,
    /// An adapter slot holds it, unless it is 0.
    pub adapter: AdapterId,
    /// All tokens known so far: the prompt, and after a preemption the outputs too. The device
    /// needs them for penalties (counts of prompt and output tokens) and for the newest outputs
    /// that may begin a bad word; it may ignore them otherwise.
    pub tokens: Arc<[TokenId]>,
    /// How many of `tokens` are prompt; the rest are outputs sampled before a preemption.
    pub prompt_tokens: u32,
    /// Positions whose K and V are already in pages (prefix cache hit): the row's first length.
    pub cached_tokens: u32,
    pub sampler: Arc<SamplerSpec>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub slot: SlotId,
    pub feed: Feed,
    /// Sample from the last fed position's logits. False for a prefill chunk that does not end the
    /// known tokens. The sampled token becomes the slot's last token, at position = its new length.
    pub sample: bool,
    /// Score fed positions, the first `score.len()` of the row: each reports the logprobs of the
    /// token that really follows it, `StepPlan::targets[score]`, by the slot's
    /// `SamplerSpec::prompt_logprobs` (which must be there). A position is scored or sampled from,
    /// not both: `score.len() + sample <= tokens`. Each takes a logits row of its own.
    pub score: Option<Range<usize>>,
}

impl Row {
    /// Positions that are scored.
    pub fn scored(&self) -> usize {
        self.score.as_ref().map_or(0, ExactSizeIterator::len)
    }

    /// Logits rows: the scored positions in order, then the one to sample from.
    pub fn logits_rows(&self) -> usize {
        self.scored() + usize::from(self.sample)
    }
}

/// Which tokens a row feeds. Positions always continue at the slot's length on the device, which
/// then grows by the number of tokens fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Known tokens: `StepPlan::chunk_tokens[range]`.
    Chunk(Range<usize>),
    /// `count` tokens that the slot sampled in the previous step (1 until drafts are verified).
    Last { count: u32 },
}

impl Feed {
    pub fn tokens(&self) -> usize {
        match self {
            Feed::Chunk(range) => range.len(),
            Feed::Last { count } => *count as usize,
        }
    }
}

impl StepPlan {
    /// Token rows of this step.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|r| r.feed.tokens()).sum()
    }

    /// Rows that yield a token.
    pub fn samples(&self) -> usize {
        self.rows.iter().filter(|r| r.sample).count()
    }

    /// Logits rows, in the order of `rows`: S of the ops, at most `DeviceLimits::logits_rows`.
    pub fn logits_rows(&self) -> usize {
        self.rows.iter().map(Row::logits_rows).sum()
    }
}

/// What needs the previous step's tokens on the host (grammar masks): uploaded while `forward`
/// runs. Rows without an entry never wait for rows with one.
#[derive(Debug, Clone, Default)]
pub struct TokenMasks {
    /// Slot and its allowed tokens, bit i of word i/32 = token i may be sampled.
    pub by_slot: Vec<(SlotId, Arc<[u32]>)>,
}

/// What a step yields, in the plan's row order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepResult {
    pub step: u64,
    /// One entry per row with `sample`.
    pub samples: Vec<Sampled>,
    /// One entry per row that scores at least one position.
    pub scores: Vec<Scored>,
    /// Of a model that pools, f32 of the model's width, one per entry of `samples`: a row that
    /// would be sampled from yields its sequence's vector instead, and token 0 stands for it, or
    /// `NonFinite` for one that holds NaN or infinity.
    pub vectors: Vec<Vec<f32>>,
}

/// Tokens that a slot accepted in a step, oldest first. One, until drafts are verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub slot: SlotId,
    /// `NonFinite`: there is no token to choose. The slot goes on with token 0, so that steps in
    /// flight can run; what comes of them is worth nothing.
    pub tokens: Result<Vec<TokenId>, NonFinite>,
    /// One per token, if the slot's `SamplerSpec::logprobs` asks for them; else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Logprobs of a row's targets, in the order of its positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub slot: SlotId,
    /// `NonFinite`: at one of the positions.
    pub logprobs: Result<Vec<TokenLogprobs>, NonFinite>,
}

impl StepResult {
    /// The next row of a model that pools.
    pub fn push_vector(&mut self, slot: SlotId, vector: Vec<f32>) {
        let finite = vector.iter().all(|x| x.is_finite());
        let tokens = if finite { Ok(vec![TokenId(0)]) } else { Err(NonFinite) };
        self.samples.push(Sampled { slot, tokens, logprobs: Vec::new() });
        self.vectors.push(vector);
    }

    /// The next scored position of a slot; those of one row come one after the other.
    pub fn push_score(&mut self, slot: SlotId, scored: Result<TokenLogprobs, NonFinite>) {
        if self.scores.last().is_none_or(|row| row.slot != slot) {
            self.scores.push(Scored { slot, logprobs: Ok(Vec::new()) });
        }
        let Some(row) = self.scores.last_mut() else { return };
        match (&mut row.logprobs, scored) {
            (Ok(logprobs), Ok(scored)) => logprobs.push(scored),
            (logprobs, Err(error)) => *logprobs = Err(error),
            (Err(_), Ok(_)) => {}
        }
    }
}
