//! Vision towers: ops over the patches of images, between a step's lookup of tokens and its first
//! layer. `model::vision` calls them; norms and linears are those of [`super::DenseOps`].

use std::sync::Arc;

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

/// What a tower is given at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TowerLimits {
    /// Rows that run together.
    pub rows: usize,
    /// Numbers of a patch.
    pub patch_width: usize,
    /// Angles of a row.
    pub angles: usize,
    /// Rows have corners in a table of places.
    pub places: bool,
    /// Columns of the widest product that a gate halves; 0: none does.
    pub gate_up: usize,
    /// Rows of one call of `copy_rows`.
    pub copies: usize,
    /// Rows of one call of `blend_rows`.
    pub blends: usize,
}

/// A patch of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchOf {
    /// Index into [`TowerRows::images`].
    pub image: usize,
    /// Which of its patches; behind the last one: a row of zeros.
    pub patch: usize,
}

/// Rows of a table of places, and how much each counts.
pub type Corners = [(usize, f32); 4];

/// A row that is made of others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowBlend {
    /// Of these, as much of each.
    pub of: Corners,
    /// Of the target.
    pub to: usize,
}

/// What a tower runs over: the patches of one or several images.
#[derive(Debug, Clone, Default)]
pub struct TowerRows {
    /// All of one model: patches of one width, and bytes that stand for the same numbers.
    pub images: Vec<Arc<PatchRows>>,
    /// Of each of R rows.
    pub patches: Vec<PatchOf>,
    /// `[R, head_dim / 2]`; empty where nothing turns.
    pub angles: Vec<f32>,
    /// Of each row what is added of a table; empty where there is none.
    pub corners: Vec<Corners>,
    /// Where spans of [`Span::Window`] end; they follow each other and cover all rows.
    pub window_ends: Vec<usize>,
    /// The same of [`Span::Image`].
    pub image_ends: Vec<usize>,
}

/// Rows that see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Those of a window.
    Window,
    /// Those of an image.
    Image,
}

impl TowerRows {
    /// Where spans end.
    pub fn ends(&self, span: Span) -> &[usize] {
        match span {
            Span::Window => &self.window_ends,
            Span::Image => &self.image_ends,
        }
    }

    /// First row and end of each span.
    pub fn spans(&self, span: Span) -> impl Iterator<Item = std::ops::Range<usize>> + Clone + '_ {
        let ends = self.ends(span);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| start..end)
    }
}

/// What a tower needs beside norms and linears.
pub trait VisionOps: DeviceTypes {
    /// Make room for a tower's inputs. Once, before `reserve`.
    fn reserve_tower(&mut self, limits: &TowerLimits) -> Result<()>;

    /// The ops over token rows run over these rows from here on, whatever the batch, up to
    /// `end_rows`.
    fn begin_tower(&mut self, rows: TowerRows) -> Result<()>;

    /// They run over the first `rows` rows of their tensors.
    fn begin_rows(&mut self, rows: usize) -> Result<()>;

    /// They run over the batch again.
    fn end_rows(&mut self);

    /// `out[r]` = the numbers of the row's patch.
    fn put_patches(&mut self, out: &mut Self::Tensor) -> Result<()>;

    /// `x[r]` += the rows of the table that are its corners, each as much as it counts.
    fn add_places(&mut self, table: &Self::Weight, x: &mut Self::Tensor) -> Result<()>;

    /// Add the bias to `[R, 3 * heads * head_dim]` q|k|v, if there is one, then turn q and k:
    /// element i of a head and i + head_dim / 2 by `angles[r * head_dim / 2 + i]`.
    fn turn_rows(
        &mut self,
        spec: &AttnSpec,
        bias: Option<&Self::Weight>,
        qkv: &mut Self::Tensor,
    ) -> Result<()>;

    /// Attention as `attend_all`, of each row over those of its span. As many heads of k and v as
    /// of q, and no window.
    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        span: Span,
        qkv: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// `out[r]` = the rows `count * r..count * (r + 1)` of x side by side, for R / count rows.
    fn join_rows(&mut self, count: usize, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// `out[r]` = the mean of rows `count * r..count * (r + 1)` of x, for R / count rows.
    fn mean_rows(&mut self, count: usize, x: &Self::Tensor, out: &mut Self::Tensor) -> Result<()>;

    /// `x[r] = (x[r] * factor - bias) * scale`, column by column, in 32 bits up to the end.
    fn standardise(
        &mut self,
        factor: f32,
        bias: &Self::Weight,
        scale: &Self::Weight,
        x: &mut Self::Tensor,
    ) -> Result<()>;

    /// Rows of x, each to its place in `out`, which has the same width.
    fn copy_rows(
        &mut self,
        x: &Self::Tensor,
        copies: &[RowCopy],
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Rows of `out`, each the sum of what its blend says of the first `rows` rows of x and, behind
    /// these, of the table's. All have one width. What counts 0 is not read.
    fn blend_rows(
        &mut self,
        x: &Self::Tensor,
        rows: usize,
        table: &Self::Weight,
        blends: &[RowBlend],
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// As `copy_rows`, added to what there is. No row of `out` is named twice.
    fn add_rows(
        &mut self,
        x: &Self::Tensor,
        copies: &[RowCopy],
        out: &mut Self::Tensor,
    ) -> Result<()>;
}
