//! Heads that draft from a model's hidden states: rows that are kept by page beside K and V, and
//! what a head's first layer and its shorter vocabulary need. `model::hidden` and
//! `model::draft_head` call it; nothing here knows a head's kind.
//!
//! Kept rows lie in a tensor `[pages * page_size, width]`: that of position p of a slot in row
//! `page_size * table[p / page_size] + p % page_size`, by the slot's pages of group 0. The device
//! that keeps them and the one that reads them have the same pages by number, and never run at the
//! same time.
//!
//! Where a kept row is a product of what enters several layers, most steps only put those inputs
//! behind each other ([`DraftOps::Unread`]): the product is made of all of them at once when a head
//! is about to read, since a weight is read once for many rows as for one.

use super::types::DeviceTypes;
use crate::error::Result;

/// What heads need beside norms, linears and attention, over the current batch.
pub trait DraftOps: DeviceTypes {
    /// Rows of several steps that no head has read yet, and of each which kept row it stands for.
    type Unread: Send;

    /// Room for `rows` of `width`, contents undefined. At load.
    fn unread(&mut self, rows: usize, width: usize) -> Result<Self::Unread>;

    /// Those of the next step lie from row `at` on. Between steps, in front of `begin`.
    fn begin_unread(&mut self, at: usize, unread: &mut Self::Unread) -> Result<()>;

    /// `unread[at + r, first..first + width] = x[r]`, for R rows. With columns from 0 on it is
    /// noted which kept row each stands for: that of r's position. Steps put all columns.
    fn put_unread(
        &mut self,
        x: &Self::Tensor,
        first: usize,
        unread: &mut Self::Unread,
    ) -> Result<()>;

    /// The rows, `[rows, width]`, to be multiplied.
    fn unread_rows<'u>(&self, unread: &'u Self::Unread) -> &'u Self::Tensor;

    /// The kept row that unread row r stands for = `x[r]`, for the R rows of
    /// [`super::VisionOps::begin_rows`]. No two stand for the same one.
    fn keep_unread(
        &mut self,
        x: &Self::Tensor,
        unread: &Self::Unread,
        kept: &mut Self::Tensor,
    ) -> Result<()>;

    /// What is enqueued from here on comes behind what `other`, a device of the same place, was
    /// given until now.
    fn follow(&mut self, other: &Self) -> Result<()>;

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
