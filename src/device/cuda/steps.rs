//! Steps in flight: the buffers that a step's input, token masks and results pass through, and the
//! order in which they come back. `Cuda` calls it around the launches of a step; it knows no op.
//!
//! On the GPU there is one of each buffer, because the stream puts steps in order. Pinned memory
//! comes in a ring: the host writes one while the GPU still reads another.

use std::collections::VecDeque;
use std::sync::Arc;

use super::abi::{FetchInput, SlotRows, NO_MASK};
use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::memory::{Memory, Pinned};
use super::reports::{Reports, MOST_ANSWER_WORDS};
use super::slots::{RowLayout, Slots};
use crate::device::batch::{Batch, BatchLogits};
use crate::device::DeviceLimits;
use crate::error::Result;
use crate::internal;
use crate::plan::{Purpose, StepResult, TokenMasks};

/// Steps that may be enqueued before the first is collected.
pub const DEPTH: usize = 2;
/// One more than the steps in flight: the one that is being written.
const RING: usize = DEPTH + 1;
/// Words of input beyond tokens and records that fit without growing: openings and pages of a usual
/// step.
const USUAL_WORDS: usize = 64 << 10;

/// Buffers on the GPU.
pub struct OnDevice {
    pub input: Memory,
    /// Slot rows.
    pub rows: Memory,
    pub token: Memory,
    pub position: Memory,
    /// Three of each row, by which it turns.
    pub places: Memory,
    pub slot_of: Memory,
    /// 1 + the adapter slot of a row's adapter, 0 = none.
    pub adapter_slot_of: Memory,
    /// Token row of each logits row, its slot, and its target.
    pub gather_row: Memory,
    pub sample_slot: Memory,
    pub target: Memory,
    /// Where it stands among drafts; what was seen of it.
    pub drafts: Memory,
    pub seen: Memory,
    /// Ids, then answers to requests for logprobs.
    pub out: Memory,
    sample_input: Option<Memory>,
}

impl OnDevice {
    /// The slot rows, for kernels.
    pub fn slot_rows(&self, layout: &RowLayout) -> SlotRows {
        layout.at(self.rows.address)
    }
}

/// Buffers on the host.
struct StagingBuffers {
    input: Pinned,
    results: Pinned,
    sample_input: Option<Pinned>,
    /// Logits rows that the host wants.
    whole: Option<Pinned>,
    /// The GPU has read the input; it has done everything of the step.
    sent: Event,
    done: Event,
}

/// What `sample` reads beside the slots: requests for logprobs, and token masks (null where the
/// step has none) of so many words each.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleInput {
    pub requests: DevicePtr,
    pub mask_of: DevicePtr,
    pub masks: DevicePtr,
    pub words_per_mask: u32,
}

/// A step that was enqueued and not collected.
struct Pending {
    staging: usize,
    step: u64,
    logits_rows: Vec<BatchLogits>,
    reports: Reports,
    /// Of a step that pooled: elements of a vector.
    width: Option<usize>,
}

pub struct Steps {
    context: Arc<Context>,
    pub device: OnDevice,
    /// Of the current step's sequences, one behind the other, on the GPU.
    pub records: DevicePtr,
    ring: Vec<StagingBuffers>,
    /// The current step's staging.
    current: usize,
    pending: VecDeque<Pending>,
}

impl Steps {
    pub fn new(context: &Arc<Context>, limits: &DeviceLimits, layout: &RowLayout) -> Result<Steps> {
        let words = |n: usize, what: &str| Memory::new(context, 4 * n, what);
        let input = (USUAL_WORDS + limits.step_tokens + 8 * limits.logits_rows).next_power_of_two();
        let tokens = |what| words(limits.step_tokens, what);
        let logits = |what| words(limits.logits_rows, what);
        // Ids, and an answer for each.
        let out = limits.logits_rows * (1 + MOST_ANSWER_WORDS);
        let device = OnDevice {
            input: words(input, "step inputs")?,
            rows: words(layout.stride as usize * limits.slots, "slot rows")?,
            token: tokens("token ids")?,
            position: tokens("positions")?,
            places: words(3 * limits.step_tokens, "places of rows")?,
            slot_of: tokens("slots of rows")?,
            adapter_slot_of: tokens("adapter slots of rows")?,
            gather_row: logits("sampling rows")?,
            sample_slot: logits("sampling slots")?,
            target: logits("targets")?,
            drafts: words(2 * limits.logits_rows, "drafts of rows")?,
            seen: logits("what was seen of rows")?,
            out: words(out, "sampled ids")?,
            sample_input: None,
        };
        device.seen.fill(0)?;
        let staging = || -> Result<StagingBuffers> {
            Ok(StagingBuffers {
                input: Pinned::new(context, 4 * input)?,
                results: Pinned::new(context, 4 * out)?,
                sample_input: None,
                whole: None,
                sent: Event::new(context, false)?,
                done: Event::new(context, false)?,
            })
        };
        let ring = (0..RING).map(|_| staging()).collect::<Result<_>>()?;
        let context = context.clone();
        let records = DevicePtr::NULL;
        Ok(Steps { context, device, records, ring, current: 0, pending: VecDeque::new() })
    }

