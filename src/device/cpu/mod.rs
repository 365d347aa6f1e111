//! The CPU device: truth. Activations in f32, weights and pages as stored, plain loops in a fixed
//! order: a row's numbers depend on nothing but the row (design law 12). It grades every other
//! device, runs the demo, and serves where no GPU is. `engine` makes it, `model::decoder` calls its
//! ops.
//!
//! | file | holds |
//! |---|---|
//! | [`buffer`] | zeroed, aligned memory |
//! | [`weight`] | weights in panels |
//! | [`adapters`] | low-rank adapters behind a weight |
//! | [`simd`] | inner loops per instruction set |
//! | [`numbers`] | arithmetic of one vector |
//! | [`workers`] | threads |
//! | [`attention`] | KV pool, attention, rope |
//! | `rows` | token rows from tables, norms of heads |
//! | `pool` | attention without pages, token rows to vectors |
//! | `sampler` | logits rows to tokens and logprobs |
//! | [`experts`] | a mixture of experts: choosing, multiplying, adding up |

pub mod adapters;
pub mod attention;
pub mod buffer;
pub mod experts;
pub mod memory;
pub mod numbers;
mod pool;
mod rows;
mod sampler;
pub mod simd;
pub mod weight;
pub mod workers;

use std::collections::VecDeque;

use parking_lot::Mutex;

use self::adapters::{Adapters, Delta, TableAdapters};
use self::attention::{attend_row, Half, Keys, Pool, RopeTable, Scratch};
use self::buffer::Tensor;
use self::memory::Memory;
use self::simd::{with_isa, Isa, Job};
use self::weight::{Panels, Weight};
use self::workers::Workers;
use super::slots::Slots;
use super::{
    Activation, AdapterCapacity, AdapterPart, AttnSpec, Device, DeviceInfo, DeviceLimits, Norm,
    Pooling, Rope, Routing, TablePart, WeightDesc,
};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// Work below these is done by the caller alone: waking a thread costs some 10 us, and another
/// thread may want the core. Weight bytes count where rows are few, multiply-adds where they are
/// many.
const SHARED_FROM_BYTES: usize = 2 << 20;
const SHARED_FROM_MACS: usize = 16 << 20;
/// Of attention, which runs at a fraction of a linear's speed.
const SHARED_FROM_ATTENTION_MACS: usize = 4 << 20;

pub struct Cpu {
    isa: Isa,
    workers: Workers,
    pool: Option<Pool>,
    slots: Slots,
    ropes: Vec<RopeTable>,
    results: VecDeque<StepResult>,
}

/// What a product runs over.
#[derive(Clone, Copy)]
enum Rows {
    Tokens,
    Logits,
}

impl Cpu {
    /// A device of `threads` threads (0: one per core), one of which is the caller's.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Cpu> {
        Cpu::with_isa(threads, Isa::detect())
    }

    /// The same with a given instruction set, for comparisons.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Cpu> {
        let workers = Workers::new(threads, "cpu")?;
        Ok(Cpu {
            isa,
            workers,
            pool: None,
            slots: Slots::default(),
            ropes: Vec::new(),
            results: VecDeque::new(),
        })
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
        let batch = &self.slots.batch;
        let (rows, adapter_slots) = match rows {
            Rows::Tokens => (batch.rows.len(), &batch.adapter_slots),
            Rows::Logits => (batch.logits.len(), &batch.logits_adapter_slots),
        };
        if rows == 0 {
            return;
        }
        let adapters = weight.adapters.as_ref().filter(|_| batch.adapters);
        let delta = adapters.map(|a| Delta::new(self.isa, &self.workers, a, adapter_slots, x));
        let bias = bias.map(Weight::vector);
        let panels = weight.panels();
        let job = Job::new(self.isa, panels, bias, act, rows, &x.data, &mut out.data);
        self.share(&job.plus(delta.as_ref()), rows, panels);
    }

    fn multiply(
        &self,
        rows: usize,
        panels: &Panels,
        bias: Option<&[f32]>,
        act: Option<Activation>,
        x: &[f32],
        out: &mut [f32],
    ) {
        let job = Job::new(self.isa, panels, bias, act, rows, x, out);
        self.share(&job, rows, panels);
    }

    fn share(&self, job: &Job, rows: usize, panels: &Panels) {
        let macs = rows * panels.inputs * panels.outputs;
        let worth_it = panels.bytes() >= SHARED_FROM_BYTES || macs >= SHARED_FROM_MACS;
        let worth_it = worth_it && panels.count() > 1;
        self.workers.share(worth_it, &|| job.work());
    }

    fn rows(&self) -> usize {
        self.slots.batch.rows.len()
    }
}

