//! The accountant: a device that computes nothing and writes down what a real one would launch,
//! read, write and hold. `model::budget` sizes the page pool by it, tests hold the decoder's
//! launches to it.
//!
//! Bytes are those a perfect kernel moves: each input and output once, each weight once, the K and
//! V that a sequence sees once. FLOPs count a multiply-add as two.

mod adapters;
mod count;
mod sampler;

use std::collections::VecDeque;

use super::slots::Slots;
use super::{
    Activation, AdapterCapacity, AdapterPart, AttnSpec, DType, Device, DeviceInfo, DeviceLimits,
    KvShape, Norm, Pooling, Rope, Routing, TablePart, WeightDesc, WeightKind,
};
use crate::error::Result;
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// One op's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub op: &'static str,
    /// Rows it ran over: token rows, or sampling rows.
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub flops: u64,
}

/// A shape; `bytes` of one element.
pub struct TraceTensor {
    rows: usize,
    width: usize,
    bytes: usize,
}

/// A shape and its size.
pub struct TraceWeight {
    outputs: usize,
    inputs: usize,
    bytes: u64,
    /// How many matrices are stacked.
    count: usize,
    /// Parts and capacity of adapters.
    adapters: Option<(usize, AdapterCapacity)>,
    /// Room of adapters of a table.
    table_adapters: Option<AdapterCapacity>,
}

impl TraceWeight {
    fn row_bytes(&self) -> u64 {
        self.bytes / self.outputs.max(1) as u64
    }
}

/// Memory a device must give, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    pub weights: u64,
    /// Activations and logits.
    pub tensors: u64,
    /// Page tables, lengths, last tokens and step inputs.
    pub slots: u64,
    /// Adapter slots of adapters, and A x of a step's rows.
    pub adapters: u64,
    /// The KV pool.
    pub pages: u64,
}

impl Held {
    pub fn without_pages(&self) -> u64 {
        let parts = [self.weights, self.tensors, self.slots, self.adapters];
        parts.iter().fold(0, |sum: u64, &part| sum.saturating_add(part))
    }
}

pub struct Trace {
    activation: DType,
    slots: Slots,
    kv: Option<KvShape>,
    results: VecDeque<StepResult>,
    launches: Vec<Launch>,
    held: Held,
    /// Widest A x of a row.
    low_width: usize,
}

impl Trace {
    /// Count for a device whose activations are of this type.
    pub fn new(activation: DType) -> Trace {
        Trace {
            activation,
            slots: Slots::default(),
            kv: None,
            results: VecDeque::new(),
            launches: Vec::new(),
            held: Held::default(),
            low_width: 0,
        }
    }

    /// All that was launched since the last call.
    pub fn take_launches(&mut self) -> Vec<Launch> {
        std::mem::take(&mut self.launches)
    }

    /// All that is held. Everything is allocated at load, so this is the peak too.
    pub fn held(&self) -> Held {
        self.held
    }

    fn hold_tensor(&mut self, rows: usize, tensor: &TraceTensor) {
        self.held.tensors = self.held.tensors.saturating_add(bytes(rows, tensor));
    }

    fn rows(&self) -> usize {
        self.slots.batch.rows.len()
    }

    fn launch(
        &mut self,
        op: &'static str,
        (rows, inputs, outputs): (usize, usize, usize),
        read_bytes: u64,
        written_bytes: u64,
        flops: u64,
    ) {
        let launch = Launch { op, rows, inputs, outputs, read_bytes, written_bytes, flops };
        self.launches.push(launch);
    }
}

/// A checkpoint may ask for more than a number holds; then it is too much for any device.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
}

fn bytes(rows: usize, tensor: &TraceTensor) -> u64 {
    product(&[rows, tensor.width, tensor.bytes])
}

