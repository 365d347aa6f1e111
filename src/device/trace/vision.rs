//! What a vision tower would move and compute. The budget knows it by its weights and buffers
//! alone: no step that is counted has an image.

use super::{bytes, Trace, TraceTensor};
use crate::device::{AttnSpec, RowCopy, VisionOps};
use crate::error::Result;
use crate::plan::PatchRows;

impl VisionOps for Trace {
    fn begin_rows(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn end_rows(&mut self) {}

    fn put_patches(
        &mut self,
        patches: &PatchRows,
        order: &[usize],
        out: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (order.len(), patches.width);
        self.launch("put_patches", (rows, width, width), 0, bytes(rows, out), 0);
        Ok(())
    }

    fn turn_rows(&mut self, spec: &AttnSpec, _: &[f32], qkv: &mut TraceTensor) -> Result<()> {
        let (rows, width) = (self.rows(), (spec.heads + spec.kv_heads) * spec.head_dim);
        let moved = (rows * width * qkv.bytes) as u64;
        self.launch("turn_rows", (rows, width, width), moved, moved, (3 * rows * width) as u64);
        Ok(())
    }

    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        ends: &[usize],
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = ends.last().copied().unwrap_or(0);
        let q = spec.heads * spec.head_dim;
        let moved = (bytes(rows, qkv), bytes(rows, out));
        self.launch("attend_spans", (rows, qkv.width, q), moved.0, moved.1, 0);
        Ok(())
    }

    fn join_rows(&mut self, count: usize, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let rows = self.rows() / count.max(1);
        let moved = bytes(rows, out);
        self.launch("join_rows", (rows, x.width, out.width), moved, moved, 0);
        Ok(())
    }

    fn copy_rows(
        &mut self,
        x: &TraceTensor,
        copies: &[RowCopy],
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = copies.len();
        let moved = bytes(rows, out);
        self.launch("copy_rows", (rows, x.width, out.width), moved, moved, 0);
        Ok(())
    }
}
