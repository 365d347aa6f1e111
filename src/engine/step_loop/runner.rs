//! The device with a model on it, as the loop sees it. Implemented by `load` over the real devices,
//! by its faults, and by tests.

use std::sync::Arc;

use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::model::Adapter;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// Runs steps in the order in which they are enqueued.
pub(crate) trait Runner: Send {
    /// Steps that may be enqueued before the first is collected.
    fn depth(&self) -> usize;
    /// Put an adapter into an adapter slot, for the steps enqueued from now on.
    fn install(&mut self, adapter_slot: AdapterSlotId, adapter: &Arc<Adapter>) -> Result<()>;
    /// Enqueue a step up to its logits.
    fn forward(&mut self, plan: &StepPlan) -> Result<()>;
    /// End the enqueueing of that step: choose its tokens. Earlier steps may be collected between
    /// the two, so that `masks` can depend on their tokens.
    fn sample(&mut self, masks: &TokenMasks) -> Result<()>;
    /// The result of the oldest step that was not collected; waits for it.
    fn collect(&mut self) -> Result<StepResult>;
    /// Run these steps of the model that drafts, one after the other, and wait for what they yield.
    fn draft(&mut self, _plans: &[StepPlan]) -> Result<Vec<StepResult>> {
        Err(internal!("no model drafts here"))
    }
    /// For tests: `BreakOnPurpose`.
    fn break_device(&mut self) -> Result<()> {
        Ok(())
    }
}