impl Device for Trace {
    type Tensor = TraceTensor;
    type Weight = TraceWeight;

    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "trace".to_string(), total_bytes: 0, free_bytes: 0, depth: 1 }
    }

    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<TraceWeight> {
        let element = match weight.kind {
            WeightKind::Vector => DType::F32,
            _ => weight.dtype,
        };
        let bytes = product(&[weight.outputs, weight.inputs, element.bytes()]);
        self.held.weights = self.held.weights.saturating_add(bytes);
        let count = match weight.kind {
            WeightKind::Experts { count, .. } => count,
            _ => 1,
        };
        let (outputs, inputs) = (weight.outputs, weight.inputs);
        let (adapters, table_adapters) = (None, None);
        Ok(TraceWeight { outputs, inputs, bytes, count, adapters, table_adapters })
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width, bytes: self.activation.bytes() };
        self.hold_tensor(rows, &tensor);
        Ok(tensor)
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width: vocab, bytes: DType::F32.bytes() };
        self.hold_tensor(rows, &tensor);
        Ok(tensor)
    }

    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<TraceTensor> {
        let tensor = TraceTensor { rows, width: 2 * routing.top_k, bytes: DType::F32.bytes() };
        // A row's logits; of each choice its place in the order by expert, and room for a tile of
        // it; how many each expert got.
        let words = rows * (routing.experts + 4 * routing.top_k) + 5 * routing.experts;
        self.hold_tensor(rows, &tensor);
        self.held.tensors = self.held.tensors.saturating_add(product(&[4, words]));
        Ok(tensor)
    }

    fn adapt(
        &mut self,
        weight: &mut TraceWeight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        self.make_adapter_slots(weight, parts, capacity);
        Ok(())
    }

    fn adapt_table(&mut self, table: &mut TraceWeight, capacity: AdapterCapacity) -> Result<()> {
        self.make_table_adapter_slots(table, capacity);
        Ok(())
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        let DeviceLimits { slots, step_tokens, pages, page_size, max_model_len, .. } = *limits;
        self.slots = Slots::new(limits);
        // A page id, length, last token and sampler; a token row's id, position and slot: 4 bytes
        // each.
        let row = 4 * (max_model_len.div_ceil(page_size) + 16);
        self.held.slots += (slots * row + step_tokens * 12) as u64;
        self.held.adapters += (step_tokens * self.low_width * 4) as u64;
        self.held.pages = (pages as u64).saturating_mul(limits.kv.page_bytes(page_size));
        self.kv = Some(limits.kv.clone());
        Ok(())
    }

    fn install(
        &mut self,
        _weight: &mut TraceWeight,
        _adapter_slot: AdapterSlotId,
        _parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        Ok(())
    }

    fn install_table(
        &mut self,
        _table: &mut TraceWeight,
        _adapter_slot: AdapterSlotId,
        _part: Option<TablePart<'_>>,
    ) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.slots.begin(plan)
    }

    fn sample(&mut self, logits: &mut TraceTensor, _masks: &TokenMasks) -> Result<()> {
        let sampled = sampler::sample(&mut self.slots, logits.width)?;
        let (count, vocab) = (self.slots.batch.logits.len(), logits.width);
        self.launch("sample", (count, vocab, 1), bytes(count, logits), 4 * count as u64, 0);
        if sampled.reports > 0 {
            let (rows, listed) = (sampled.reports, sampled.listed as u64);
            let (read, flops) = (bytes(rows, logits), (2 * rows * vocab) as u64);
            self.launch("logprobs", (rows, vocab, 1), read, 8 * (rows as u64 + listed), flops);
        }
        self.results.push_back(sampled.result);
        Ok(())
    }

    fn hand_over(&mut self, pooled: &TraceTensor) -> Result<()> {
        self.count_hand_over(pooled);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.results.pop_front().ok_or_else(|| internal!("no step to collect"))
    }

    fn embed(&mut self, table: &TraceWeight, _scale: f32, out: &mut TraceTensor) -> Result<()> {
        let rows = self.rows();
        let (more, flops) = self.table_adapter_work(rows, table);
        let read = rows as u64 * table.row_bytes() + more;
        self.launch("embed", (rows, 1, table.inputs), read, bytes(rows, out), flops);
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

    fn add(&mut self, delta: &TraceTensor, _residual: &mut TraceTensor) -> Result<()> {
        let (rows, one) = (self.rows(), bytes(self.rows(), delta));
        let shape = (rows, delta.width, delta.width);
        self.launch("add", shape, 2 * one, one, (rows * delta.width) as u64);
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
        _act: Activation,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.linear_launch("linear_act", self.rows(), weight, x, out)
    }

    fn route(
        &mut self,
        gate: &TraceWeight,
        _routing: &Routing,
        x: &TraceTensor,
        routes: &mut TraceTensor,
    ) -> Result<()> {
        self.linear_launch("route", self.rows(), gate, x, routes)
    }

    fn experts_act(
        &mut self,
        weight: &TraceWeight,
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
        routes: &TraceTensor,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let chosen = self.rows() * routes.width / 2;
        self.experts_launch("experts", weight, routes, (chosen, x), out)
    }

    fn combine(
        &mut self,
        routes: &TraceTensor,
        parts: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let chosen = rows * routes.width / 2;
        let (read, written) = (bytes(chosen, parts) + bytes(rows, routes), bytes(rows, out));
        let flops = (2 * chosen * out.width) as u64;
        self.launch("combine", (rows, out.width, out.width), read, written, flops);
        Ok(())
    }

    fn add_gated(
        &mut self,
        gate: &TraceWeight,
        _x: &TraceTensor,
        delta: &TraceTensor,
        _out: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, one) = (self.rows(), bytes(self.rows(), delta));
        let shape = (rows, delta.width, delta.width);
        let flops = (4 * rows * delta.width) as u64;
        self.launch("add_gated", shape, 3 * one + gate.bytes, one, flops);
        Ok(())
    }

    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        _q: &Norm<TraceWeight>,
        _k: &Norm<TraceWeight>,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), (spec.heads + spec.kv_heads) * spec.head_dim);
        let moved = (rows * width * qkv.bytes) as u64;
        self.launch("norm_heads", (rows, width, width), moved, moved, (5 * rows * width) as u64);
        Ok(())
    }

    fn rope_store(
        &mut self,
        _layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.rows();
        let kv = self.kv.as_ref().map_or(0, |kv| kv.dtype.bytes());
        let stored = (rows * 2 * spec.kv_heads * spec.head_dim * kv) as u64;
        let turned = rope.map_or(0, |r| (spec.heads + spec.kv_heads) * r.rotary_dim * rows);
        let written = stored + (turned * qkv.bytes) as u64;
        let flops = 3 * turned as u64;
        self.launch("rope_store", (rows, qkv.width, qkv.width), bytes(rows, qkv), written, flops);
        Ok(())
    }

    fn attend(
        &mut self,
        _layer: usize,
        spec: &AttnSpec,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.count_attend(spec, qkv, out);
        Ok(())
    }

    fn attend_all(
        &mut self,
        spec: &AttnSpec,
        qkv: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        self.count_attend_all(spec, qkv, out);
        Ok(())
    }

    fn pool(&mut self, kind: Pooling, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        self.count_pool(kind, x, out);
        Ok(())
    }

    fn gather(&mut self, x: &TraceTensor, out: &mut TraceTensor) -> Result<()> {
        let rows = self.slots.batch.logits.len();
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
        let rows = self.slots.batch.logits.len();
        self.linear_launch("linear_gathered", rows, weight, x, out)
    }

    fn logits(
        &mut self,
        head: &TraceWeight,
        _softcap: Option<f32>,
        x: &TraceTensor,
        logits: &mut TraceTensor,
    ) -> Result<()> {
        let rows = self.slots.batch.logits.len();
        self.linear_launch("logits", rows, head, x, logits)
    }

    fn bias_logits(&mut self, bias: &TraceWeight, logits: &mut TraceTensor) -> Result<()> {
        let rows = self.slots.batch.logits.len();
        let (moved, shape) = (bytes(rows, logits), (rows, logits.width, logits.width));
        let flops = (rows * logits.width) as u64;
        self.launch("bias_logits", shape, moved + bias.bytes, moved, flops);
        Ok(())
    }

    fn read(&mut self, tensor: &TraceTensor, rows: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; rows * tensor.width])
    }
}
