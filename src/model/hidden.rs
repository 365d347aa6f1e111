//! What a model keeps of its hidden states for a head that drafts: a row of each position in its
//! pages, as the head reads it. The head reads it when it is asked, however much later, since pages
//! that are hit again hold the rows that were computed with them.
//!
//! Where a row is the model's last hidden state, its decoder puts it there in each step. Where it
//! is a product of what enters several layers, a step puts those inputs behind the ones before, and
//! the product is made of all of them when the head is about to read: while drafts pause, nobody
//! waits for a matrix of 100 MB (an 8B model's) in each step. It is made earlier where there is no
//! room for a step's rows, and where a sequence ends, begins or goes back: only then may a position
//! or a page come to hold another token, and no two unread rows may be for the same kept one.

use super::checkpoint::WeightSource;
use super::config::ModelSpec;
use super::load;
use super::weights::Linear;
use crate::device::trace::{Held, Trace};
use crate::device::{DType, Device, DeviceLimits};
use crate::error::Result;
use crate::internal;
use crate::plan::{SlotChange, StepPlan};

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
    /// Inputs of layers beside each other, `[step_tokens, taps * hidden]`, of steps one behind the
    /// other.
    inputs: D::Unread,
    /// How many of them there are, and may be.
    unread: usize,
    most: usize,
    /// Their product, `[step_tokens, width]`.
    projected: D::Tensor,
}

impl<D: Device> Tapped<D> {
    fn multiply(&mut self, dev: &mut D, rows: usize) -> Result<()> {
        let Tapped { project, inputs, projected, .. } = self;
        dev.begin_rows(rows)?;
        let inputs = dev.unread_rows(inputs);
        dev.linear(&project.weight, project.bias.as_ref(), inputs, projected)
    }

    /// All that is unread becomes kept rows.
    fn keep(&mut self, dev: &mut D, kept: &mut D::Tensor) -> Result<()> {
        let rows = std::mem::take(&mut self.unread);
        if rows == 0 {
            return Ok(());
        }
        self.multiply(dev, rows)?;
        dev.keep_unread(&self.projected, &self.inputs, kept)?;
        dev.end_rows();
        Ok(())
    }
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
                inputs: dev.unread(limits.step_tokens, head.taps.len() * head.target_hidden)?,
                unread: 0,
                most: limits.step_tokens,
                projected: dev.tensor(limits.step_tokens, spec.hidden)?,
            }),
            None => None,
        };

        let rows = limits.pages.saturating_mul(limits.page_size);
        let kept = dev.tensor(rows, spec.hidden)?;
        let (taps, target_hidden) = (head.taps.clone(), head.target_hidden);
        Ok(HiddenRows { taps, target_hidden, tapped, kept })
    }

    /// The rows, for the head on the device `reader`. `dev` is the model's.
    ///
    /// # Errors
    /// The devices'.
    pub fn read(&mut self, dev: &mut D, reader: &mut D) -> Result<&mut D::Tensor> {
        if let Some(tapped) = self.tapped.as_mut().filter(|tapped| tapped.unread > 0) {
            tapped.keep(dev, &mut self.kept)?;
            reader.follow(dev)?;
        }
        Ok(&mut self.kept)
    }

    /// Multiply so many rows, whatever is in them: what a device does once for each size is done
    /// then. Nothing is kept.
    ///
    /// # Errors
    /// The device's.
    pub fn rehearse(&mut self, dev: &mut D, rows: usize) -> Result<()> {
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        tapped.multiply(dev, rows)?;
        dev.end_rows();
        Ok(())
    }

    /// A step is about to begin.
    pub(super) fn begin(&mut self, dev: &mut D, plan: &StepPlan) -> Result<()> {
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        let rows = plan.tokens();
        let renews = |change: &SlotChange| {
            use SlotChange::{Close, Open, Truncate};
            matches!(change, Open(_) | Close { .. } | Truncate { .. })
        };
        if tapped.unread + rows > tapped.most || plan.changes.iter().any(renews) {
            tapped.keep(dev, &mut self.kept)?;
        }
        dev.begin_unread(tapped.unread, &mut tapped.inputs)?;
        tapped.unread += rows;
        Ok(())
    }

    /// The residual as it enters a layer, or leaves the last.
    pub(super) fn enters(&mut self, dev: &mut D, layer: usize, residual: &D::Tensor) -> Result<()> {
        let Some(Tapped { inputs, .. }) = &mut self.tapped else { return Ok(()) };
        for (nth, _) in self.taps.iter().enumerate().filter(|(_, &tap)| tap == layer) {
            dev.put_unread(residual, nth * self.target_hidden, inputs)?;
        }
        Ok(())
    }

    /// Whether the residual is read as it enters a layer.
    pub(super) fn takes(&self, layer: usize) -> bool {
        self.tapped.is_some() && self.taps.contains(&layer)
    }

    /// All of a step was computed; `last` left the last norm.
    pub(super) fn keep(&mut self, dev: &mut D, last: &D::Tensor) -> Result<()> {
        match self.tapped {
            Some(_) => Ok(()),
            None => dev.keep_hidden(last, &mut self.kept),
        }
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
