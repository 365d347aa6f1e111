//! A device with the model that drafts, which is the target's own: every guess of a sequence
//! without an adapter must be right, or it attended to what is not the sequence's. Pages that the
//! scheduler takes for filled and that are not give wrong guesses here. It sees no images: what it
//! guesses behind them is not judged.

use triton_vllm::ids::{AdapterId, TokenId};
use triton_vllm::plan::{Feed, Sampled, SlotChange, StepPlan, StepResult};
use triton_vllm::sampling::NonFinite;
use triton_vllm::scheduler::{NewSequence, SchedulerConfig};

use super::device::{choose, history, history_before_any, is_broken, mix, straight_run};
use super::drafts::Known;

struct Row {
    seed: u64,
    table: Vec<usize>,
    length: usize,
    last: Option<TokenId>,
    /// All that it was fed is the sequence's.
    right: bool,
}

pub struct DraftDevice {
    page_size: usize,
    rows: Vec<Option<Row>>,
    /// By page, then token.
    memory: Vec<Vec<Option<u64>>>,
    step: u64,
    /// Requests, by their seeds; None: slots do not say theirs.
    known: Option<Known>,
    /// Guesses that were looked at.
    pub judged: u64,
}

impl DraftDevice {
    pub fn new(config: &SchedulerConfig, known: Option<Known>) -> DraftDevice {
        DraftDevice {
            page_size: config.page_size,
            rows: (0..config.max_num_seqs).map(|_| None).collect(),
            memory: vec![vec![None; config.page_size]; config.pages],
            step: 0,
            known,
            judged: 0,
        }
    }

    pub fn run(&mut self, plan: &StepPlan) -> StepResult {
        self.step += 1;
        assert_eq!(plan.step, self.step, "steps are counted");
        plan.changes.iter().for_each(|change| self.change(change));
        let mut result = StepResult { step: plan.step, ..StepResult::default() };
        for (at, chunk) in plan.chunks.iter().enumerate() {
            let mut row = self.rows[chunk.slot.index()].take().expect("an open slot");
            let fed = match &chunk.feed {
                Feed::LastSampled => vec![row.last.expect("a guess")],
                Feed::Known(range) => {
                    row.right = true;
                    plan.chunk_tokens[range.clone()].to_vec()
                }
            };
            assert!(!fed.is_empty(), "a chunk feeds something");
            fed.into_iter().for_each(|token| self.write(&mut row, token));
            if plan.samples(at) {
                let tokens = self.guess(&mut row).map(|token| vec![token]);
                result.samples.push(Sampled { slot: chunk.slot, tokens, logprobs: Vec::new() });
            }
            self.rows[chunk.slot.index()] = Some(row);
        }
        result
    }

    fn change(&mut self, change: &SlotChange) {
        match change {
            SlotChange::Open(open) => {
                let row = &mut self.rows[open.slot.index()];
                assert!(row.is_none() && open.adapter == AdapterId(0), "slot {}", open.slot);
                let (seed, length) = (open.sampler.seed, open.cached_tokens as usize);
                *row = Some(Row { seed, table: vec![], length, last: None, right: true });
            }
            SlotChange::Pages { slot, pages, .. } => {
                let row = self.rows[slot.index()].as_mut().expect("an open slot");
                row.table.extend(pages.iter().map(|page| page.index()));
            }
            SlotChange::Truncate { slot, length } => {
                let row = self.rows[slot.index()].as_mut().expect("an open slot");
                assert!((*length as usize) < row.length, "it goes back");
                row.length = *length as usize;
                row.last = None;
            }
            SlotChange::Close { slot } => {
                assert!(self.rows[slot.index()].take().is_some(), "an open slot");
            }
            other => panic!("{other:?} of a drafting device"),
        }
    }

    fn at(&self, row: &Row, position: usize) -> u64 {
        let page = row.table[position / self.page_size];
        self.memory[page][position % self.page_size].expect("K and V that were written")
    }

    fn write(&mut self, row: &mut Row, token: TokenId) {
        let before = match row.length.checked_sub(1) {
            Some(last) => self.at(row, last),
            None => history_before_any(AdapterId(0)),
        };
        let page = row.table[row.length / self.page_size];
        self.memory[page][row.length % self.page_size] = Some(history(before, token));
        row.length += 1;
    }

    fn guess(&mut self, row: &mut Row) -> Result<TokenId, NonFinite> {
        let attended = (0..row.length).fold(0, |sum, position| mix(sum, self.at(row, position)));
        if is_broken(attended, row.seed, row.length) {
            row.last = Some(TokenId(0));
            row.right = false;
            return Err(NonFinite);
        }
        let token = choose(attended, row.seed, row.length);
        row.last = Some(token);

        let known = self.known.as_ref().map(|known| known.lock());
        let request = known.as_ref().and_then(|known| {
            let of_row = known.iter().find(|new| new.sampler.seed == row.seed);
            let seen = |new: &&NewSequence| new.adapter == AdapterId(0) && new.images.is_none();
            of_row.filter(seen).filter(|_| row.right)
        });
        if let Some(new) = request {
            let outputs = row.length - new.prompt.len() + 1;
            let right = straight_run(new, outputs).pop();
            assert_eq!(Some(token), right, "request {}: output {outputs} is guessed", new.id);
            self.judged += 1;
        }
        Ok(token)
    }
}
