//! Heads that draft from a model's hidden states: rows that are kept by page beside K and V, and
//! what a head's first layer and its shorter vocabulary need. `model::hidden` and
//! `model::draft_head` call it; nothing here knows a head's kind.
//!
//! Kept rows lie in a tensor `[pages * page_size, width]`: that of position p of a slot in row
//! `page_size * table[p / page_size] + p % page_size`, by the slot's pages of group 0. The device
//! that keeps them and the one that reads them have the same pages by number, and never run at the
//! same time.

use super::types::DeviceTypes;
use crate::error::Result;

/// What heads need beside norms, linears and attention, over the current batch.
pub trait DraftOps: DeviceTypes {
    /// `out[r, first..first + width] = x[r]`; with `blank_start` zeros where r is at position 0.
    /// Columns beside these are left as they are.
    fn put_columns(
        &mut self,
        x: &Self::Tensor,
        first: usize,
        blank_start: bool,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// The kept row of r's position = `x[r]`, for R rows.
    fn keep_hidden(&mut self, x: &Self::Tensor, kept: &mut Self::Tensor) -> Result<()>;

    /// The kept row behind the position of logits row s = `x[s]`, for S rows: what a head that
    /// drafts says stands for what the model has not computed yet. The slot has a page for it.
    fn keep_next_hidden(&mut self, x: &Self::Tensor, kept: &mut Self::Tensor) -> Result<()>;

    /// `out[r]` = the kept row of r's position.
    fn kept_hidden(&mut self, kept: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// `logits[s, t] = x[s, places[t]]`, or -inf where `places[t]` is negative: f32 `[S, few]` to
    /// `[S, vocab]`. `places` is a vector as long as the vocabulary.
    fn spread_logits(
        &mut self,
        places: &Self::Weight,
        x: &Self::Tensor,
        logits: &mut Self::Tensor,
    ) -> Result<()>;
}