    /// Put the encoded input of a step where the launch that comes back fetches it from, in one
    /// piece: `first`, then the slots' part, which `records` says the place of. True if the buffer
    /// had to grow, and so has moved.
    pub fn send(&mut self, slots: &Slots, first: &[u32]) -> Result<(FetchInput, bool)> {
        self.current = (self.current + 1) % RING;
        if self.pending.iter().any(|pending| pending.staging == self.current) {
            return Err(internal!("more than {} steps in flight", DEPTH));
        }
        let words = first.len() + slots.words();
        let staging = &mut self.ring[self.current];
        staging.sent.wait()?;
        staging.done.wait()?;
        if staging.input.bytes < 4 * words {
            staging.input = Pinned::new(&self.context, 4 * words.next_power_of_two())?;
        }
        let grows = self.device.input.bytes < 4 * words;
        if grows {
            // Freeing waits for the steps that still read it.
            let bytes = 4 * words.next_power_of_two();
            self.device.input = Memory::new(&self.context, bytes, "step inputs")?;
        }
        let (front, rest) = staging.input.words().split_at_mut(first.len());
        front.copy_from_slice(first);
        slots.write(rest);
        let (from, to) = (staging.input.device_address(), self.device.input.address);
        self.records = to.offset_words(first.len());
        Ok((FetchInput { from, to, words: words as u32, unused: 0 }, grows))
    }

    /// The fetch of the input is enqueued.
    pub fn sent(&mut self) -> Result<()> {
        self.ring[self.current].sent.record()
    }

    /// Where a step's kernels may put its ids, for the host.
    pub fn results(&self) -> DevicePtr {
        self.ring[self.current].results.device_address()
    }

    /// Copy to the GPU what `sample` needs beyond the slots' rows: requests for logprobs, then
    /// which mask each logits row has, then the masks, each as long as the vocabulary; bits that
    /// a mask has not are 0.
    pub fn send_sample_input(
        &mut self,
        masks: &TokenMasks,
        logits_rows: &[BatchLogits],
        vocab: usize,
        requests: &[u32],
    ) -> Result<SampleInput> {
        let per_mask = vocab.div_ceil(32);
        let masks_words = match masks.by_slot.len() {
            0 => 0,
            count => logits_rows.len() + per_mask * count,
        };
        let words = requests.len() + masks_words;
        if words == 0 {
            return Ok(SampleInput::default());
        }

        let staging = &mut self.ring[self.current];
        let pinned = grown(&self.context, &mut staging.sample_input, 4 * words)?;
        if self.device.sample_input.as_ref().is_none_or(|m| m.bytes < 4 * words) {
            let bytes = 4 * words.next_power_of_two();
            self.device.sample_input = Some(Memory::new(&self.context, bytes, "token masks")?);
        }
        let Some(memory) = &self.device.sample_input else {
            return Err(internal!("no buffer for masks"));
        };

        let (first, rest) = pinned.words()[..words].split_at_mut(requests.len());
        first.copy_from_slice(requests);
        let mut sent = SampleInput { requests: memory.address, ..SampleInput::default() };
        if masks_words > 0 {
            let (of, words_of) = rest.split_at_mut(logits_rows.len());
            for (of, logits_row) in of.iter_mut().zip(logits_rows) {
                *of = mask_of(masks, logits_row).map_or(NO_MASK, |n| n as u32);
            }
            for (to, (_, mask)) in words_of.chunks_exact_mut(per_mask).zip(&masks.by_slot) {
                let known = mask.len().min(per_mask);
                to[..known].copy_from_slice(&mask[..known]);
                to[known..].fill(0);
            }
            sent.mask_of = memory.address.offset_words(requests.len());
            sent.masks = sent.mask_of.offset_words(logits_rows.len());
            sent.words_per_mask = per_mask as u32;
        }

        memory.write(pinned, words)?;
        Ok(sent)
    }

