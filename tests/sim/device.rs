//! A device that executes step plans literally, on made-up K and V, and believes nothing: each
//! position that attention would read must hold the history of tokens, and of images in their
//! place, that belongs there.

use std::sync::Arc;

use triton_vllm::ids::{AdapterId, SlotId, SnapshotId, TokenId};
use triton_vllm::plan::{
    Feed, PromptImages, Purpose, Sampled, SeqChunk, SlotChange, SlotOpen, StepPlan, StepResult,
};
use triton_vllm::sampling::NonFinite;
use triton_vllm::scheduler::{NewSequence, SchedulerConfig};

pub const VOCAB: u64 = 40;

pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// The "model": K and V of a position say which tokens led to it, the sampled token depends on all
// of them; once in a while there is none, for the logits are not finite. Device and reference share
// these lines and nothing else.

pub fn history_before_any(adapter: AdapterId) -> u64 {
    mix(1 + u64::from(adapter.0), 77)
}

pub fn history(before: u64, token: TokenId) -> u64 {
    mix(before, 1 + u64::from(token.0))
}

/// The same behind what stands at `position`: the token, or a part of an image.
pub fn history_at(
    before: u64,
    images: Option<&PromptImages>,
    position: usize,
    token: TokenId,
) -> u64 {
    let mut spans = images.iter().flat_map(|images| images.overlapping(position..position + 1));
    match spans.next() {
        Some(span) => {
            let part = (span.first + position - span.start) as u64;
            mix(mix(before, 1 << 40 | part), span.patches.hash[0].into())
        }
        None => history(before, token),
    }
}

pub fn choose(attended: u64, seed: u64, position: usize) -> TokenId {
    TokenId((mix(attended, mix(seed, position as u64)) % VOCAB) as u32)
}

pub fn is_broken(attended: u64, seed: u64, position: usize) -> bool {
    mix(attended ^ seed, position as u64).is_multiple_of(400)
}

/// What `count` tokens follow a prompt, one sequence alone and without pages.
pub fn straight_run(new: &NewSequence, count: usize) -> Vec<TokenId> {
    let mut tokens = new.prompt.to_vec();
    let mut state = history_before_any(new.adapter);
    let mut attended = 0;
    let mut at = 0;
    while tokens.len() < new.prompt.len() + count {
        while at < tokens.len() {
            state = history_at(state, new.images.as_deref(), at, tokens[at]);
            attended = mix(attended, state);
            at += 1;
        }
        tokens.push(choose(attended, new.sampler.seed, at));
    }
    tokens.split_off(new.prompt.len())
}

/// A slot's row. `histories[p]` is what position p must hold.
struct SlotRow {
    open: SlotOpen,
    images: Option<Arc<PromptImages>>,
    table: Vec<usize>,
    histories: Vec<u64>,
    last: Option<TokenId>,
    /// What led here, as a state that moves with each token; None: not told yet.
    state: Option<u64>,
    /// Those behind the rows of the newest chunk but its last, as far as it may be drafts.
    spares: Vec<Option<u64>>,
}

pub struct Device {
    config: SchedulerConfig,
    rows: Vec<Option<SlotRow>>,
    /// By page, then token: the history that was written there.
    memory: Vec<Vec<Option<u64>>>,
    /// Open rows that name each page.
    holders: Vec<u32>,
    /// Seeds of sequences that had no token to choose.
    pub broken: Vec<u64>,
    /// Tokens of images that were fed, and drafts of sequences with images.
    pub image_tokens: u64,
    pub image_drafts: u64,
    /// What each adapter slot holds; 0: nothing.
    adapter_slots: Vec<AdapterId>,
    /// Copies of states.
    snapshots: Vec<Option<u64>>,
    step: u64,
}

