//! The frame of a step on the GPU: the input, which a kernel fetches and another spreads, the graph
//! that records or replays what lies between, the sampler, whose ids go back to the host.

use super::abi;
use super::graphs::{self, Key};
use super::ranks::Member;
use super::shared_keys::SharedKeys;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::batch::{Batch, BatchChunk};
use crate::device::StepOps;
use crate::error::Result;
use crate::internal;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// What a step's launches depend on, padded to so many rows.
fn key_of(rows: usize, batch: &Batch, shared: &[SharedKeys], member: Option<&Member>) -> Key {
    Key {
        rows,
        adapters: batch.adapters,
        several_rows: batch.several_rows(),
        gathers: batch.logits.len() < batch.rows,
        shares_keys: !shared.is_empty(),
        ahead: member.is_some_and(Member::leaves_ahead),
    }
}

impl StepOps for Cuda {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.context.bind()?;
        if let Some(member) = &self.member {
            member.begin_step();
        }
        let sampler = &mut self.sampler;
        self.slots.begin(plan, &mut |slot, words| sampler.far(slot, words))?;
        self.logits_best.begin(None);
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        let batch = self.slots.batch();
        // A recorded step has logits of all its rows.
        let most = reserved.limits.logits_rows.min(reserved.limits.step_tokens);
        let padded = graphs::padded(batch.rows)
            .filter(|_| batch.decode && reserved.graphs.steady && batch.rows <= most)
            // What a tower launches depends on its images.
            .filter(|_| !self.slots.feeds_images())
            .map(|rows| rows.min(most));
        let slots = &self.slots;
        let keys_end = |chunk: &BatchChunk, position| slots.keys_end(chunk, position);
        let find = || slots.shared_keys(reserved.limits.page_size);
        let shared = reserved.attention.shared_keys(self.least_shared_bytes, find);
        self.sharing_steps += u64::from(!shared.is_empty());
        let repeats = reserved.attention.plan(&batch.chunks, &keys_end, &shared);
        let (fetch, moved) = reserved.steps.send(&self.slots, reserved.attention.words())?;
        if moved {
            reserved.graphs.forget();
        }
        self.padded = padded;
        reserved.states.copy(batch)?;
        let blocks = [(fetch.words as usize).div_ceil(4 * ROW_THREADS as usize), 1];
        self.kernels.fetch_input.launch(&self.context, blocks, ROW_THREADS, &fetch)?;
        let device = &reserved.steps.device;
        self.kernels.prepare.launch(
            &self.context,
            [self.slots.records(), 1],
            ROW_THREADS,
            &abi::PrepareStep {
                input: reserved.steps.records,
                slots: device.slot_rows(self.slots.layout()),
                token: device.token.address,
                position: device.position.address,
                places: device.places.address,
                slot_of: device.slot_of.address,
                adapter_slot_of: device.adapter_slot_of.address,
                gather_row: device.gather_row.address,
                sample_slot: device.sample_slot.address,
                target: device.target.address,
                drafts: device.drafts.address,
                rows: batch.rows as u32,
                padded_rows: padded.unwrap_or(batch.rows) as u32,
                logits_rows: batch.logits.len() as u32,
                padded_logits_rows: padded.unwrap_or(batch.logits.len()) as u32,
            },
        )?;
        reserved.steps.sent()?;
        let of = |rows| key_of(rows, self.slots.batch(), &shared, self.member.as_ref());
        let key = padded.filter(|_| repeats).map(of);
        reserved.graphs.begin(key)
    }

    fn steady(&mut self) {
        if let Some(reserved) = &mut self.reserved {
            reserved.graphs.steady = !self.eager;
        }
    }

    fn forwarded(&mut self) -> Result<()> {
        self.reserved.as_mut().map_or(Ok(()), |reserved| reserved.graphs.end())
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        reserved.graphs.end()?;
        logits.at(self.slots.batch().logits.len(), logits.width, "sample");
        let best = self.logits_best.parts(logits.memory.address);
        self.sampler.run(&self.kernels, &self.slots, &mut reserved.steps, logits, masks, best)?;
        self.member.iter().for_each(Member::end_step);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.context.bind()?;
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("no step to collect"));
        };
        let result = reserved.steps.collect();
        // What GPUs computed after one was lost means nothing.
        self.member.as_ref().map_or(Ok(()), Member::failure)?;
        result
    }
}
