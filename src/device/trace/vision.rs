//! What a vision tower would move and compute. The budget knows it by its weights and buffers
//! alone: no step that is counted has an image.

use super::{bytes, product, Trace, TraceTensor, TraceWeight};
use crate::device::{AttnSpec, DType, RowBlend, RowCopy, Span, TowerLimits, TowerRows, VisionOps};
use crate::error::Result;

/// Bytes that say what a row is made of.
const BLEND: usize = 40;

impl VisionOps for Trace {
    fn reserve_tower(&mut self, limits: &TowerLimits) -> Result<()> {
        let gates = product(&[limits.rows, limits.gate_up, self.activation.bytes()]);
        let patches = product(&[limits.rows, limits.patch_width]);
        let numbers = limits.angles + if limits.places { 8 } else { 0 };
        let angles = product(&[limits.rows, numbers, DType::F32.bytes()]);
        let blends = product(&[limits.blends, BLEND]);
        self.held.tensors = [gates, patches, angles, blends]
            .into_iter()
            .fold(self.held.tensors, u64::saturating_add);
        Ok(())
    }

    fn begin_tower(&mut self, _: TowerRows) -> Result<()> {
        Ok(())
    }

    fn begin_rows(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn end_rows(&mut self) {}

    fn put_patches(&mut self, out: &mut TraceTensor) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        self.launch("put_patches", (rows, width, width), 0, bytes(rows, out), 0);
        Ok(())
    }

    fn add_places(&mut self, table: &TraceWeight, x: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let moved = bytes(rows, x);
        let adds = 8 * (rows * x.width) as u64;
        self.launch("add_places", (rows, table.inputs, x.width), 5 * moved, moved, adds);
        Ok(())
    }

    fn turn_rows(
        &mut self,
        spec: &AttnSpec,
        bias: Option<&TraceWeight>,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let turned = (spec.heads + spec.kv_heads) * spec.head_dim;
        let (rows, width) = (self.rows(), if bias.is_some() { qkv.width } else { turned });
        let moved = (rows * width * qkv.bytes) as u64;
        self.launch("turn_rows", (rows, width, width), moved, moved, (3 * rows * width) as u64);
        Ok(())
    }

    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        _: Span,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
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

    fn mean_rows(&mut self, count: usize, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let means = bytes(rows / count.max(1), out);
        let adds = (rows * x.width) as u64;
        self.launch("mean_rows", (rows, x.width, out.width), bytes(rows, x), means, adds);
        Ok(())
    }

    fn standardise(
        &mut self,
        _: f32,
        _: &TraceWeight,
        _: &TraceWeight,
        x: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let moved = bytes(rows, x);
        let flops = (3 * rows * x.width) as u64;
        self.launch("standardise", (rows, x.width, x.width), moved, moved, flops);
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

    fn blend_rows(
        &mut self,
        x: &TraceTensor,
        _: usize,
        table: &TraceWeight,
        blends: &[RowBlend],
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = blends.len();
        let read = blends.iter().flat_map(|blend| blend.of).filter(|(_, share)| *share != 0.0);
        let parts = read.count();
        let shape = (rows, table.inputs, out.width);
        let adds = 2 * (parts * out.width) as u64;
        self.launch("blend_rows", shape, bytes(parts, x), bytes(rows, out), adds);
        Ok(())
    }

    fn add_rows(
        &mut self,
        x: &TraceTensor,
        copies: &[RowCopy],
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = copies.len();
        let moved = bytes(rows, out);
        let adds = (rows * x.width) as u64;
        self.launch("add_rows", (rows, x.width, out.width), 2 * moved, moved, adds);
        Ok(())
    }
}
