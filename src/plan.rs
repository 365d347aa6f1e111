//! StepPlan: the plain data in which scheduler and model meet. Built by `scheduler`, fed by
//! `engine` to `model` and `device`, answered by a [`StepResult`]. A leaf: it imports only leaves.
//!
//! Two rules make steps asynchronous. A plan never contains a value that the previous step
//! computes: it says "the token this slot sampled last" ([`Feed::LastSampled`]) and the device
//! looks it up in the slot's row. And a plan carries *changes* of slot rows ([`SlotChange`]), not
//! the rows.

mod image_cache;
mod images;

use std::ops::Range;
use std::sync::Arc;

use crate::ids::{AdapterId, AdapterSlotId, GroupId, PageId, SlotId, SnapshotId, TokenId};
use crate::sampling::{NonFinite, SamplerSpec, TokenLogprobs};
pub use image_cache::ImageCache;
pub use images::{Arranged, BothWays, ImageSpan, PatchRows, PromptImages};

/// Drafts of one sequence in one step at most.
pub const MAX_DRAFTS: usize = 64;

/// One step of the engine: at most `max_num_batched_tokens` token rows, prefill and decode mixed.
#[derive(Debug, Clone, Default)]
pub struct StepPlan {
    /// Counts from 1 in an engine's life. Results carry it back.
    pub step: u64,
    /// Applied in order, before anything else of the step.
    pub changes: Vec<SlotChange>,
    /// The images of sequences that `changes` open and that have some.
    pub images: Vec<(SlotId, Arc<PromptImages>)>,
    /// What runs, one entry per sequence, each slot at most once.
    pub chunks: Vec<SeqChunk>,
    /// Known token ids of all chunks, flat; [`Feed::Known`] points into it.
    pub chunk_tokens: Vec<TokenId>,
    /// The positions whose logits are wanted, in the order of chunks and of tokens in them, each at
    /// most once.
    pub logits: Vec<LogitsRow>,
}

/// A change of one slot row on the device.
#[derive(Debug, Clone)]
pub enum SlotChange {
    /// Take the slot for a sequence (again after a preemption). Clears whatever the row held.
    Open(Box<SlotOpen>),
    /// Append pages to the slot's table of `group`: position p lives in `table[p / page_size]`.
    Pages {
        /// Whose table.
        slot: SlotId,
        /// Which of its tables.
        group: GroupId,
        /// In the order of positions.
        pages: Vec<PageId>,
    },
    /// The slot's sequence is over or preempted; the row may be reused from the next change on.
    Close {
        /// It must be open.
        slot: SlotId,
    },
    /// The slot's sequence goes on behind its first `length` positions: what was fed behind them
    /// were drafts that were rejected. Where it has a state, at least one row of its newest chunk
    /// stays, which has at most one row more than the slot has spares (`DeviceLimits::spares`).
    Truncate {
        /// It must be open.
        slot: SlotId,
        /// At most what it has.
        length: u32,
    },
    /// Copy the slot's state, as the last step left it, to a place for snapshots. Models with a
    /// state only.
    SaveState {
        /// It must be open.
        slot: SlotId,
        /// What was there before is lost.
        snapshot: SnapshotId,
    },
    /// The slot's state is that of a snapshot. It follows an `Open` with cached tokens, behind
    /// which the sequence goes on.
    RestoreState {
        /// It must be open.
        slot: SlotId,
        /// Saved earlier, in this plan or before.
        snapshot: SnapshotId,
    },
    /// From now on an adapter slot holds this adapter, whose weights were put there before the
    /// step. No open slot uses what the adapter slot held before.
    Adapter {
        /// Where it is.
        adapter_slot: AdapterSlotId,
        /// What is there.
        adapter: AdapterId,
    },
}

/// A sequence that takes a slot.
#[derive(Debug, Clone)]
pub struct SlotOpen {
    /// The slot.
    pub slot: SlotId,
    /// An adapter slot holds it, unless it is 0.
    pub adapter: AdapterId,
    /// All tokens known so far: the prompt, and after a preemption the outputs too. The device
    /// needs them for penalties (counts of prompt and output tokens) and for the newest outputs
    /// that may begin a bad word; it may ignore them otherwise.
    pub tokens: Arc<[TokenId]>,
    /// How many of `tokens` are prompt; the rest are outputs sampled before a preemption.
    pub prompt_tokens: u32,
    /// Positions whose K and V are already in pages (prefix cache hit): the row's first length. A
    /// state begins with zeros at 0, else by a `RestoreState`.
    pub cached_tokens: u32,
    /// How its tokens are chosen.
    pub sampler: Arc<SamplerSpec>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeqChunk {
    /// The sequence's slot.
    pub slot: SlotId,
    /// Its tokens.
    pub feed: Feed,
}

/// Which tokens a chunk feeds. Positions always continue at the slot's length on the device, which
/// then grows by the number of tokens fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Known tokens: `StepPlan::chunk_tokens[range]`.
    Known(Range<usize>),
    /// The token that the slot sampled last.
    LastSampled,
}

impl Feed {
    /// Token rows.
    pub fn tokens(&self) -> usize {
        match self {
            Feed::Known(range) => range.len(),
            Feed::LastSampled => 1,
        }
    }
}

