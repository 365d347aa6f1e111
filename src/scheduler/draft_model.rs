//! Drafts by a smaller model, on a device of its own beside the target's: what that device has of
//! each sequence, and what it says. Used by `feed_drafter`; it knows no sequence and no device.
//!
//! The drafting device has the same slots and the same pages by number, a pool of its own: a page
//! that holds tokens of a sequence there holds K and V of the same tokens here, so prefix hits,
//! siblings and preemptions need no second cache manager. But the drafter lags: it is fed when it
//! is to guess, and only then. So it is noted which pages it has filled. What it has of a sequence
//! that gets a slot are the leading pages that it filled; the rest is fed to it as known tokens.
//! Behind a guess it goes back to where guess and truth part.
//!
//! A head that drafts from the target's hidden states is the same with two differences. Its row at
//! a position stands for the target's hidden state there and the token *behind* it: of n known
//! tokens it is fed all but the first, at the positions from 0 on. And what it had of its own
//! guesses was made of its own hidden states: it is fed all accepted tokens anew. Hidden states are
//! the target's affair, which keeps them in the same pages. The last row of a page depends on the
//! page behind it, which may be another for who finds the page again: it is noted which token it
//! was made of, and where that differs the row is fed anew, for all who have the page. That can
//! make a draft worse and no answer.

use std::sync::Arc;

use crate::ids::{AdapterId, GroupId, PageId, SlotId, TokenId};
use crate::plan::{Feed, SlotChange, SlotOpen, StepPlan, StepResult};
use crate::sampling::SamplerSpec;

/// What the scheduler is told of the drafting model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftModel {
    /// Positions that it may have at most.
    pub longest: usize,
    /// It samples as the sequence does, with the same random numbers, where that is random; else it
    /// drafts the likeliest tokens.
    pub samples: bool,
    /// It is a head, which reads the target's hidden states.
    pub head: bool,
}

/// What the drafting device has, and what it says.
#[derive(Debug)]
pub(super) struct ModelDrafts {
    model: DraftModel,
    page_size: usize,
    /// Number of its newest plan.
    step: u64,
    /// Its slots, as far as they are open.
    rows: Vec<Option<DraftRow>>,
    /// By page that holds K and V of all its positions: the token that was fed at the last one.
    filled: Vec<Option<TokenId>>,
    /// Who drafts in the plans that were made last, and how many tokens each.
    drafting: Vec<(SlotId, usize)>,
    /// What they said.
    proposed: Vec<(SlotId, Vec<TokenId>)>,
}

/// A slot of the drafting device.
#[derive(Debug)]
struct DraftRow {
    /// Whose: see `Sequence::generation`.
    generation: u64,
    /// Of the sequence's table.
    pages: usize,
    /// Positions that are fed.
    length: usize,
    /// How many of those are the sequence's tokens for sure.
    known: usize,
    /// The guesses that are fed behind them.
    guessed: Vec<TokenId>,
}

/// A sequence with a slot, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownSequence<'a> {
    pub slot: SlotId,
    pub generation: u64,
    pub tokens: &'a [TokenId],
    /// For all of its tokens and for what is drafted.
    pub pages: &'a [PageId],
    pub sampler: &'a SamplerSpec,
}

impl ModelDrafts {
    /// With so many slots and pages, nothing in them.
    pub(super) fn new(
        model: DraftModel,
        slots: usize,
        pages: usize,
        page_size: usize,
    ) -> ModelDrafts {
        ModelDrafts {
            model,
            page_size,
            step: 0,
            rows: (0..slots).map(|_| None).collect(),
            filled: vec![None; pages],
            drafting: Vec::new(),
            proposed: Vec::new(),
        }
    }

    /// Drafts that fit behind so many known tokens: the last one is not fed.
    pub(super) fn room(&self, known: usize) -> usize {
        (self.model.longest + 1).saturating_sub(known)
    }

    /// These pages are to hold other tokens from now on.
    pub(super) fn renew(&mut self, pages: &[PageId]) {
        pages.iter().for_each(|page| self.filled[page.index()] = None);
    }

    /// The drafts that were said last; once.
    pub(super) fn take(&mut self) -> Vec<(SlotId, Vec<TokenId>)> {
        std::mem::take(&mut self.proposed)
    }

    /// A new plan, in which nobody drafts yet.
    pub(super) fn begin(&mut self) -> StepPlan {
        self.drafting.clear();
        StepPlan { step: self.step + 1, ..StepPlan::default() }
    }

    /// Feed what is lacking of a sequence, within `budget` token rows, at least one; if that is all
    /// it drafts `most` tokens, at least one. Gives the token rows.
    pub(super) fn feed(
        &mut self,
        mut of: KnownSequence,
        most: usize,
        budget: usize,
        plan: &mut StepPlan,
    ) -> usize {
        if self.model.head {
            // Nobody predicted the first token.
            of.tokens = of.tokens.get(1..).unwrap_or_default();
        }
        if of.tokens.is_empty() {
            return 0;
        }
        let from = self.open(of, plan);
        let KnownSequence { slot, tokens, pages, generation, .. } = of;
        let end = tokens.len().min(from + budget);
        let whole = end == tokens.len();
        let start = plan.chunk_tokens.len();
        plan.chunk_tokens.extend(&tokens[from..end]);
        plan.push(slot, Feed::Known(start..plan.chunk_tokens.len()), whole);

        for (n, page) in pages[..end / self.page_size].iter().enumerate() {
            self.filled[page.index()] = Some(tokens[(n + 1) * self.page_size - 1]);
        }
        let length = end + if whole { most - 1 } else { 0 };
        let (pages, guessed) = (pages.len(), Vec::new());
        let row = DraftRow { generation, pages, length, known: end, guessed };
        self.rows[slot.index()] = Some(row);
        if whole {
            self.drafting.push((slot, most));
        }
        end - from
    }

