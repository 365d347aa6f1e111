//! The frame of a step: what comes before its ops and after them. `engine` calls it around
//! `model::decoder`, which calls the ops in between.

use super::types::DeviceTypes;
use crate::error::Result;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// Begin a step, end it, wait for it.
pub trait StepOps: DeviceTypes {
    /// Apply `plan.changes`, then make its rows the current batch.
    fn begin(&mut self, plan: &StepPlan) -> Result<()>;

    /// A promise for the rest of the device's life: from here on every step calls the same ops,
    /// with the same tensors, weights and numbers, between `begin` and `sample`. So a device may
    /// remember what a step of a size comes to. Without it nothing is remembered.
    fn steady(&mut self);

    /// All of a step up to `sample` or `hand_over` was asked for: what a device holds back starts
    /// now, so that it runs while the host does something else before it asks for the rest.
    fn forwarded(&mut self) -> Result<()>;

    /// From logits `[S, vocab]` choose one token per sampling row by the slots' samplers (order of
    /// steps: `SamplerSpec`); it becomes the slot's last token and is counted. Logprobs of sampled
    /// and scored rows are taken before the samplers change the logits.
    fn sample(&mut self, logits: &mut Self::Tensor, masks: &TokenMasks) -> Result<()>;

    /// Wait for the oldest step that was sampled or handed over and not collected.
    fn collect(&mut self) -> Result<StepResult>;
}
