//! What a model keeps of its hidden states for a head that drafts: a row of each position in its
//! pages, as the head reads it. The model's decoder fills it in each step; the head reads it when
//! it is asked, however much later, since pages that are hit again hold the rows that were computed
//! with them.

use super::checkpoint::WeightSource;
use super::config::ModelSpec;
use super::load;
use super::weights::Linear;
use crate::device::trace::{Held, Trace};
use crate::device::{DType, Device, DeviceLimits};
use crate::error::Result;
use crate::internal;

/// The rows, and what is made of a step's on their way.
pub struct HiddenRows<D: Device> {
    /// Layers whose inputs are taken; empty: what leaves the last norm is.
    taps: Vec<usize>,
    /// Width of these.
    target_hidden: usize,
    tapped: Option<Tapped<D>>,
    /// `[pages * page_size, width]`
    kept: D::Tensor,
}

struct Tapped<D: Device> {
    project: Linear<D::Weight>,
    /// Inputs of layers beside each other, `[step_tokens, taps * hidden]`.
    inputs: D::Tensor,
    /// Their product, `[step_tokens, width]`.
    projected: D::Tensor,
}

impl<D: Device> HiddenRows<D> {
    /// For the head `spec`, whose files these are, and for pages and steps of a model of these
    /// limits. Before that model is loaded.
    ///
    /// # Errors
    /// Those of [`load::load`].
    pub fn load(
        spec: &ModelSpec,
        format: &WeightSource,
        dev: &mut D,
        limits: &DeviceLimits,
    ) -> Result<HiddenRows<D>> {
        Self::load_as(spec, format, dev, limits, false)
    }

    fn load_as(
        spec: &ModelSpec,
        format: &WeightSource,
        dev: &mut D,
        limits: &DeviceLimits,
        shapes_only: bool,
    ) -> Result<HiddenRows<D>> {
        let Some(head) = &spec.draft_head else {
            return Err(internal!("{} is no head", spec.family.architecture));
        };
        let product = load::tapped_product(spec, format, dev, shapes_only)?;
        let tapped = match product {
            Some(project) => Some(Tapped {
                project,
                inputs: dev.tensor(limits.step_tokens, head.taps.len() * head.target_hidden)?,
                projected: dev.tensor(limits.step_tokens, spec.hidden)?,
            }),
            None => None,
        };
        let rows = limits.pages.saturating_mul(limits.page_size);
        let kept = dev.tensor(rows, spec.hidden)?;
        let (taps, target_hidden) = (head.taps.clone(), head.target_hidden);
        Ok(HiddenRows { taps, target_hidden, tapped, kept })
    }

    /// The rows, for the head.
    pub fn kept(&mut self) -> &mut D::Tensor {
        &mut self.kept
    }

    /// The residual as it enters a layer, or leaves the last.
    pub(super) fn enters(&mut self, dev: &mut D, layer: usize, residual: &D::Tensor) -> Result<()> {
        let Some(Tapped { inputs, .. }) = &mut self.tapped else { return Ok(()) };
        for (nth, _) in self.taps.iter().enumerate().filter(|(_, &tap)| tap == layer) {
            dev.put_columns(residual, nth * self.target_hidden, false, inputs)?;
        }
        Ok(())
    }

    /// All of a step was computed; `last` left the last norm.
    pub(super) fn keep(&mut self, dev: &mut D, last: &D::Tensor) -> Result<()> {
        let Some(Tapped { project, inputs, projected }) = &mut self.tapped else {
            return dev.keep_hidden(last, &mut self.kept);
        };
        dev.linear(&project.weight, project.bias.as_ref(), inputs, projected)?;
        dev.keep_hidden(projected, &mut self.kept)
    }
}

/// What all that takes on a device beside a row for each position of its pages.
///
/// # Errors
/// As [`HiddenRows::load`].
pub fn held(
    spec: &ModelSpec,
    format: &WeightSource,
    limits: &DeviceLimits,
    activation: DType,
) -> Result<Held> {
    let mut trace = Trace::new(activation);
    let limits = DeviceLimits { pages: 0, ..limits.clone() };
    HiddenRows::load_as(spec, format, &mut trace, &limits, true)?;
    Ok(trace.held())
}
