//! One sequence as the scheduler sees it: how far it is known, fed and in flight. Used inside the
//! scheduler; who runs when is decided in `mod`.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::drafts::SequenceDrafts;
use crate::ids::{AdapterId, GroupId, RequestId, SlotId, TokenId};
use crate::kv::PageTable;
use crate::plan::{Feed, PromptImages, SlotOpen, StepPlan};
use crate::sampling::SamplerSpec;

/// A sequence to generate, with its prompt.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// Comes back with its tokens. Unique among what the scheduler holds.
    pub id: RequestId,
    /// A sequence with the same prompt that was added before: this one is not admitted until that
    /// one's prompt is fed (or it is over), so that it finds the prompt's pages in the cache
    /// instead of computing them a second time. Meanwhile it holds up nobody.
    pub primary: Option<RequestId>,
    /// At least one token, and room for one more below `max_model_len`.
    pub prompt: Arc<[TokenId]>,
    /// Tokens to generate at most, at least 1; `max_model_len` may end the sequence earlier.
    pub max_tokens: u32,
    /// How its tokens are sampled.
    pub sampler: Arc<SamplerSpec>,
    /// Compute all of the prompt, also what is in the prefix cache.
    pub skip_cache: bool,
    /// The LoRA adapter that it runs with; 0 = none.
    pub adapter: AdapterId,
    /// A smaller number waits before a larger one.
    pub priority: u64,
    /// Drafts of its tokens may be verified: what may be sampled is known for several tokens ahead.
    pub drafts: bool,
    /// What some tokens of the prompt stand for.
    pub images: Option<Arc<PromptImages>>,
}

/// Prompt and outputs in one piece. Until the first output the prompt itself, which all sequences
/// of a request share: thousands may wait.
#[derive(Debug)]
pub(super) struct Tokens {
    prompt: Arc<[TokenId]>,
    /// Empty, or all of them.
    all: Vec<TokenId>,
}

impl Tokens {
    fn push(&mut self, token: TokenId) {
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.prompt);
        }
        self.all.push(token);
    }
}

impl Deref for Tokens {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        if self.all.is_empty() {
            &self.prompt
        } else {
            &self.all
        }
    }
}

/// A sequence that waits or runs.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// Compute everything, whatever of it is in the prefix cache.
    pub(super) skip_cache: bool,
    pub(super) prompt: Arc<[TokenId]>,
    pub(super) adapter: AdapterId,
    pub(super) priority: u64,
    /// Its place in the queue among those of the same priority: a smaller number is before it.
    pub(super) order: u64,
    pub(super) sampler: Arc<SamplerSpec>,
    /// As far as the host knows them.
    pub(super) tokens: Tokens,
    /// The sequence is over when it has this many tokens. Its last one is never fed.
    pub(super) limit: usize,
    pub(super) images: Option<Arc<PromptImages>>,
    /// Which of them are kept for tokens that it is still to feed.
    pub(super) images_entered: Range<usize>,
    pub(super) table: PageTable,
    /// Leading tokens that were fed by planned steps, or came from the prefix cache.
    pub(super) fed: usize,
    /// Leading pages that came from the prefix cache: others may have written them.
    pub(super) hits: usize,
    /// Nothing of it is planned until somebody says otherwise.
    pub(super) held: bool,
    /// Tokens that planned steps sample and that the host does not know yet. They follow `tokens`.
    pub(super) in_flight: usize,
    /// The newest token was or will be sampled in this sequence's slot: feed it from there.
    pub(super) last_on_device: bool,
    /// Counts whoever got a slot, in the scheduler's life: results that were planned for an earlier
    /// generation of this sequence, or for another one in the same slot, carry another number. 0:
    /// it never had a slot.
    pub(super) generation: u64,
    /// It may have drafts.
    pub(super) may_draft: bool,
    pub(super) drafts: SequenceDrafts,
}

impl Sequence {
    pub(super) fn new(new: NewSequence, order: u64, longest: usize) -> Sequence {
        let limit = new.prompt.len().saturating_add(new.max_tokens as usize).min(longest);
        Sequence {
            id: new.id,
            skip_cache: new.skip_cache,
            adapter: new.adapter,
            priority: new.priority,
            order,
            sampler: new.sampler,
            tokens: Tokens { prompt: new.prompt.clone(), all: Vec::new() },
            prompt: new.prompt,
            limit,
            table: PageTable::new(GroupId(0), new.adapter).with_images(new.images.clone()),
            images: new.images,
            images_entered: 0..0,
            fed: 0,
            hits: 0,
            held: false,
            in_flight: 0,
            last_on_device: false,
            generation: 0,
            may_draft: new.drafts,
            drafts: SequenceDrafts::default(),
        }
    }