impl Device for Cpu {
    type Tensor = Tensor;
    type Weight = Weight;

    fn info(&self) -> DeviceInfo {
        let Memory { total_bytes, free_bytes, .. } = Memory::read();
        let name = format!("cpu ({}, {} threads)", self.isa.name(), self.workers.threads());
        DeviceInfo { name, total_bytes, free_bytes, depth: 1 }
    }

    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Weight> {
        Weight::pack(&weight, &self.workers)
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<Tensor> {
        Tensor::new(rows, width)
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Tensor> {
        Tensor::new(rows, vocab)
    }

    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Tensor> {
        Tensor::new(rows, 2 * routing.top_k)
    }

    fn adapt(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        weight.adapters = Some(Adapters::new(weight.inputs, parts, capacity));
        Ok(())
    }

    fn adapt_table(&mut self, table: &mut Weight, capacity: AdapterCapacity) -> Result<()> {
        table.table_adapters = Some(TableAdapters::new(table.outputs, table.inputs, capacity));
        Ok(())
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        self.pool = Some(Pool::new(limits)?);
        self.slots = Slots::new(limits);
        Ok(())
    }

    fn install(
        &mut self,
        weight: &mut Weight,
        adapter_slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        let capacity = weight.adapters.as_mut().ok_or_else(|| adapters::no_room(&weight.name))?;
        capacity.install(adapter_slot, parts)
    }

    fn install_table(
        &mut self,
        table: &mut Weight,
        adapter_slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        let capacity =
            table.table_adapters.as_mut().ok_or_else(|| adapters::no_room(&table.name))?;
        capacity.install(adapter_slot, part)
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let result = sampler::sample(&mut self.slots, logits, masks)?;
        self.results.push_back(result);
        Ok(())
    }

    fn hand_over(&mut self, pooled: &Tensor) -> Result<()> {
        self.results.push_back(pool::hand_over(&self.slots, pooled));
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }

    fn embed(&mut self, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
        rows::embed(&self.slots.batch, table, scale, out)
    }

    fn add_positions(&mut self, table: &Weight, offset: usize, x: &mut Tensor) -> Result<()> {
        rows::add_positions(&self.slots.batch, table, offset, x)
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

    fn add(&mut self, delta: &Tensor, residual: &mut Tensor) -> Result<()> {
        for r in 0..self.rows() {
            residual.row_mut(r).iter_mut().zip(delta.row(r)).for_each(|(x, d)| *x += d);
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
        Ok(())
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

    fn route(
        &mut self,
        gate: &Weight,
        routing: &Routing,
        x: &Tensor,
        routes: &mut Tensor,
    ) -> Result<()> {
        experts::route(self, gate, routing, x, routes)
    }

    fn experts_act(
        &mut self,
        weight: &Weight,
        act: Activation,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        experts::multiply(self, weight, Some(act), routes, x, out)
    }

    fn experts(
        &mut self,
        weight: &Weight,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        experts::multiply(self, weight, None, routes, x, out)
    }

    fn combine(&mut self, routes: &Tensor, parts: &Tensor, out: &mut Tensor) -> Result<()> {
        experts::combine(self.rows(), routes, parts, out);
        Ok(())
    }

    fn add_gated(
        &mut self,
        gate: &Weight,
        x: &Tensor,
        delta: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        experts::add_gated(self.rows(), gate.vector(), x, delta, out);
        Ok(())
    }

    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        rows::norm_heads(self.rows(), spec, q, k, qkv);
        Ok(())
    }

    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let Cpu { slots, ropes, pool, .. } = self;
        let pool = pool.as_mut().ok_or_else(|| internal!("no pages were reserved"))?;
        let table = rope.map(|rope| {
            let known = ropes.iter().position(|t| t.is_for(rope)).unwrap_or_else(|| {
                ropes.push(RopeTable::new(rope));
                ropes.len() - 1
            });
            let last = slots.batch.rows.iter().map(|r| r.position).max().unwrap_or(0);
            ropes[known].extend_to(last);
            &ropes[known]
        });
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        for (r, row) in slots.batch.rows.iter().enumerate() {
            let pages = &slots.row(row.slot)?.pages;
            let vector = qkv.row_mut(r);
            if let Some(table) = table {
                let heads = vector[..q + kv].chunks_exact_mut(spec.head_dim);
                heads.for_each(|head| table.rotate(row.position, head));
            }
            let (k, v) = vector[q..].split_at(kv);
            for (half, values) in [(Half::K, k), (Half::V, v)] {
                for (head, values) in values.chunks_exact(spec.head_dim).enumerate() {
                    pool.store(layer, pages, row.position, half, head, values);
                }
            }
        }
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let pool = self.pool.as_ref().ok_or_else(|| internal!("no pages were reserved"))?;
        let rows = &self.slots.batch.rows;
        let q = spec.heads * spec.head_dim;
        let keys: usize = rows.iter().map(|r| r.position + 1).sum();
        let worth_it = rows.len() > 1 && 2 * keys * q >= SHARED_FROM_ATTENTION_MACS;
        let width = out.width;
        let todo = Mutex::new(out.data.chunks_exact_mut(width).zip(rows).enumerate());
        let lost = Mutex::new(None);
        self.workers.share(worth_it, &|| {
            let mut scratch = Scratch::new(pool);
            loop {
                let Some((r, (out, row))) = todo.lock().next() else { return };
                let keys = match self.slots.row(row.slot) {
                    Ok(slot) => Keys { pool, layer, pages: &slot.pages },
                    Err(e) => return *lost.lock() = Some(e),
                };
                let (position, q) = (row.position, &qkv.row(r)[..q]);
                with_isa(
                    self.isa,
                    #[inline(always)]
                    || attend_row(self.isa, keys, spec, position, q, out, &mut scratch),
                );
            }
        });
        lost.into_inner().map_or(Ok(()), Err)
    }

    fn attend_all(&mut self, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        pool::attend_all(self, spec, qkv, out)
    }

    fn pool(&mut self, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
        pool::pool(&self.slots, kind, x, out)
    }

    fn gather(&mut self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        for (s, logits_row) in self.slots.batch.logits.iter().enumerate() {
            out.row_mut(s).copy_from_slice(x.row(logits_row.row));
        }
        Ok(())
    }

    fn linear_gathered(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.matmul(Rows::Logits, weight, None, None, x, out);
        Ok(())
    }

    fn logits(
        &mut self,
        head: &Weight,
        softcap: Option<f32>,
        x: &Tensor,
        logits: &mut Tensor,
    ) -> Result<()> {
        let rows = self.slots.batch.logits.len();
        self.matmul(Rows::Logits, head, None, None, x, logits);
        if let Some(cap) = softcap {
            let used = &mut logits.data[..rows * head.outputs];
            used.iter_mut().for_each(|l| *l = cap * numbers::tanh(*l / cap));
        }
        Ok(())
    }

    fn bias_logits(&mut self, bias: &Weight, logits: &mut Tensor) -> Result<()> {
        for s in 0..self.slots.batch.logits.len() {
            logits.row_mut(s).iter_mut().zip(bias.vector()).for_each(|(l, b)| *l += b);
        }
        Ok(())
    }

    fn read(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<f32>> {
        let len = rows * tensor.width;
        let data =
            tensor.data.get(..len).ok_or_else(|| internal!("{rows} of {} rows", tensor.rows))?;
        Ok(data.to_vec())
    }
}
