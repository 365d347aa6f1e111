//! A device with a model on it, as the loop runs it. Made by `load`.

use std::sync::Arc;

use crate::device::cpu::memory::Promise;
use crate::device::{BreakOnPurpose, Device};
use crate::engine::step_loop::Runner;
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::model::{Adapter, Decoder};
use crate::plan::{StepPlan, StepResult, TokenMasks};

pub(super) struct DeviceRunner<D: Device + BreakOnPurpose> {
    pub device: D,
    pub decoder: Decoder<D>,
    /// Another device of the same place, with the model or the head that drafts. It runs while
    /// nothing does on the first one, so it may read and write what that keeps for it.
    pub draft: Option<(D, Decoder<D>)>,
    /// Steps that the device may have enqueued.
    pub depth: usize,
    /// Of the memory that all this may take, ranks together.
    pub _promise: Option<Arc<Promise>>,
}

impl<D: Device + BreakOnPurpose> Runner for DeviceRunner<D> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Arc<Adapter>) -> Result<()> {
        self.decoder.install(&mut self.device, adapter_slot, adapter)
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        self.decoder.step(&mut self.device, plan)
    }

    fn sample(&mut self, masks: &TokenMasks) -> Result<()> {
        self.decoder.sample(&mut self.device, masks)
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.device.collect()
    }

    fn draft(&mut self, plans: &[StepPlan]) -> Result<Vec<StepResult>> {
        let Some((device, decoder)) = &mut self.draft else {
            return Err(internal!("no model drafts here"));
        };
        let mut results = Vec::with_capacity(plans.len());
        for (enqueued, plan) in plans.iter().enumerate() {
            if enqueued - results.len() >= self.depth {
                results.push(device.collect()?);
            }
            let kept = match self.decoder.hidden_rows() {
                Some(rows) => Some(rows.read(&mut self.device, device)?),
                None => None,
            };
            decoder.step_beside(device, plan, kept)?;
            decoder.sample(device, &TokenMasks::default())?;
        }
        while results.len() < plans.len() {
            results.push(device.collect()?);
        }
        Ok(results)
    }

    fn break_device(&mut self) -> Result<()> {
        self.device.break_on_purpose()
    }
}
