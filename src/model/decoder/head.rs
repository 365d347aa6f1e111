//! The end of the forward pass: logits, or vectors. Part of `decoder`.

use super::{Buffers, Decoder};
use crate::device::{Device, LogitsRows};
use crate::error::Result;
use crate::model::config::NormOrder;
use crate::model::draft_head::DraftHeadPass;

impl<D: Device> Decoder<D> {
    /// From what leaves the last layer to logits, or to vectors; `kept` as in `step_beside`.
    pub(super) fn head(&mut self, dev: &mut D, kept: Option<&mut D::Tensor>) -> Result<()> {
        if self.logits_rows == LogitsRows::Few(0) {
            return Ok(());
        }
        let w = &self.weights;
        let Buffers { residual, normed, gathered, projected, logits, .. } = &mut self.buffers;
        let bare = self.draft_head.as_ref().is_some_and(DraftHeadPass::reads_residual);
        let after = self.norms == NormOrder::After || bare;
        let last = if after { &*residual } else { &*normed };
        if let Some(rows) = &mut self.hidden_rows {
            rows.keep(dev, last)?;
        }
        if let Some(kind) = self.pooling {
            return dev.pool(kind, last, logits);
        }

        let head = w.head.as_ref().unwrap_or(&w.embed);
        let cap = self.logit_softcap;
        if let Some(pass) = &mut self.draft_head {
            dev.gather(last, gathered)?;
            pass.logits(dev, head, gathered, logits)?;
            return pass.leave(dev, kept, residual, gathered);
        }
        let x = match self.logits_rows {
            LogitsRows::All | LogitsRows::Few(_) => last,
            LogitsRows::Gathered => {
                dev.gather(last, gathered)?;
                &*gathered
            }
        };
        match (&w.project_out, projected) {
            (Some(project), Some(projected)) => {
                dev.linear_gathered(project, x, projected)?;
                dev.logits(head, cap, projected, logits)?;
            }
            _ => dev.logits(head, cap, x, logits)?,
        }
        match &w.head_bias {
            Some(bias) => dev.bias_logits(bias, logits),
            None => Ok(()),
        }
    }
}