impl Device {
    pub fn new(config: &SchedulerConfig) -> Device {
        Device {
            rows: (0..config.max_num_seqs).map(|_| None).collect(),
            memory: vec![vec![None; config.page_size]; config.pages],
            holders: vec![0; config.pages],
            broken: Vec::new(),
            image_tokens: 0,
            image_drafts: 0,
            adapter_slots: vec![AdapterId(0); config.max_loras],
            snapshots: vec![None; config.state.map_or(0, |state| state.snapshots)],
            step: 0,
            config: config.clone(),
        }
    }

    pub fn run(&mut self, plan: &StepPlan) -> StepResult {
        self.step += 1;
        assert_eq!(plan.step, self.step, "steps are counted");
        plan.changes.iter().for_each(|change| self.change(change, &plan.images));
        self.check_cached(plan);
        self.check_limits(plan);
        for (at, chunk) in plan.chunks.iter().enumerate() {
            self.write(plan, chunk, plan.samples(at), drafts_of(plan, at).count());
        }
        let sampled = (0..plan.chunks.len()).filter(|&at| plan.samples(at));
        let samples = sampled.map(|at| self.sample(plan, at)).collect();
        // Chunks that do not sample attend too; each position of theirs must be right as well.
        for (_, chunk) in plan.chunks.iter().enumerate().filter(|&(at, _)| !plan.samples(at)) {
            self.attend(chunk.slot);
        }
        StepResult { step: plan.step, samples, ..StepResult::default() }
    }

    /// Seeds of the sequences that have a slot.
    pub fn open_seeds(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.iter().flatten().map(|row| row.open.sampler.seed)
    }

    fn change(&mut self, change: &SlotChange, images: &[(SlotId, Arc<PromptImages>)]) {
        match change {
            SlotChange::Open(open) => {
                assert!(self.rows[open.slot.index()].is_none(), "slot {} is taken", open.slot);
                let held =
                    open.adapter == AdapterId(0) || self.adapter_slots.contains(&open.adapter);
                assert!(
                    held,
                    "adapter {} is in no adapter slot of {:?}",
                    open.adapter, self.adapter_slots
                );

                let mut state = history_before_any(open.adapter);
                let cached = &open.tokens[..open.cached_tokens as usize];
                let images = images.iter().find(|(slot, _)| *slot == open.slot);
                let images = images.map(|(_, images)| Arc::clone(images));
                let known = cached.iter().enumerate().map(|(position, &token)| {
                    state = history_at(state, images.as_deref(), position, token);
                    state
                });
                let histories = known.collect();

                let state = (open.cached_tokens == 0).then(|| history_before_any(open.adapter));
                let open_row = (**open).clone();
                let table = vec![];
                let (last, spares) = (None, vec![]);
                let row = SlotRow { open: open_row, images, table, histories, last, state, spares };
                self.rows[open.slot.index()] = Some(row);
            }
            SlotChange::Pages { slot, group, pages } => {
                assert_eq!(group.0, 0, "there is one group");
                let row = self.rows[slot.index()].as_mut().expect("pages for an open slot");
                for page in pages {
                    assert!(page.0 != 0 && page.index() < self.config.pages, "page {page}");
                    self.holders[page.index()] += 1;
                    row.table.push(page.index());
                }
            }
            SlotChange::Truncate { slot, length } => {
                let row = self.rows[slot.index()].as_mut().expect("an open slot goes back");
                let back = row.histories.len().checked_sub(*length as usize).expect("not ahead");
                assert!(back > 0, "slot {slot} goes back");
                row.histories.truncate(*length as usize);
                if self.config.state.is_some() {
                    let spare = row.spares.len().checked_sub(back).expect("a state behind it");
                    row.state = row.spares[spare];
                    row.spares.truncate(spare);
                }
            }
            SlotChange::Close { slot } => {
                let row = self.rows[slot.index()].take().expect("an open slot is closed");
                row.table.iter().for_each(|&page| self.holders[page] -= 1);
            }
            SlotChange::SaveState { slot, snapshot } => {
                let row = self.rows[slot.index()].as_ref().expect("the state of an open slot");
                self.snapshots[snapshot.index()] = row.state;
            }
            SlotChange::RestoreState { slot, snapshot: SnapshotId(snapshot) } => {
                let row = self.rows[slot.index()].as_mut().expect("a state for an open slot");
                let state = self.snapshots[*snapshot as usize];
                assert_eq!(state, row.histories.last().copied(), "snapshot {snapshot}");
                row.state = state;
            }
            SlotChange::Adapter { adapter_slot, adapter } => {
                assert!(
                    !self.adapter_slots.contains(adapter),
                    "adapter {adapter} has an adapter slot already"
                );

                let old =
                    std::mem::replace(&mut self.adapter_slots[adapter_slot.index()], *adapter);
                let mut open = self.rows.iter().flatten();
                let used = old != AdapterId(0) && open.any(|row| row.open.adapter == old);
                assert!(
                    !used,
                    "adapter slot {adapter_slot} is taken from adapter {old}, which runs"
                );
            }
        }
    }