    /// Every token of the prompt is in pages, or on its way there in a planned step.
    pub(super) fn prompt_fed(&self) -> bool {
        self.fed >= self.prompt.len()
    }

    /// Tokens that exist, known or in flight.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() + self.in_flight
    }

    /// Tokens to feed next. None when the last token that may be sampled is already in flight, or
    /// while the sequence is held, or while its drafts are verified.
    pub(super) fn unfed(&self) -> usize {
        if self.held || self.len() >= self.limit || self.drafts.in_flight > 0 {
            return 0;
        }
        self.len() - self.fed
    }

    /// What the device must know to open `slot` for this sequence. No copy of a mere prompt.
    pub(super) fn open(&self, slot: SlotId) -> SlotOpen {
        let only_prompt = self.tokens.len() == self.prompt.len();
        SlotOpen {
            slot,
            adapter: self.adapter,
            tokens: if only_prompt { self.prompt.clone() } else { Arc::from(&*self.tokens) },
            prompt_tokens: self.prompt.len() as u32,
            cached_tokens: self.fed as u32,
            sampler: self.sampler.clone(),
        }
    }

    /// How many of `count` tokens from `fed` on a chunk has that cuts no image whose tokens see
    /// each other, or none at all if `whole`; up to `most`, should such an image begin it. 0: that
    /// is not enough now.
    pub(super) fn whole_images(&self, fed: usize, count: usize, most: usize, whole: bool) -> usize {
        let Some(images) = &self.images else { return count };
        let whole = images.chunk_end(fed, fed + count, whole) - fed;
        if whole <= count.max(most) {
            whole
        } else {
            0
        }
    }

    /// Drafts that it could have in the next step: behind an output that is known or will be, and
    /// in front of the last token it may have.
    pub(super) fn room_for_drafts(&self) -> usize {
        let newest_unfed = self.fed + 1 == self.len();
        let generates = self.tokens.len() > self.prompt.len();
        if !(self.may_draft && self.drafts.wanted() && generates && newest_unfed) || self.held {
            return 0;
        }
        self.limit.saturating_sub(self.len() + 1)
    }

    /// Plan the newest token, which is known, and drafts behind it, for which the table has pages.
    pub(super) fn feed_drafts(&mut self, drafts: &[TokenId], slot: SlotId, plan: &mut StepPlan) {
        assert!(self.in_flight == 0 && self.fed + 1 == self.tokens.len(), "drafts behind a guess");
        plan.push_drafts(slot, self.tokens[self.fed], drafts);
        self.drafts.fed(drafts.len());
        self.fed += 1 + drafts.len();
        self.in_flight = 1;
        self.last_on_device = true;
    }

    /// Plan the next `count` tokens, for which the table has pages.
    pub(super) fn feed(&mut self, count: usize, slot: SlotId, plan: &mut StepPlan) {
        let feed = if self.last_on_device {
            assert_eq!(count, 1, "only the newest token is on the device alone");
            Feed::LastSampled
        } else {
            let start = plan.chunk_tokens.len();
            plan.chunk_tokens.extend(&self.tokens[self.fed..self.fed + count]);
            Feed::Known(start..plan.chunk_tokens.len())
        };
        self.fed += count;
        self.drafts.rest();
        self.drafts.fed(0);
        let sample = self.fed == self.len();
        if sample {
            self.in_flight += 1;
            self.last_on_device = true;
        }
        plan.push(slot, feed, sample);
    }

    /// The oldest token in flight becomes known, and those behind it that were accepted as drafts.
    /// Gives the drafts that were fed; what of them was rejected is not fed any more.
    pub(super) fn arrive(&mut self, tokens: &[TokenId]) -> usize {
        assert!(self.in_flight > 0, "a token that no step was to sample");
        let drafts = self.drafts.verified(tokens.len().saturating_sub(1));
        assert!((1..=1 + drafts).contains(&tokens.len()), "{} tokens", tokens.len());
        self.in_flight -= 1;
        self.fed -= 1 + drafts - tokens.len();
        tokens.iter().for_each(|&token| self.tokens.push(token));
        drafts
    }

    /// Back to before the last known token was fed, in the same slot and pages.
    pub(super) fn step_back(&mut self) {
        self.fed = self.fed.min(self.tokens.len() - 1);
        self.in_flight = 0;
        self.drafts.in_flight = 0;
        self.last_on_device = false;
    }

    /// Back to the start, with the tokens that are known. Those in flight are sampled again: the
    /// same ones, since a sampler depends on seed and position only.
    pub(super) fn rewind(&mut self) {
        self.fed = 0;
        self.in_flight = 0;
        self.drafts.in_flight = 0;
        self.held = false;
        self.last_on_device = false;
    }
}