    /// The plan is final: it, and steps behind it in which each that drafts feeds what it guessed
    /// last and guesses once more.
    pub(super) fn end(&mut self, plan: StepPlan) -> Vec<StepPlan> {
        if plan.chunks.is_empty() {
            return Vec::new();
        }
        let most = self.drafting.iter().map(|&(_, most)| most).max().unwrap_or(0);
        let mut plans = vec![plan];
        for guess in 1..most {
            let step = self.step + 1 + guess as u64;
            let mut plan = StepPlan { step, ..StepPlan::default() };
            for &(slot, _) in self.drafting.iter().filter(|&&(_, most)| most > guess) {
                plan.push(slot, Feed::LastSampled, true);
            }
            plans.push(plan);
        }
        self.step += plans.len() as u64;
        plans
    }

    /// The results of these steps, in order.
    pub(super) fn hear(&mut self, results: &[StepResult]) {
        for (slot, most) in std::mem::take(&mut self.drafting) {
            let samples = results.iter().flat_map(|result| &result.samples);
            let said = samples.filter(|sample| sample.slot == slot).map(|sample| &sample.tokens);
            let said: Vec<Option<TokenId>> =
                said.map(|tokens| tokens.as_ref().ok()?.first().copied()).collect();

            // The device goes on with token 0 where it has none to choose.
            let fed = said.iter().take(most - 1).map(|token| token.unwrap_or(TokenId(0)));
            if let Some(row) = &mut self.rows[slot.index()] {
                row.guessed = fed.collect();
            }
            let drafts: Vec<TokenId> = said.into_iter().map_while(|token| token).collect();
            if !drafts.is_empty() {
                self.proposed.push((slot, drafts));
            }
        }
    }

    /// How many of these tokens are in these pages, from the first on.
    fn had(&self, tokens: &[TokenId], pages: &[PageId]) -> usize {
        for (n, page) in pages.iter().enumerate() {
            let last = (n + 1) * self.page_size - 1;
            match self.filled[page.index()] {
                Some(token) if tokens.get(last) == Some(&token) => {}
                Some(_) => return last,
                None => return n * self.page_size,
            }
        }
        pages.len() * self.page_size
    }

    /// Make the device's slot that of the sequence, behind as many of its tokens as the device has,
    /// but the newest one, with all of its pages. Gives how many those are.
    fn open(&self, of: KnownSequence, plan: &mut StepPlan) -> usize {
        let KnownSequence { slot, generation, tokens, pages, .. } = of;
        let before = tokens.len() - 1;
        let row = self.rows[slot.index()].as_ref();
        let current = row.filter(|row| row.generation == generation);
        let from = match current {
            Some(row) => {
                let behind = tokens[row.known..].iter().zip(&row.guessed);
                let right = behind.take_while(|(token, guess)| token == guess).count();
                let right = if self.model.head { 0 } else { right };
                let from = (row.known + right).min(before);
                if from < row.length {
                    plan.changes.push(SlotChange::Truncate { slot, length: from as u32 });
                }
                from
            }
            None => {
                let from = self.had(tokens, pages).min(before);
                plan.changes.extend(row.map(|_| SlotChange::Close { slot }));
                let open = opening(&self.model, slot, from, of.sampler);
                plan.changes.push(SlotChange::Open(Box::new(open)));
                from
            }
        };

        let held = current.map_or(0, |row| row.pages);
        if held < pages.len() {
            let pages = pages[held..].to_vec();
            plan.changes.push(SlotChange::Pages { slot, group: GroupId(0), pages });
        }
        from
    }
}

/// A slot of the drafting device that goes on from `cached` positions. Its sampler is the
/// sequence's, but for what depends on its history, which has guesses in it here.
fn opening(model: &DraftModel, slot: SlotId, cached: usize, sampler: &SamplerSpec) -> SlotOpen {
    let likeliest = SamplerSpec {
        allowed: sampler.allowed.clone(),
        bias: sampler.bias.clone(),
        ahead: u32::from(model.head),
        ..SamplerSpec::default()
    };
    let sampler = if model.samples {
        SamplerSpec {
            temperature: sampler.temperature,
            top_k: sampler.top_k,
            top_p: sampler.top_p,
            min_p: sampler.min_p,
            seed: sampler.seed,
            ..likeliest
        }
    } else {
        likeliest
    };

    SlotOpen {
        slot,
        adapter: AdapterId(0),
        tokens: Arc::from([]),
        prompt_tokens: 0,
        cached_tokens: cached as u32,
        sampler: Arc::new(sampler),
    }
}