    /// A prefix hit must be there before anything of the step is written.
    fn check_cached(&self, plan: &StepPlan) {
        for change in &plan.changes {
            let SlotChange::Open(open) = change else { continue };
            self.attend(open.slot);
        }
    }

    fn check_limits(&self, plan: &StepPlan) {
        assert!(!plan.chunks.is_empty(), "an empty step");
        assert!(plan.tokens() <= self.config.max_num_batched_tokens, "the budget of a step");
        let mut slots: Vec<SlotId> = plan.chunks.iter().map(|chunk| chunk.slot).collect();
        slots.sort();
        slots.dedup();
        assert_eq!(slots.len(), plan.chunks.len(), "each slot at most once");
        let threshold = self.config.long_prefill_token_threshold;
        if threshold > 0 && self.config.chunked_prefill {
            let short = |chunk: &SeqChunk| {
                chunk.feed.tokens() <= threshold || self.feeds_a_whole_image(chunk)
            };
            assert!(plan.chunks.iter().all(short), "the threshold");
        }
        assert!(self.holders.iter().all(|&holders| holders as usize <= self.config.max_num_seqs));
    }

    /// The chunk begins with an image that must be fed in one step, and ends with it.
    fn feeds_a_whole_image(&self, chunk: &SeqChunk) -> bool {
        let row = self.rows[chunk.slot.index()].as_ref().expect("a chunk of an open slot");
        let (fed, tokens) = (row.histories.len(), chunk.feed.tokens());
        let whole = self.config.images.is_some_and(|limits| limits.whole);
        row.images.as_ref().filter(|images| whole || images.both_ways.anywhere()).is_some_and(
            |images| {
                images.spans.iter().any(|span| (span.start, span.end()) == (fed, fed + tokens))
            },
        )
    }

