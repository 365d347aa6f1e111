//! The model or head that drafts for another: its files, what both must have in common, and its
//! sizes.
//! Called by `assemble` and `sizes`; who drafts what, and when, is the scheduler's.

use std::sync::Arc;

use super::args::{DraftKind, EngineArgs};
use super::files::{self, Model};
use crate::device::trace::Held;
use crate::device::{DType, DeviceLimits, KvRow, Rank};
use crate::engine::options::EngineOptions;
use crate::error::{Error, Result};
use crate::files::Progress;
use crate::invalid;
use crate::model::head_files::{self, CommonEnds};
use crate::model::{budget, hidden, ModelSpec, Shard, WeightSource};

/// Logits rows beyond one for each slot: of few sequences each may feed a token that it missed, and
/// a recorded step has logits of that too.
const MISSED_ROWS: usize = 16;

/// A model that drafts, but for its weights.
pub(super) struct Draft {
    pub spec: ModelSpec,
    pub weights: WeightSource,
    /// What it need not hold itself.
    pub common: CommonEnds,
}

/// It with its limits, for one rank. Each rank has all of it.
pub(super) struct DraftSizes<'a> {
    pub draft: &'a Draft,
    pub limits: DeviceLimits,
}

/// The model, head or layer that `speculative_config` names; None: none drafts. It has the element
/// type of `target`, whose arguments hold for it too where they are not the model's own.
///
/// # Errors
/// As for any model; InvalidArgument: its vocabulary is another. Unsupported: its sequences cannot
/// go back behind a wrong draft, or it does not generate.
pub(super) fn read(
    args: &EngineArgs,
    options: &EngineOptions,
    progress: &Arc<Progress>,
    target: &Model,
) -> Result<Option<Draft>> {
    let Model { spec: target, weights: model, .. } = target;
    let draft = args.speculation.as_ref().and_then(|speculation| speculation.draft.as_ref());
    let Some(draft) = draft else { return Ok(None) };
    let own = EngineArgs {
        model: draft.model.clone(),
        revision: draft.revision.clone(),
        quantization: draft.quantization.clone(),
        max_model_len: draft.max_model_len,
        fit_max_model_len: false,
        dtype: Some(target.dtype),
        // Prompts are the target's tokens.
        tokenizer: Some(args.model.clone()),
        hf_config_path: None,
        hf_overrides: Default::default(),
        lora: None,
        speculation: None,
        ..args.clone()
    };
    let at = |error: Error| error.context("speculative_config.model: ");
    let (spec, weights) = match draft.kind {
        DraftKind::Model => files::read_weights(&own, options, progress).map_err(at)?,
        DraftKind::Eagle(version) => {
            let target = (target, model);
            files::read_head(&own, options, progress, version, target).map_err(at)?
        }
        DraftKind::NextToken => {
            let spec = target.next_token_layer()?;
            let weights = head_files::next_token(&spec, target, model)?;
            (spec, weights)
        }
    };
    check(&spec, target)?;
    // A rank of several has a part of the model's, and all of the head's.
    let common = if args.tensor_parallel_size == 1 {
        head_files::common_ends(&spec, &weights, target, model)?
    } else {
        CommonEnds::default()
    };
    Ok(Some(Draft { spec, weights, common }))
}

fn check(draft: &ModelSpec, target: &ModelSpec) -> Result<()> {
    let (ours, theirs) = (target.vocab_size, draft.vocab_size);
    if ours != theirs || draft.token_rows() < target.token_rows() {
        return Err(invalid!(
            "Target and draft model should have the same vocabulary size. Target model \
             vocab_size={ours}. Draft model vocab_size={theirs}. Using models with different \
             tokenizers can cause out-of-bounds errors during speculative decoding."
        ));
    }

    let why = if draft.pooling.is_some() || draft.family.encoder {
        "it generates nothing"
    } else if draft.recurrent.is_some() {
        "it has layers that keep a state of each sequence, which a wrong draft would spoil"
    } else {
        return Ok(());
    };
    let family = draft.family.architecture;
    Err(Error::Unsupported(format!(
        "speculative_config.model: a model of {family} cannot draft: {why}. Name another, or \
         remove speculative_config: answers are the same"
    )))
}

impl Draft {
    /// With as many slots and tokens of a step as the target's. Pages are not counted yet.
    pub fn sizes(&self, target: &DeviceLimits, args: &EngineArgs) -> Result<DraftSizes<'_>> {
        let shard = Shard::new(&self.spec, Rank::ALONE)?;
        let limits = DeviceLimits {
            logits_rows: (target.slots + MISSED_ROWS).min(target.step_tokens),
            kv: shard.kv_shape(&self.spec, &self.spec.kv_shape(args.kv_cache_dtype)?),
            state: shard.state_shape(&self.spec),
            snapshots: 0,
            spares: 0,
            ..target.clone()
        };
        Ok(DraftSizes { draft: self, limits })
    }
}

impl DraftSizes<'_> {
    /// What it takes on a device beside pages.
    pub fn held(&self, activation: DType) -> Result<Held> {
        let Draft { spec, weights, .. } = self.draft;
        let own = budget::held(spec, weights, &self.limits, activation, Rank::ALONE)?;
        Ok(self.but_common(own).and(self.held_for_it(activation)?))
    }

    /// What it holds itself of all this, which it would hold alone.
    pub fn but_common(&self, mut held: Held) -> Held {
        let common = self.draft.common.bytes(&self.draft.spec);
        held.weights = held.weights.saturating_sub(common);
        held
    }

    /// What the model keeps for it beside pages.
    pub fn held_for_it(&self, activation: DType) -> Result<Held> {
        let Draft { spec, weights, .. } = self.draft;
        if spec.draft_head.is_none() {
            return Ok(Held::default());
        }
        hidden::held(spec, weights, &self.limits, activation)
    }

    /// Rows of its pages, and of the hidden states that the model keeps in as many: those are of
    /// the `activation` type, which is counted in elements of the pages'.
    pub fn rows(&self, activation: DType) -> Vec<KvRow> {
        let mut rows = self.limits.kv.rows.clone();
        let spec = &self.draft.spec;
        if spec.draft_head.is_some() {
            let bytes = spec.hidden * activation.bytes();
            rows.push(KvRow::Latent { width: bytes.div_ceil(self.limits.kv.dtype.bytes()) });
        }
        rows
    }

    /// Positions that it may have at most.
    pub fn longest(&self) -> usize {
        self.draft.spec.max_model_len.min(self.limits.max_model_len)
    }
}
