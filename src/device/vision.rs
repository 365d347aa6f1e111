//! Vision towers: ops over the patches of an image, between a step's lookup of tokens and its first
//! layer. `model::vision` calls them; norms and linears are those of [`super::DenseOps`].

use super::attention::AttnSpec;
use super::types::DeviceTypes;
use crate::error::Result;
use crate::plan::PatchRows;

/// A row that is copied to another tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowCopy {
    /// Of the source.
    pub from: usize,
    /// Of the target.
    pub to: usize,
}

/// What a tower needs beside norms and linears.
pub trait VisionOps: DeviceTypes {
    /// The ops over token rows run over the first `rows` rows from here on, whatever the batch, up
    /// to `end_rows`.
    fn begin_rows(&mut self, rows: usize) -> Result<()>;

    /// They run over the batch again.
    fn end_rows(&mut self);

    /// `out[r]` = the numbers of patch `order[r]`.
    fn put_patches(
        &mut self,
        patches: &PatchRows,
        order: &[usize],
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Turn q and k in `[R, 3 * heads * head_dim]` q|k|v: element i of a head and i + head_dim / 2
    /// by `angles[r * head_dim / 2 + i]`.
    fn turn_rows(&mut self, spec: &AttnSpec, angles: &[f32], qkv: &mut Self::Tensor) -> Result<()>;

    /// Attention as `attend_all`, of each row over those of its span; `ends` are the ends of the
    /// spans, which follow each other and cover all R rows.
    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        ends: &[usize],
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r]` = the rows `count * r..count * (r + 1)` of x side by side, for R / count rows.
    fn join_rows(&mut self, count: usize, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// Rows of x, each to its place in `out`, which has the same width.
    fn copy_rows(
        &mut self,
        x: &Self::Tensor,
        copies: &[RowCopy],
        out: &mut Self::Tensor,
    ) -> Result<()>;
}