    fn write(&mut self, plan: &StepPlan, chunk: &SeqChunk, samples: bool, drafts: usize) {
        let slot = self.rows[chunk.slot.index()].as_mut().expect("a chunk of an open slot");
        let start = slot.histories.len();
        let fed: Vec<TokenId> = match &chunk.feed {
            Feed::LastSampled => vec![slot.last.expect("the slot sampled a token")],
            Feed::Known(range) => plan.chunk_tokens[range.clone()].to_vec(),
        };

        assert!(!fed.is_empty(), "a chunk feeds something");
        slot.spares.clear();
        let spares = self.config.speculation.as_ref().map_or(0, |s| s.lengths.most());
        let kept = if fed.len() <= 1 + spares { fed.len() - 1 } else { 0 };
        let end = start + fed.len();
        assert!(end < self.config.max_model_len, "the last token is never fed");

        if drafts > 0 {
            let newest = slot.last.unwrap_or_else(|| slot.open.tokens[start]);
            assert_eq!((fed[0], drafts), (newest, fed.len() - 1), "drafts follow the newest token");
        } else if let Feed::Known(_) = chunk.feed {
            assert_eq!(fed, slot.open.tokens[start..end], "a chunk continues the known tokens");
            assert_eq!(samples, end == slot.open.tokens.len(), "the chunk's end samples");
            // Where a step has no room for an image, the chunk ends in front of it in any case, and
            // what is left of the prompt takes what room it finds.
            let whole = !self.config.chunked_prefill && slot.images.is_none();
            assert!(samples || !whole, "a prompt was cut");
        }

        if let Some(images) = &slot.images {
            let whole = self.config.images.expect("a model that sees images").whole;
            assert_eq!(images.chunk_end(start, end, whole), end, "a chunk cuts an image");
            let fed = |at: &usize| images.overlapping(*at..*at + 1).next().is_some();
            self.image_tokens += (start..end).filter(fed).count() as u64;
            self.image_drafts += drafts as u64;
        }
        for (position, token) in (start..end).zip(fed) {
            let before = match slot.histories.last() {
                Some(&state) => state,
                None => history_before_any(slot.open.adapter),
            };
            slot.histories.push(history_at(before, slot.images.as_deref(), position, token));
            if self.config.state.is_some() {
                assert_eq!(slot.state, Some(before), "slot {}: its state", chunk.slot);
                slot.state = slot.histories.last().copied();
                if position < start + kept {
                    slot.spares.push(slot.state);
                }
            }
            let page = slot.table[position / self.config.page_size];
            assert_eq!(self.holders[page], 1, "slot {} writes to shared page {page}", chunk.slot);
            self.memory[page][position % self.config.page_size] = slot.histories.last().copied();
        }
    }

    /// Read all positions of a slot through its table.
    fn attend(&self, slot: SlotId) -> u64 {
        let row = self.rows[slot.index()].as_ref().expect("an open slot");
        self.attend_to(slot, row.histories.len())
    }

    /// Read its first `length` positions.
    fn attend_to(&self, slot: SlotId, length: usize) -> u64 {
        let row = self.rows[slot.index()].as_ref().expect("an open slot");
        let size = self.config.page_size;
        (0..length).fold(0, |attended, position| {
            let found = self.memory[row.table[position / size]][position % size];
            let right = row.histories[position];
            assert_eq!(found, Some(right), "slot {slot}, position {position}: its K and V");
            mix(attended, right)
        })
    }

    /// The tokens of a chunk: as many of its drafts as are right, and one.
    fn sample(&mut self, plan: &StepPlan, chunk: usize) -> Sampled {
        let slot = plan.chunks[chunk].slot;
        let drafts: Vec<TokenId> = drafts_of(plan, chunk).collect();
        let row = self.rows[slot.index()].as_ref().expect("an open slot");
        let (seed, length) = (row.open.sampler.seed, row.histories.len());
        let mut tokens = Vec::new();
        let mut finite = true;
        for nth in 0..=drafts.len() {
            let position = length - drafts.len() + nth;
            let attended = self.attend_to(slot, position);
            if is_broken(attended, seed, position) {
                finite = nth > 0;
                break;
            }
            tokens.push(choose(attended, seed, position));
            if drafts.get(nth) != tokens.last() {
                break;
            }
        }

        let tokens = if finite { Ok(tokens) } else { Err(NonFinite) };
        if tokens.is_err() {
            self.broken.push(seed);
        }
        let last = tokens.as_ref().map_or(TokenId(0), |tokens| *tokens.last().expect("one"));
        self.rows[slot.index()].as_mut().expect("an open slot").last = Some(last);
        Sampled { slot, tokens, logprobs: Vec::new() }
    }
}

/// The drafts of a chunk, in order.
fn drafts_of(plan: &StepPlan, chunk: usize) -> impl Iterator<Item = TokenId> + '_ {
    plan.logits.iter().filter(move |row| row.chunk == chunk).filter_map(|row| match row.purpose {
        Purpose::Verify { draft } => Some(draft),
        _ => None,
    })
}