    /// Fetch a logits row: `vocab` f32 of `from`, the `nth` of `count` that the step fetches.
    pub fn take_row(
        &mut self,
        from: &Memory,
        row: usize,
        nth: usize,
        vocab: usize,
        count: usize,
    ) -> Result<()> {
        let bytes = 4 * vocab;
        let staging = &mut self.ring[self.current];
        let whole = grown(&self.context, &mut staging.whole, bytes * count)?;
        from.read(row * bytes, whole, nth * bytes, bytes)
    }

    /// Everything of the step is enqueued: fetch its ids and answers, unless the ids, which are
    /// all then, went to [`Steps::results`].
    pub fn finish(&mut self, batch: &Batch, reports: Reports, there: bool) -> Result<()> {
        let staging = &mut self.ring[self.current];
        let logits_rows = batch.logits.clone();
        if !logits_rows.is_empty() && !there {
            let words = logits_rows.len() + reports.answer_words;
            self.device.out.read(0, &mut staging.results, 0, 4 * words)?;
        }
        staging.done.record()?;
        let (staging, step) = (self.current, batch.step);
        self.pending.push_back(Pending { staging, step, logits_rows, reports, width: None });
        Ok(())
    }

    /// The same for a step that pooled: fetch its vectors, f32 of `width` each.
    pub fn finish_vectors(&mut self, batch: &Batch, from: &Memory, width: usize) -> Result<()> {
        let staging = &mut self.ring[self.current];
        let logits_rows = batch.logits.clone();
        if !logits_rows.is_empty() {
            let bytes = 4 * width * logits_rows.len();
            from.read(0, grown(&self.context, &mut staging.whole, bytes)?, 0, bytes)?;
        }
        staging.done.record()?;
        let (staging, step, width) = (self.current, batch.step, Some(width));
        self.pending.push_back(Pending {
            staging,
            step,
            logits_rows,
            reports: Reports::default(),
            width,
        });
        Ok(())
    }

    /// Wait for the oldest step that was not collected.
    pub fn collect(&mut self) -> Result<StepResult> {
        let Some(Pending { staging, step, logits_rows, reports, width }) = self.pending.pop_front()
        else {
            return Err(internal!("no step to collect"));
        };
        let staging = &mut self.ring[staging];
        staging.done.wait()?;
        if let Some(width) = width {
            let words = staging.whole.as_mut().map_or(&[][..], |whole| whole.words());
            return Ok(vectors(step, &logits_rows, words, width));
        }
        let (ids, answers) = staging.results.words().split_at(logits_rows.len());
        let whole: &[u32] = match &mut staging.whole {
            Some(whole) if reports.whole_rows > 0 => whole.words(),
            _ => &[],
        };
        reports.result(step, &logits_rows, ids, answers, whole)
    }
}

/// The mask of a logits row, by its place among the masks.
fn mask_of(masks: &TokenMasks, row: &BatchLogits) -> Option<usize> {
    if matches!(row.purpose, Purpose::Report { .. }) {
        return None;
    }
    let first = masks.by_slot.iter().position(|(slot, _)| *slot == row.slot)?;
    let nth = first + row.drafts.before;
    masks.by_slot.get(nth).filter(|(slot, _)| *slot == row.slot).map(|_| nth)
}

/// The result of a step that pooled, from the bits of its vectors.
fn vectors(step: u64, logits_rows: &[BatchLogits], words: &[u32], width: usize) -> StepResult {
    let mut result = StepResult { step, ..StepResult::default() };
    for (logits_row, row) in logits_rows.iter().zip(words.chunks_exact(width)) {
        result.push_vector(logits_row.slot, row.iter().map(|&x| f32::from_bits(x)).collect());
    }
    result
}

/// Pinned memory of at least `bytes`.
fn grown<'a>(
    context: &Arc<Context>,
    place: &'a mut Option<Pinned>,
    bytes: usize,
) -> Result<&'a mut Pinned> {
    let old = place.take().filter(|pinned| pinned.bytes >= bytes);
    let pinned = match old {
        Some(pinned) => pinned,
        None => Pinned::new(context, bytes.next_power_of_two())?,
    };
    Ok(place.insert(pinned))
}
