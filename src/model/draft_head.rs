//! The part of the forward pass that heads have which draft from a model's hidden states: what
//! their layer reads, and what they leave for their own next pass. `decoder` calls it around the
//! layer, which is as any other. A row's hidden state is the one that the model kept at the row's
//! position, its token the one behind that; of rows that the model has not computed, the head's
//! own output of the row before stands there.

use super::config::{HeadKind, ModelSpec};
use super::weights::DraftHeadWeights;
use crate::device::{Device, DeviceLimits, Norm};
use crate::error::Result;
use crate::internal;

/// Weights and buffers of that part.
pub(super) struct DraftHeadPass<D: Device> {
    kind: HeadKind,
    weights: DraftHeadWeights<D::Weight>,
    hidden: usize,
    /// Hidden states, `[step_tokens, hidden]`.
    states: D::Tensor,
    /// Embeddings and hidden states beside each other, `[step_tokens, 2 * hidden]`.
    beside: D::Tensor,
    /// What it says of the next hidden state, where that is not what logits are made of;
    /// `[logits_rows, hidden]`.
    said: Option<D::Tensor>,
    /// Logits of the tokens that it can say.
    few: Option<D::Tensor>,
}

impl<D: Device> DraftHeadPass<D> {
    pub(super) fn new(
        dev: &mut D,
        spec: &ModelSpec,
        weights: DraftHeadWeights<D::Weight>,
        limits: &DeviceLimits,
    ) -> Result<DraftHeadPass<D>> {
        let Some(head) = &spec.draft_head else {
            return Err(internal!("weights of a head, and no head"));
        };
        let DeviceLimits { step_tokens, logits_rows, .. } = *limits;
        let hidden = spec.hidden;
        let apart = matches!(head.kind, HeadKind::Eagle3 { norm_output: false, .. });
        let few = head.few.map(|few| dev.logits_tensor(logits_rows, few));
        Ok(DraftHeadPass {
            kind: head.kind,
            weights,
            hidden,
            states: dev.tensor(step_tokens, hidden)?,
            beside: dev.tensor(step_tokens, 2 * hidden)?,
            said: apart.then(|| dev.tensor(logits_rows, hidden)).transpose()?,
            few: few.transpose()?,
        })
    }

    /// What the first layer's attention reads, if that is wider than the residual.
    pub(super) fn wide(&self) -> Option<&D::Tensor> {
        self.kind.is_wide().then_some(&self.beside)
    }

    /// Logits are made of the residual as it leaves the last layer.
    pub(super) fn reads_residual(&self) -> bool {
        self.kind == HeadKind::Eagle
    }

    /// From embeddings and kept hidden states to the residual, and to what the first layer reads if
    /// there is no norm in front. Without kept ones, in a rehearsal, what lies there counts.
    pub(super) fn enter(
        &mut self,
        dev: &mut D,
        kept: Option<&D::Tensor>,
        embedding: &D::Tensor,
        residual: &mut D::Tensor,
        normed: &mut D::Tensor,
    ) -> Result<()> {
        let DraftHeadPass { kind, weights, hidden, states, beside, .. } = self;
        if let Some(kept) = kept {
            dev.kept_hidden(kept, states)?;
        }
        let project = weights.project.as_ref();
        match (*kind, &weights.norms, project) {
            (HeadKind::Eagle, _, Some(project)) => {
                dev.put_columns(embedding, 0, false, beside)?;
                dev.put_columns(states, *hidden, false, beside)?;
                dev.linear(&project.weight, None, beside, residual)?;
                dev.put_columns(residual, 0, false, normed)
            }
            (
                HeadKind::NextToken { token_first, blank_start },
                Some([token, state]),
                Some(project),
            ) => {
                let (token_at, state_at) = if token_first { (0, *hidden) } else { (*hidden, 0) };
                let mut put = |norm: &Norm<D::Weight>, x: &D::Tensor, at, blank_start| {
                    dev.norm(norm, x, normed)?;
                    dev.put_columns(normed, at, blank_start, beside)
                };
                // In front of the first token there was none to predict.
                put(token, embedding, token_at, blank_start)?;
                put(state, states, state_at, false)?;
                dev.linear(&project.weight, None, beside, residual)
            }
            (HeadKind::Eagle3 { norm_before_residual, .. }, Some([token, state]), _) => {
                dev.norm(token, embedding, normed)?;
                dev.put_columns(normed, 0, false, beside)?;
                dev.norm(state, states, normed)?;
                dev.put_columns(normed, *hidden, false, beside)?;
                let from = if norm_before_residual { &*normed } else { &*states };
                dev.put_columns(from, 0, false, residual)
            }
            _ => Err(internal!("a head without what its kind has")),
        }
    }

    /// Logits of all tokens from `gathered`, `[logits_rows, hidden]`.
    pub(super) fn logits(
        &mut self,
        dev: &mut D,
        head: &D::Weight,
        gathered: &D::Tensor,
        logits: &mut D::Tensor,
    ) -> Result<()> {
        match (&mut self.few, &self.weights.places) {
            (Some(few), Some(places)) => {
                dev.logits(head, None, gathered, few)?;
                dev.spread_logits(places, few, logits)
            }
            _ => dev.logits(head, None, gathered, logits),
        }
    }

    /// Leave what it says of the next hidden states where its next pass looks for them.
    pub(super) fn leave(
        &mut self,
        dev: &mut D,
        kept: Option<&mut D::Tensor>,
        residual: &D::Tensor,
        gathered: &D::Tensor,
    ) -> Result<()> {
        let Some(kept) = kept else { return Ok(()) };
        match &mut self.said {
            Some(said) => {
                dev.gather(residual, said)?;
                dev.keep_next_hidden(said, kept)
            }
            None => dev.keep_next_hidden(gathered, kept),
        }
    }
}
