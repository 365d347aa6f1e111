//! Lookup, norms, linears and the head on the CPU, row by row: a row's numbers depend on nothing
//! but the row.

use std::borrow::Cow;
use std::ops::Range;

use parking_lot::Mutex;

use super::adapters::delta;
use super::buffer::Tensor;
use super::input_rounding;
use super::numbers;
use super::panels::{Held, Panels};
use super::simd::{with_isa, Job};
use super::weight::Weight;
use super::{Cpu, SHARED_FROM_BYTES, SHARED_FROM_MACS, SHARED_FROM_ROUNDED};
use crate::device::{Activation, Collective, DenseOps, Join, LogitsRows, Norm};
use crate::error::Result;
use crate::internal;

/// What a product runs over.
#[derive(Clone, Copy)]
enum Rows {
    Tokens,
    Logits,
}

impl DenseOps for Cpu {
    fn embed(&mut self, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
        let first = match table.join {
            Join::Rows { first } => first,
            Join::None | Join::Sum => 0,
        };
        let slots = &self.slots;
        let adapters = table.table_adapters.as_ref().filter(|_| slots.batch().adapters);
        for (r, row) in slots.token_rows.iter().enumerate() {
            let out = &mut out.row_mut(r)[..table.inputs];
            let here = row.token.index().checked_sub(first).filter(|&token| token < table.outputs);
            let Some(token) = here else {
                if table.join == Join::None {
                    return Err(internal!("token {} of {}", row.token, table.outputs));
                }
                out.fill(0.0);
                continue;
            };
            table.table_row(token, |i, x| out[i] = x);
            if let Some((adapters, adapter_slot)) =
                adapters.and_then(|a| Some((a, slots.adapter_slots[r]?)))
            {
                adapters.add(adapter_slot, token, out);
            }
            out.iter_mut().for_each(|x| *x *= scale);
        }

        match table.join {
            Join::None => Ok(()),
            Join::Sum | Join::Rows { .. } => self.all_reduce(table, self.rows(), out),
        }
    }

    fn add_positions(&mut self, table: &Weight, offset: usize, x: &mut Tensor) -> Result<()> {
        for (r, row) in self.slots.token_rows.iter().enumerate() {
            let position = row.position + offset;
            if position >= table.outputs {
                return Err(internal!("position {position} of {}", table.outputs));
            }
            let x = x.row_mut(r);
            table.table_row(position, |i, p| x[i] += p);
        }
        Ok(())
    }

    fn norm(&mut self, norm: &Norm<Weight>, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let (w, b) = (norm.weight.vector(), norm.bias.as_ref().map(Weight::vector));
        with_isa(
            self.isa,
            #[inline(always)]
            || {
                for r in 0..self.rows() {
                    numbers::norm(norm.kind, norm.eps, w, b, x.row(r), out.row_mut(r));
                }
            },
        );
        Ok(())
    }

    fn add_norm(
        &mut self,
        norm: &Norm<Weight>,
        delta: &Tensor,
        residual: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (w, b) = (norm.weight.vector(), norm.bias.as_ref().map(Weight::vector));
        with_isa(
            self.isa,
            #[inline(always)]
            || {
                for r in 0..self.rows() {
                    let residual = residual.row_mut(r);
                    residual.iter_mut().zip(delta.row(r)).for_each(|(x, d)| *x += d);
                    numbers::norm(norm.kind, norm.eps, w, b, residual, out.row_mut(r));
                }
            },
        );
        Ok(())
    }

    fn norm_parts(
        &mut self,
        norm: &Norm<Weight>,
        columns: Range<usize>,
        x: &mut Tensor,
    ) -> Result<()> {
        let w = norm.weight.vector();
        for r in 0..self.rows() {
            for part in x.row_mut(r)[columns.clone()].chunks_exact_mut(w.len()) {
                let old = part.to_vec();
                numbers::norm(norm.kind, norm.eps, w, None, &old, part);
            }
        }
        Ok(())
    }

    fn add(&mut self, delta: &Tensor, residual: &mut Tensor) -> Result<()> {
        for r in 0..self.rows() {
            residual.row_mut(r).iter_mut().zip(delta.row(r)).for_each(|(x, d)| *x += d);
        }
        Ok(())
    }

    fn clamp(&mut self, limit: f32, x: &mut Tensor) -> Result<()> {
        for r in 0..self.rows() {
            x.row_mut(r).iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
        }
        Ok(())
    }

    fn scale(&mut self, factor: f32, x: &mut Tensor) -> Result<()> {
        for r in 0..self.rows() {
            x.row_mut(r).iter_mut().for_each(|v| *v *= factor);
        }
        Ok(())
    }

    fn linear(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.matmul(Rows::Tokens, weight, bias, None, x, out);
        self.join_sums(weight, self.rows(), out)
    }

    fn linear_act(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        act: Activation,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.matmul(Rows::Tokens, weight, bias, Some(act), x, out);
        Ok(())
    }

