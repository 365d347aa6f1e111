//! Tokens of sequences with drafts against those of the same device without: right drafts, wrong
//! ones at every place, and none, under every sampler of the table, some with a mask for each
//! position.

use std::sync::Arc;

use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::DType;
use triton_vllm::ids::{SlotId, TokenId};
use triton_vllm::plan::{Feed, StepPlan, StepResult, TokenMasks};
use triton_vllm::sampling::TokenLogprobs;

use super::grader::{self, gpu, Bench, Graded, Random, Setup};
use super::{close, samplers, Sequence, WORDS};

/// Tokens of each sequence behind its prompt.
const OUTPUTS: usize = 24;
/// Drafts at most.
const DRAFTS: usize = 5;
const WIDTH: usize = 64;

/// A device whose logits depend on the token that is fed.
struct Rig<D: Graded> {
    bench: Bench<D>,
    table: D::Weight,
    head: D::Weight,
    x: D::Tensor,
    picked: D::Tensor,
    logits: D::Tensor,
    sequences: Vec<Sequence>,
}

impl<D: Graded> Rig<D> {
    /// Its sequences have fed their prompts, and have their first token.
    fn new(vocab: usize) -> (Rig<D>, StepResult) {
        let slots = 2 * samplers(vocab).len();
        let setup = Setup { slots, step_tokens: 640, ..Setup::default() };
        let mut bench = Bench::<D>::new(DType::F32, &setup);
        let rows = slots * (1 + DRAFTS);
        let mut random = Random(29);
        let sequences = (0..slots).map(|slot| Sequence::new(slot, vocab, &mut random));
        let sequences: Vec<Sequence> = sequences.collect();
        let mut plan = StepPlan::default();
        for (slot, sequence) in sequences.iter().enumerate() {
            bench.open(slot, &sequence.tokens, sequence.spec.clone());
            let start = plan.chunk_tokens.len();
            plan.chunk_tokens.extend(&sequence.tokens);
            plan.push(SlotId(slot as u32), Feed::Known(start..plan.chunk_tokens.len()), true);
        }

        let table = bench.table(21, WORDS as usize, WIDTH);
        let head = bench.linear(22, vocab, WIDTH);
        let x = bench.tensor(setup.step_tokens, WIDTH);
        let picked = bench.tensor(rows, WIDTH);
        let logits = bench.dev.logits_tensor(rows, vocab).unwrap();
        let mut rig = Rig { bench, table, head, x, picked, logits, sequences };
        let first = rig.run(plan, &TokenMasks::default());
        (rig, first)
    }

    fn run(&mut self, plan: StepPlan, masks: &TokenMasks) -> StepResult {
        let Rig { bench, table, head, x, picked, logits, .. } = self;
        bench.begin(plan);
        bench.dev.embed(table, 1.0, x).unwrap();
        bench.dev.gather(x, picked).unwrap();
        bench.dev.logits(head, None, picked, logits).unwrap();
        bench.dev.sample(logits, masks).unwrap();
        bench.dev.collect().unwrap()
    }
}

/// What may follow so many outputs of a slot that has a grammar: three tokens of four.
fn mask(slot: usize, outputs: usize, vocab: usize) -> Option<Arc<[u32]>> {
    let mut random = Random((97 * slot + outputs + 1) as u64);
    let words = (0..vocab.div_ceil(32)).map(|_| random.next() | random.next());
    (slot % 3 == 1).then(|| words.collect())
}

/// The masks of a slot with so many outputs that feeds these drafts: none behind a forbidden one.
fn add_masks(
    masks: &mut TokenMasks,
    slot: usize,
    outputs: usize,
    drafts: &[TokenId],
    vocab: usize,
) {
    for nth in 0..=drafts.len() {
        let Some(mask) = mask(slot, outputs + nth, vocab) else { return };
        masks.by_slot.push((SlotId(slot as u32), mask.clone()));
        let allows = |draft: &TokenId| mask[draft.index() / 32] >> (draft.0 % 32) & 1 == 1;
        if !drafts.get(nth).is_some_and(allows) {
            return;
        }
    }
}

/// Outputs of a sequence, and what is reported of them.
#[derive(Default, Clone)]
struct Told {
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprobs>,
}

