//! What lookup, norms, linears and the head would move and compute.

use std::ops::Range;

use super::{bytes, Trace, TraceTensor, TraceWeight};
use crate::device::{Activation, DenseOps, LogitsRows, Norm};
use crate::error::Result;
use crate::internal;

impl DenseOps for Trace {
    fn embed(&mut self, table: &TraceWeight, _scale: f32, out: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let (more, flops) = self.table_adapter_work(rows, table);
        let read = rows as u64 * table.row_bytes() + more;
        self.launch("embed", (rows, 1, table.inputs), read, bytes(rows, out), flops);
        self.join_launch("all_reduce", table, rows, out);
        Ok(())
    }

    fn add_positions(
        &mut self,
        table: &TraceWeight,
        _offset: usize,
        x: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let read = rows as u64 * table.row_bytes() + bytes(rows, x);
        let flops = (rows * x.width) as u64;
        self.launch("add_positions", (rows, 1, table.inputs), read, bytes(rows, x), flops);
        Ok(())
    }

    fn norm(
        &mut self,
        _norm: &Norm<TraceWeight>,
        x: &TraceTensor,
        _out: &mut TraceTensor,
    ) -> Result<()> {
        self.norm_launch("norm", 1, 1, x);
        Ok(())
    }

    fn add_norm(
        &mut self,
        _norm: &Norm<TraceWeight>,
        delta: &TraceTensor,
        _residual: &mut TraceTensor,
        _out: &mut TraceTensor,
    ) -> Result<()> {
        self.norm_launch("add_norm", 2, 2, delta);
        Ok(())
    }

    fn norm_parts(
        &mut self,
        _norm: &Norm<TraceWeight>,
        columns: Range<usize>,
        x: &mut TraceTensor,
    ) -> Result<()> {
        if columns.end > x.width {
            return Err(internal!("columns up to {} of {}", columns.end, x.width));
        }
        let (rows, width) = (self.rows(), columns.len());
        let moved = (rows * width * x.bytes) as u64;
        self.launch("norm_parts", (rows, width, width), moved, moved, (5 * rows * width) as u64);
        Ok(())
    }

    fn add(&mut self, delta: &TraceTensor, _residual: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let one = bytes(rows, delta);
        let shape = (rows, delta.width, delta.width);
        self.launch("add", shape, 2 * one, one, (rows * delta.width) as u64);
        Ok(())
    }

    fn clamp(&mut self, _limit: f32, x: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let moved = bytes(rows, x);
        self.launch("clamp", (rows, x.width, x.width), moved, moved, (rows * x.width) as u64);
        Ok(())
    }

    fn scale(&mut self, _factor: f32, x: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let moved = bytes(rows, x);
        self.launch("scale", (rows, x.width, x.width), moved, moved, (rows * x.width) as u64);
        Ok(())
    }

    fn linear(
        &mut self,
        weight: &TraceWeight,
        _bias: Option<&TraceWeight>,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.linear_launch("linear", self.rows(), weight, x, out)
    }

    fn linear_act(
        &mut self,
        weight: &TraceWeight,
        _bias: Option<&TraceWeight>,
        act: Activation,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        self.linear_launch("linear_act", rows, weight, x, out)?;
        if let Activation::XIelu(_) = act {
            let (moved, flops) = (bytes(rows, out), (5 * rows * out.width) as u64);
            self.launch("xielu", (rows, out.width, out.width), moved, moved, flops);
        }
        Ok(())
    }

    /// The most that a step takes.
    fn logits_rows(&self) -> LogitsRows {
        LogitsRows::Gathered
    }

    fn gather(&mut self, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let rows = self.slots.logits().len();
        let moved = bytes(rows, x);
        self.launch("gather", (rows, x.width, out.width), moved, moved, 0);
        Ok(())
    }

    fn linear_gathered(
        &mut self,
        weight: &TraceWeight,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.slots.logits().len();
        self.linear_launch("linear_gathered", rows, weight, x, out)
    }

    fn logits(
        &mut self,
        head: &TraceWeight,
        _softcap: Option<f32>,
        x: &TraceTensor,
        logits: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.slots.logits().len();
        self.linear_launch("logits", rows, head, x, logits)
    }

    fn bias_logits(&mut self, bias: &TraceWeight, logits: &mut TraceTensor) -> Result<()> {
        let rows = self.slots.logits().len();
        let moved = bytes(rows, logits);
        let shape = (rows, logits.width, logits.width);
        let flops = (rows * logits.width) as u64;
        self.launch("bias_logits", shape, moved + bias.bytes, moved, flops);
        Ok(())
    }
}

impl Trace {
    /// Rows of a linear: activations in and out, the weight once.
    pub(super) fn linear_launch(
        &mut self,
        op: &'static str,
        rows: usize,
        weight: &TraceWeight,
        x: &TraceTensor,
        out: &TraceTensor,
    ) -> Result<()> {
        if x.width != weight.inputs || rows > x.rows || rows > out.rows {
            return Err(internal!("{op}: {rows} rows of {} for {} inputs", x.width, weight.inputs));
        }
        let shape = (rows, weight.inputs, weight.outputs);
        let read = weight.bytes + bytes(rows, x);
        let flops = 2 * (rows * weight.inputs * weight.outputs) as u64;
        self.launch(op, shape, read, bytes(rows, out), flops);
        if let Some(adapters) = weight.adapters.filter(|_| self.slots.batch().adapters) {
            self.adapter_launches(rows, weight, adapters, x, out);
        }
        let join = if op == "logits" { "all_gather" } else { "all_reduce" };
        self.join_launch(join, weight, rows, out);
        Ok(())
    }

    pub(super) fn norm_launch(
        &mut self,
        op: &'static str,
        reads: u64,
        writes: u64,
        x: &TraceTensor,
    ) {
        let rows = self.rows();
        let one = bytes(rows, x);
        let flops = (5 * rows * x.width) as u64;
        self.launch(op, (rows, x.width, x.width), reads * one, writes * one, flops);
    }
}
