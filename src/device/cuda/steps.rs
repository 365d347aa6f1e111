//! Steps in flight: the buffers that a step's input, late part and results pass through, and the
//! order in which they come back. `Cuda` calls it around the launches of a step; it knows no verb.
//!
//! On the GPU there is one of each buffer, because the stream puts steps in order. Pinned memory
//! comes in a ring: the host writes one while the GPU still reads another.

use std::collections::VecDeque;
use std::sync::Arc;

use super::context::{Context, Event, Memory, Pinned};
use super::slots::{RowLayout, Slots};
use crate::device::Limits;
use crate::error::Result;
use crate::ids::{SlotId, TokenId};
use crate::internal;
use crate::plan::{Late, Sampled, StepResult};

/// One more than the steps in flight: the one that is being written.
const RING: usize = super::DEPTH + 1;
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
    pub slot_of: Memory,
    /// Token row of each sampling row, and its slot.
    pub gather_row: Memory,
    pub sample_slot: Memory,
    /// Sampled ids.
    pub out: Memory,
    late: Option<Memory>,
}

/// Buffers on the host.
struct Lane {
    input: Pinned,
    results: Pinned,
    late: Option<Pinned>,
    /// The GPU has read the input; it has done everything of the step.
    sent: Event,
    done: Event,
}

/// Masks on the GPU: addresses (0 = no mask in this step) and the length of one.
pub struct Masks {
    pub of: u64,
    pub words: u64,
    pub words_per_mask: u32,
}

pub struct Steps {
    context: Arc<Context>,
    pub device: OnDevice,
    lanes: Vec<Lane>,
    /// The current step's lane.
    current: usize,
    /// Lane, step and slots of what was sampled and not collected.
    pending: VecDeque<(usize, u64, Vec<SlotId>)>,
}

impl Steps {
    pub fn new(context: &Arc<Context>, limits: &Limits, layout: &RowLayout) -> Result<Steps> {
        let words = |n: usize, what: &str| Memory::new(context, 4 * n, what);
        let input = (USUAL_WORDS + limits.step_tokens + 8 * limits.slots).next_power_of_two();
        let tokens = |what| words(limits.step_tokens, what);
        let slots = |what| words(limits.slots, what);
        let device = OnDevice {
            input: words(input, "step inputs")?,
            rows: words(layout.stride as usize * limits.slots, "slot rows")?,
            token: tokens("token ids")?,
            position: tokens("positions")?,
            slot_of: tokens("slots of rows")?,
            gather_row: slots("sampling rows")?,
            sample_slot: slots("sampling slots")?,
            out: slots("sampled ids")?,
            late: None,
        };
        let lane = || -> Result<Lane> {
            Ok(Lane {
                input: Pinned::new(context, 4 * input)?,
                results: Pinned::new(context, 4 * limits.slots)?,
                late: None,
                sent: Event::new(context, false)?,
                done: Event::new(context, false)?,
            })
        };
        let lanes = (0..RING).map(|_| lane()).collect::<Result<_>>()?;
        let context = context.clone();
        Ok(Steps { context, device, lanes, current: 0, pending: VecDeque::new() })
    }

    /// Copy the encoded input of a step to the GPU, in one piece: the slots' part, then `more`. The
    /// address of `more`.
    pub fn send(&mut self, slots: &Slots, more: &[u32]) -> Result<u64> {
        self.current = (self.current + 1) % RING;
        if self.pending.iter().any(|(lane, ..)| *lane == self.current) {
            return Err(internal!("more than {} steps in flight", super::DEPTH));
        }
        let first = slots.words();
        let words = first + more.len();
        let lane = &mut self.lanes[self.current];
        lane.sent.wait()?;
        lane.done.wait()?;
        if lane.input.bytes < 4 * words {
            lane.input = Pinned::new(&self.context, 4 * words.next_power_of_two())?;
        }
        if self.device.input.bytes < 4 * words {
            // Freeing waits for the steps that still read it.
            let bytes = 4 * words.next_power_of_two();
            self.device.input = Memory::new(&self.context, bytes, "step inputs")?;
        }
        slots.write(lane.input.words());
        lane.input.words()[first..words].copy_from_slice(more);
        self.device.input.write(&lane.input, words)?;
        lane.sent.record()?;
        Ok(self.device.input.address + 4 * first as u64)
    }

    /// Copy the masks of a step, one per entry, to the GPU: first which mask each sampling row has,
    /// then the masks, each as long as the vocabulary; bits that a mask has not are 0.
    pub fn send_late(&mut self, late: &Late, samples: &[SlotId], vocab: usize) -> Result<Masks> {
        const NONE: u32 = u32::MAX;
        if late.masks.is_empty() {
            return Ok(Masks { of: 0, words: 0, words_per_mask: 0 });
        }
        let per_mask = vocab.div_ceil(32);
        let words = samples.len() + per_mask * late.masks.len();
        let lane = &mut self.lanes[self.current];
        if lane.late.as_ref().is_none_or(|p| p.bytes < 4 * words) {
            lane.late = Some(Pinned::new(&self.context, 4 * words.next_power_of_two())?);
        }
        if self.device.late.as_ref().is_none_or(|m| m.bytes < 4 * words) {
            let bytes = 4 * words.next_power_of_two();
            self.device.late = Some(Memory::new(&self.context, bytes, "token masks")?);
        }
        let (Some(pinned), Some(memory)) = (&mut lane.late, &self.device.late) else {
            return Err(internal!("no buffer for masks"));
        };
        let (of, masks) = pinned.words().split_at_mut(samples.len());
        for (of, slot) in of.iter_mut().zip(samples) {
            let mask = late.masks.iter().position(|(s, _)| s == slot);
            *of = mask.map_or(NONE, |n| n as u32);
        }
        for (to, (_, mask)) in masks.chunks_exact_mut(per_mask).zip(&late.masks) {
            let known = mask.len().min(per_mask);
            to[..known].copy_from_slice(&mask[..known]);
            to[known..].fill(0);
        }
        memory.write(pinned, words)?;
        Ok(Masks {
            of: memory.address,
            words: memory.address + 4 * samples.len() as u64,
            words_per_mask: per_mask as u32,
        })
    }

    /// Everything of the step is enqueued: fetch its ids.
    pub fn finish(&mut self, step: u64, samples: Vec<SlotId>) -> Result<()> {
        let lane = &mut self.lanes[self.current];
        if !samples.is_empty() {
            self.device.out.read(&mut lane.results, 4 * samples.len())?;
        }
        lane.done.record()?;
        self.pending.push_back((self.current, step, samples));
        Ok(())
    }

    /// Wait for the oldest step that was not collected.
    pub fn collect(&mut self) -> Result<StepResult> {
        let Some((lane, step, slots)) = self.pending.pop_front() else {
            return Err(internal!("no step to collect"));
        };
        let lane = &mut self.lanes[lane];
        lane.done.wait()?;
        let ids = lane.results.words();
        let samples = slots.into_iter().zip(ids.iter());
        let samples = samples
            .map(|(slot, &id)| Sampled { slot, tokens: vec![TokenId(id)], logprobs: Vec::new() })
            .collect();
        Ok(StepResult { step, samples, scores: Vec::new() })
    }
}