impl Told {
    fn take(all: &mut [Told], result: &StepResult) {
        for (told, sampled) in all.iter_mut().zip(&result.samples) {
            told.tokens.extend(sampled.tokens.as_ref().expect("finite rows"));
            told.logprobs.extend_from_slice(&sampled.logprobs);
        }
    }
}

/// One token a step.
fn plain<D: Graded>(vocab: usize) -> Vec<Told> {
    let (mut rig, first) = Rig::<D>::new(vocab);
    let mut told = vec![Told::default(); rig.sequences.len()];
    Told::take(&mut told, &first);
    for _ in 1..OUTPUTS + DRAFTS + 1 {
        let mut plan = StepPlan::default();
        let mut masks = TokenMasks::default();
        for (slot, told) in told.iter().enumerate() {
            plan.push(SlotId(slot as u32), Feed::LastSampled, true);
            add_masks(&mut masks, slot, told.tokens.len(), &[], vocab);
        }
        Told::take(&mut told, &rig.run(plan, &masks));
    }
    told
}

fn judge<D: Graded>(vocab: usize) {
    let right = plain::<D>(vocab);
    let (mut rig, first) = Rig::<D>::new(vocab);
    let mut told = vec![Told::default(); rig.sequences.len()];
    Told::take(&mut told, &first);
    let mut random = Random(41);
    while told.iter().any(|told| told.tokens.len() < OUTPUTS) {
        let mut plan = StepPlan::default();
        let mut masks = TokenMasks::default();
        let mut wanted = Vec::new();
        for (slot, (told, right)) in told.iter().zip(&right).enumerate() {
            let id = SlotId(slot as u32);
            let known = told.tokens.len();
            let next = &right.tokens[known.min(OUTPUTS)..];
            let count = random.next() as usize % (DRAFTS + 1);
            let wrong = random.next() as usize % (DRAFTS + 2);
            let mut drafts = next[..count.min(next.len() - 1)].to_vec();
            if let Some(draft) = drafts.get_mut(wrong) {
                *draft = TokenId((draft.0 + 1) % WORDS);
            }
            if known >= OUTPUTS {
                drafts.clear();
            }
            add_masks(&mut masks, slot, known, &drafts, vocab);
            if drafts.is_empty() {
                wanted.push(known + 1);
                plan.push(id, Feed::LastSampled, true);
            } else {
                wanted.push(known + 1 + drafts.len().min(wrong));
                plan.push_drafts(id, told.tokens[known - 1], &drafts);
            }
        }

        let fed: Vec<usize> = plan.chunks.iter().map(|chunk| chunk.feed.tokens()).collect();
        let before: Vec<usize> = told.iter().map(|told| told.tokens.len()).collect();
        let result = rig.run(plan, &masks);
        Told::take(&mut told, &result);
        for (slot, told) in told.iter().enumerate() {
            let came = told.tokens.len();
            assert_eq!(came, wanted[slot], "slot {slot}: tokens of a step");
            let rejected = fed[slot] - (came - before[slot]);
            if rejected > 0 {
                let length = rig.bench.length(slot) - rejected;
                rig.bench.truncate(slot, length);
            }
        }
    }

    for (slot, (got, want)) in told.iter().zip(&right).enumerate() {
        let what = format!("{vocab} tokens, slot {slot}, {:?}", rig.sequences[slot].spec);
        assert_eq!(got.tokens[..OUTPUTS], want.tokens[..OUTPUTS], "{what}");
        let reports = rig.sequences[slot].spec.logprobs.is_some();
        assert_eq!(got.logprobs.len(), if reports { got.tokens.len() } else { 0 }, "{what}");
        let pairs = got.logprobs.iter().zip(&want.logprobs).take(OUTPUTS);
        pairs.for_each(|(got, want)| close(got, want, &what));
    }
}

#[test]
fn the_cpu_takes_with_drafts_what_it_takes_without() {
    judge::<Cpu>(WORDS as usize);
}

#[test]
fn the_gpu_takes_with_drafts_what_it_takes_without() {
    if gpu() {
        let vocabs = [WORDS as usize, 1003, 32_000, 128_256];
        for &vocab in &vocabs[..if grader::small_shapes() { 1 } else { 4 }] {
            judge::<Cuda>(vocab);
        }
    }
}
