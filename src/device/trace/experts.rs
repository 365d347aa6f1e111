//! What a mixture of experts would move and compute.

use super::{bytes, product, Trace, TraceTensor, TraceWeight};
use crate::device::{Activation, DType, ExpertOps, Routing};
use crate::error::Result;
use crate::internal;

impl ExpertOps for Trace {
    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<TraceTensor> {
        let width = 2 * routing.top_k;
        let tensor = TraceTensor { rows, width, most: width, bytes: DType::F32.bytes() };
        // A row's logits; of each choice its place in the order by expert, and room for a tile of
        // it; how many each expert got; counters of blocks.
        let words = rows * (routing.experts + 4 * routing.top_k) + 5 * routing.experts + 4100;
        self.hold_tensor(rows, &tensor);
        self.held.tensors = self.held.tensors.saturating_add(product(&[4, words]));
        Ok(tensor)
    }

    fn route(
        &mut self,
        gate: &TraceWeight,
        _bias: Option<&TraceWeight>,
        _choice_bias: Option<&TraceWeight>,
        _routing: &Routing,
        x: &TraceTensor,
        routes: &mut TraceTensor,
    ) -> Result<()> {
        self.linear_launch("route", self.rows(), gate, x, routes)
    }

    fn scale_routes(
        &mut self,
        scales: &TraceWeight,
        _routing: &Routing,
        routes: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), routes.width);
        let moved = bytes(rows, routes);
        let shape = (rows, width, width);
        let flops = (rows * width / 2) as u64;
        self.launch("scale_routes", shape, moved + scales.bytes, moved / 2, flops);
        Ok(())
    }

    fn weigh_inputs(
        &mut self,
        routes: &mut TraceTensor,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let read = bytes(rows, routes) + bytes(rows, x);
        let shape = (rows, width, width);
        self.launch("weigh_inputs", shape, read, bytes(rows, out), (rows * width) as u64);
        Ok(())
    }

    fn experts_act(
        &mut self,
        weight: &TraceWeight,
        _bias: Option<&TraceWeight>,
        _act: Activation,
        routes: &TraceTensor,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.experts_launch("experts_act", weight, routes, (self.rows(), x), out)
    }

    fn experts(
        &mut self,
        weight: &TraceWeight,
        _bias: Option<&TraceWeight>,
        routes: &TraceTensor,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let chosen = self.rows() * routes.width / 2;
        self.experts_launch("experts", weight, routes, (chosen, x), out)
    }

    fn combine(
        &mut self,
        down: &TraceWeight,
        routes: &TraceTensor,
        parts: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let chosen = rows * routes.width / 2;
        let (read, written) = (bytes(chosen, parts) + bytes(rows, routes), bytes(rows, out));
        let flops = (2 * chosen * out.width) as u64;
        self.launch("combine", (rows, out.width, out.width), read, written, flops);
        self.join_launch("all_reduce", down, rows, out);
        Ok(())
    }

    fn experts_sum(
        &mut self,
        down: &TraceWeight,
        bias: Option<&TraceWeight>,
        routes: &TraceTensor,
        x: &TraceTensor,
        parts: &mut TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.experts(down, bias, routes, x, parts)?;
        self.combine(down, routes, parts, out)
    }

    fn add_gated(
        &mut self,
        gate: &TraceWeight,
        _x: &TraceTensor,
        delta: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let one = bytes(rows, delta);
        let shape = (rows, delta.width, delta.width);
        let flops = (4 * rows * delta.width) as u64;
        self.launch("add_gated", shape, 3 * one + gate.bytes, one, flops);
        self.join_launch("all_reduce", gate, rows, out);
        Ok(())
    }
}

impl Trace {
    /// Every row meets `top_k` experts; of the stack only those are read that some row may meet.
    fn experts_launch(
        &mut self,
        op: &'static str,
        weight: &TraceWeight,
        routes: &TraceTensor,
        (x_rows, x): (usize, &TraceTensor),
        out: &TraceTensor,
    ) -> Result<()> {
        let chosen = self.rows() * routes.width / 2;
        if x.width != weight.inputs || chosen > out.rows {
            return Err(internal!(
                "{op}: {chosen} rows of {} for {} inputs",
                x.width,
                weight.inputs
            ));
        }
        let outputs = weight.outputs / weight.count;
        let met = weight.count.min(chosen) as u64;
        let read = weight.bytes / weight.count as u64 * met + bytes(x_rows, x);
        let flops = 2 * (chosen * weight.inputs * outputs) as u64;
        let shape = (chosen, weight.inputs, outputs);
        self.launch(op, shape, read, bytes(chosen, out), flops);
        Ok(())
    }
}