/// One position whose logits are computed, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogitsRow {
    /// Index into [`StepPlan::chunks`].
    pub chunk: usize,
    /// Which token of the chunk, from 0.
    pub token: usize,
    /// What for.
    pub purpose: Purpose,
}

/// What becomes of a logits row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Choose a token by the slot's sampler. Only the last token of a chunk may be sampled from:
    /// what is chosen becomes the slot's last token, at position = its new length.
    Sample,
    /// Choose a token by the slot's sampler, as `Sample` would if the chunk ended here, and compare
    /// it with the draft that the chunk feeds behind it. A chunk with drafts has a row for each of
    /// its tokens: these, and `Sample` for the last. Where the token is not the draft, it is the
    /// last that the slot accepts in this step, and what the rows behind it say is void.
    Verify {
        /// The token that is fed next.
        draft: TokenId,
    },
    /// Report the logprobs of a known token, the one that follows this position, by the slot's
    /// `SamplerSpec::prompt_logprobs` (which must be there).
    Report {
        /// The token that follows.
        next: TokenId,
    },
}

impl StepPlan {
    /// Add a sequence's chunk; with `sample` its last token is sampled from. A prefill chunk that
    /// does not end the known tokens has no logits.
    pub fn push(&mut self, slot: SlotId, feed: Feed, sample: bool) {
        let tokens = feed.tokens();
        self.chunks.push(SeqChunk { slot, feed });
        if sample && tokens > 0 {
            let chunk = self.chunks.len() - 1;
            self.logits.push(LogitsRow { chunk, token: tokens - 1, purpose: Purpose::Sample });
        }
    }

    /// Add a chunk of one known token and drafts behind it: each draft is verified, and behind the
    /// last one a token is sampled.
    pub fn push_drafts(&mut self, slot: SlotId, newest: TokenId, drafts: &[TokenId]) {
        let start = self.chunk_tokens.len();
        self.chunk_tokens.push(newest);
        self.chunk_tokens.extend(drafts);
        let chunk = self.chunks.len();
        let verify = drafts.iter().enumerate().map(|(token, &draft)| LogitsRow {
            chunk,
            token,
            purpose: Purpose::Verify { draft },
        });
        self.logits.extend(verify);
        self.push(slot, Feed::Known(start..self.chunk_tokens.len()), true);
    }

    /// Token rows of this step: R of the ops.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.feed.tokens()).sum()
    }

    /// Whether a chunk is sampled from, by its index.
    pub fn samples(&self, chunk: usize) -> bool {
        let at = self.logits.partition_point(|row| row.chunk <= chunk);
        let last = at.checked_sub(1).map(|last| &self.logits[last]);
        last.is_some_and(|last| last.chunk == chunk && last.purpose == Purpose::Sample)
    }

    /// The slots that are sampled from, in the order of their results.
    pub fn sampled(&self) -> impl Iterator<Item = SlotId> + '_ {
        let sampled = self.logits.iter().filter(|row| row.purpose == Purpose::Sample);
        sampled.filter_map(|row| Some(self.chunks.get(row.chunk)?.slot))
    }
}

/// What needs the previous step's tokens on the host (grammar masks): uploaded while `forward`
/// runs. Rows without an entry never wait for rows with one.
#[derive(Debug, Clone, Default)]
pub struct TokenMasks {
    /// Slot and its allowed tokens, bit i of word i/32 = token i may be sampled. A slot with drafts
    /// has a mask for each of its rows that chooses a token, one after the other and in their
    /// order; a row without one, behind the others, is void: the draft in front of it is forbidden.
    pub by_slot: Vec<(SlotId, Arc<[u32]>)>,
}

/// What a step yields, in the order of the plan's logits rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepResult {
    /// The plan's.
    pub step: u64,
    /// One entry per chunk that is sampled from.
    pub samples: Vec<Sampled>,
    /// One entry per slot with reports.
    pub reports: Vec<Reported>,
    /// Of a model that pools, f32 of the model's width, one per entry of `samples`: a row that
    /// would be sampled from yields its sequence's vector instead, and token 0 stands for it, or
    /// `NonFinite` for one that holds NaN or infinity.
    pub vectors: Vec<Vec<f32>>,
}

/// Tokens that a slot accepted in a step, oldest first: one, and one more for each of its drafts
/// that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Whose.
    pub slot: SlotId,
    /// `NonFinite`: there is no token to choose. The slot goes on with token 0, so that steps in
    /// flight can run; what comes of them is worth nothing.
    pub tokens: Result<Vec<TokenId>, NonFinite>,
    /// One per token, if the slot's `SamplerSpec::logprobs` asks for them; else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Logprobs of known tokens of a slot, in the order of their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Whose.
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

    /// The next report of a slot; those of one slot come one after the other.
    pub fn push_report(&mut self, slot: SlotId, report: Result<TokenLogprobs, NonFinite>) {
        if self.reports.last().is_none_or(|last| last.slot != slot) {
            self.reports.push(Reported { slot, logprobs: Ok(Vec::new()) });
        }
        let Some(last) = self.reports.last_mut() else { return };

        match (&mut last.logprobs, report) {
            (Ok(logprobs), Ok(report)) => logprobs.push(report),
            (logprobs, Err(error)) => *logprobs = Err(error),
            (Err(_), Ok(_)) => {}
        }
    }
}
