//! Drafts of a model that loads: whether it can have any, and the logits rows that they take.
//! Called by `assemble` and `sizes`.

use super::args::{DraftKind, EngineArgs};
use super::draft::{Draft, DraftSizes};
use crate::device::{DeviceLimits, SPARES_MAX};
use crate::error::{Error, Result};
use crate::invalid;
use crate::model::ModelSpec;
use crate::scheduler::{DraftMethod, DraftModel, SpeculationConfig};

/// Drafts of a step at most, of all sequences together. Each takes a row of logits, and a batch
/// with more of them is bound by arithmetic, so that drafts gain nothing there.
const DRAFT_ROWS: usize = 512;

/// Logits rows that drafts take beside one for each of `slots`.
pub(super) fn draft_rows(args: &EngineArgs, slots: usize) -> usize {
    let most = args.speculation.as_ref().map_or(0, |speculation| speculation.lengths.most());
    slots.saturating_mul(most).min(DRAFT_ROWS)
}

/// States of a sequence beside its own: as many as it has drafts, to go back to.
pub(super) fn spares(args: &EngineArgs, spec: &ModelSpec) -> usize {
    let speculation = args.speculation.as_ref().filter(|_| spec.recurrent.is_some());
    speculation.map_or(0, |speculation| speculation.lengths.most())
}

/// # Errors
/// Unsupported: a model whose sequences do not generate. InvalidArgument: more drafts than its
/// sequences can go back behind.
pub(super) fn check(args: &EngineArgs, spec: &ModelSpec) -> Result<()> {
    if args.speculation.is_some() && spec.pooling.is_some() {
        return Err(Error::Unsupported(
            "speculative_config does not go with this model: it hands vectors over and generates \
             nothing. Remove it: answers are the same"
                .into(),
        ));
    }
    let drafts = spares(args, spec);
    if drafts > SPARES_MAX {
        return Err(invalid!(
            "speculative_config: {drafts} drafts of a sequence in a step, and a model with layers \
             that keep a state has at most {SPARES_MAX}. Lower num_speculative_tokens."
        ));
    }
    Ok(())
}

/// The arguments without drafts, where a head or a layer of the model's own is asked for that this
/// version cannot run: the model is served all the same, and a warning says so.
pub(super) fn without(args: &EngineArgs, draft: &Result<Option<Draft>>) -> Option<EngineArgs> {
    let kind = args.speculation.as_ref()?.draft.as_ref()?.kind;
    let Err(Error::Unsupported(why)) = draft else { return None };
    if kind == DraftKind::Model {
        return None;
    }
    tracing::warn!("served without drafts, a token a step: {why}");
    Some(EngineArgs { speculation: None, ..args.clone() })
}

/// What the scheduler is told.
pub(super) fn config(
    args: &EngineArgs,
    limits: &DeviceLimits,
    draft: Option<&DraftSizes>,
) -> Option<SpeculationConfig> {
    let speculation = args.speculation.as_ref()?;
    let method = match (speculation.method, draft) {
        (DraftMethod::Model(model), Some(draft)) => {
            let longest = model.longest.min(draft.longest());
            DraftMethod::Model(DraftModel { longest, ..model })
        }
        (method, _) => method,
    };
    Some(SpeculationConfig {
        method,
        lengths: speculation.lengths.clone(),
        rows: limits.logits_rows.saturating_sub(limits.slots),
    })
}
