//! The end of a step of which few rows have logits, as those that read prompts. Of the last layer
//! the other rows need K and V in pages, which later steps read; all behind its attention is made
//! of the rows that have logits, and of none where a prompt goes on in the next step. Part of
//! `decoder`.

use super::{Decoder, FewRows};
use crate::device::{Device, LogitsRows};
use crate::error::Result;
use crate::model::config::ModelSpec;
use crate::model::shard::Shard;
use crate::model::weights::{Mixer, Weights};

impl<T> FewRows<T> {
    /// None for models whose ends need all rows: they pool, they are heads that draft, or what
    /// follows the last attention reads more than that and the residual.
    pub(super) fn new<D: Device<Tensor = T>>(
        dev: &mut D,
        spec: &ModelSpec,
        shard: &Shard,
        weights: &Weights<D::Weight>,
        rows: usize,
    ) -> Result<Option<FewRows<T>>> {
        let attends = weights.layers.last().is_some_and(|layer| {
            let attention = matches!(layer.mixer, Some(Mixer::Heads(_) | Mixer::Latent(_)));
            attention && layer.input.is_none()
        });
        let whole = spec.pooling.is_some() || weights.draft_head.is_some() || spec.parallel;
        if whole || !attends {
            return Ok(None);
        }
        let last = spec.layers - 1;
        let attn = shard.attn_out(spec, last).inputs(spec.attn_width(last));
        Ok(Some(FewRows {
            attn: dev.tensor(rows, attn)?,
            residual: dev.tensor(rows, spec.hidden)?,
        }))
    }
}

impl<D: Device> Decoder<D> {
    /// Which rows the step just begun needs behind its last attention.
    pub(super) fn rows_of_logits(&self, dev: &D) -> LogitsRows {
        let last = self.weights.layers.len().checked_sub(1);
        let tower = self.tower.as_ref().zip(last);
        let deepens = tower.is_some_and(|(tower, last)| tower.deepens(last));
        let all = self.buffers.few.is_none() || self.hidden_rows.is_some() || deepens;
        match dev.logits_rows() {
            LogitsRows::Few(_) if all => LogitsRows::Gathered,
            rows => rows,
        }
    }

    /// Behind a layer's attention: go on with the rows that the step needs. False: with none.
    pub(super) fn leave_few(&mut self, dev: &mut D, layer: usize) -> Result<bool> {
        let LogitsRows::Few(rows) = self.logits_rows else { return Ok(true) };
        if layer + 1 < self.weights.layers.len() {
            return Ok(true);
        }
        if rows == 0 {
            return Ok(false);
        }

        let b = &mut self.buffers;
        if let Some(few) = &mut b.few {
            dev.gather(&b.attn, &mut few.attn)?;
            dev.gather(&b.residual, &mut few.residual)?;
            dev.begin_rows(rows)?;
        }
        self.swap_few();
        Ok(true)
    }

    /// Behind the head: the buffers of all rows are themselves again.
    pub(super) fn end_few(&mut self, dev: &mut D) {
        if let LogitsRows::Few(1..) = self.logits_rows {
            self.swap_few();
            dev.end_rows();
        }
    }

    fn swap_few(&mut self) {
        let b = &mut self.buffers;
        if let Some(few) = &mut b.few {
            std::mem::swap(&mut few.attn, &mut b.attn);
            std::mem::swap(&mut few.residual, &mut b.residual);
        }
    }
}