    fn logits_rows(&self) -> LogitsRows {
        let batch = self.slots.batch();
        match batch.logits.len() {
            all if all == batch.rows => LogitsRows::All,
            // Adapters go by token rows.
            few if !batch.adapters => LogitsRows::Few(few),
            _ => LogitsRows::Gathered,
        }
    }

    fn gather(&mut self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        for (s, logits) in self.slots.logits().iter().enumerate() {
            out.row_mut(s).copy_from_slice(x.row(logits.row));
        }
        Ok(())
    }

    fn linear_gathered(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.matmul(Rows::Logits, weight, None, None, x, out);
        self.join_sums(weight, self.slots.logits().len(), out)
    }

    fn logits(
        &mut self,
        head: &Weight,
        softcap: Option<f32>,
        x: &Tensor,
        logits: &mut Tensor,
    ) -> Result<()> {
        let rows = self.slots.logits().len();
        if let Join::Rows { .. } = head.join {
            let mut part = Tensor::new(rows, head.outputs)?;
            self.matmul(Rows::Logits, head, None, None, x, &mut part);
            self.group(&head.name)?.all_gather(&part, rows, logits)?;
        } else {
            self.matmul(Rows::Logits, head, None, None, x, logits);
        }

        if let Some(cap) = softcap {
            let used = &mut logits.data[..rows * logits.width];
            used.iter_mut().for_each(|l| *l = cap * numbers::tanh(*l / cap));
        }
        Ok(())
    }

    fn bias_logits(&mut self, bias: &Weight, logits: &mut Tensor) -> Result<()> {
        for s in 0..self.slots.logits().len() {
            logits.row_mut(s).iter_mut().zip(bias.vector()).for_each(|(l, b)| *l += b);
        }
        Ok(())
    }
}

impl Cpu {
    /// The sum over ranks of what was made of their shares of a weight, if it is shared so.
    pub(super) fn join_sums(
        &mut self,
        weight: &Weight,
        rows: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        match weight.join {
            Join::Sum => self.all_reduce(weight, rows, out),
            Join::None | Join::Rows { .. } => Ok(()),
        }
    }

    fn all_reduce(&mut self, weight: &Weight, rows: usize, out: &mut Tensor) -> Result<()> {
        self.group(&weight.name)?.all_reduce(out, rows)
    }

    fn matmul(
        &self,
        rows: Rows,
        weight: &Weight,
        bias: Option<&Weight>,
        act: Option<Activation>,
        x: &Tensor,
        out: &mut Tensor,
    ) {
        let slots = &self.slots;
        let (rows, adapter_slots) = match rows {
            Rows::Tokens => (self.rows(), &slots.adapter_slots),
            Rows::Logits => (slots.logits().len(), &slots.logits_adapter_slots),
        };
        if rows == 0 {
            return;
        }
        let adapters = weight.adapters.as_ref().filter(|_| slots.batch().adapters);
        let delta = adapters.map(|a| delta(self.isa, &self.workers, a, adapter_slots, x));
        let bias = bias.map(Weight::vector);
        let panels = weight.panels();
        let x = self.inputs_of(panels, rows, &x.data);
        let job = Job::new(self.isa, panels, bias, act, rows, &x, &mut out.data);
        self.share(&job.plus(delta.as_ref()), rows, panels);
    }

    pub(super) fn multiply(
        &self,
        rows: usize,
        panels: &Panels,
        bias: Option<&[f32]>,
        act: Option<Activation>,
        x: &[f32],
        out: &mut [f32],
    ) {
        let x = self.inputs_of(panels, rows, x);
        let job = Job::new(self.isa, panels, bias, act, rows, &x, out);
        self.share(&job, rows, panels);
    }

    /// Rows as these panels want them: rounded, and in the order of their codes.
    fn inputs_of<'x>(&self, panels: &Panels, rows: usize, x: &'x [f32]) -> Cow<'x, [f32]> {
        let Held::Codes(codes) = &panels.held else { return x.into() };
        let k = panels.inputs;
        let mut rounded: Cow<[f32]> = x[..rows * k].into();
        if let Some(rounding) = codes.rounding {
            let worth_it = rows * k >= SHARED_FROM_ROUNDED;
            let todo = Mutex::new(rounded.to_mut().chunks_exact_mut(k.max(1)));
            self.workers.share(worth_it, &|| loop {
                let Some(row) = todo.lock().next() else { return };
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || input_rounding::round_row(rounding, row),
                );
            });
        }
        if codes.order.is_empty() {
            return rounded;
        }
        let rows = rounded.chunks_exact(k.max(1));
        rows.flat_map(|row| codes.order.iter().map(|&i| row[i as usize])).collect()
    }

    fn share(&self, job: &Job, rows: usize, panels: &Panels) {
        let macs = rows * panels.inputs * panels.lanes.outputs;
        let worth_it = panels.work_bytes() >= SHARED_FROM_BYTES || macs >= SHARED_FROM_MACS;
        let worth_it = worth_it && panels.lanes.count() > 1;
        self.workers.share(worth_it, &|| job.work());
    }
}
