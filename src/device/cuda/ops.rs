//! The ops of [`Device`] on the GPU: each checks shapes, looks its addresses up and launches. The
//! contract of each is in `device/mod.rs`, the arithmetic in `kernels/`.

use half::{bf16, f16};

use super::attention::{Attention, Call};
use super::codes::{activation_code, norm_code, NO_ACTIVATION};
use super::context::Context;
use super::gemm_small_m::End;
use super::graphs::{self, Graphs};
use super::launch::Argument;
use super::memory::Memory;
use super::slots::Slots;
use super::steps::Steps;
use super::weights::Weight;
use super::{Cuda, Reserved, Tensor, DEPTH, ROW_THREADS};
use crate::device::{
    Activation, AdapterCapacity, AdapterPart, AttnSpec, DType, Device, DeviceInfo, DeviceLimits,
    Norm, NormKind, Pooling, Rope, Routing, TablePart, WeightDesc, WeightKind,
};
use crate::error::{Error, Result};
use crate::ids::AdapterSlotId;
use crate::internal;
use crate::plan::{StepPlan, StepResult, TokenMasks};

/// Threads of a norm's block: one for eight columns, whole warps.
fn norm_threads(width: usize) -> u32 {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 1024) as u32
}

fn vector(weight: Option<&Weight>, length: usize) -> u64 {
    weight.map_or(0, |w| w.vector(length))
}

/// Only layer norm has a bias.
fn norm_bias(norm: &Norm<Weight>, width: usize) -> u64 {
    vector(norm.bias.as_ref().filter(|_| norm.kind == NormKind::Layer), width)
}

impl Device for Cuda {
    type Tensor = Tensor;
    type Weight = Weight;

    fn info(&self) -> DeviceInfo {
        let (total_bytes, free_bytes) = self.context.memory().unwrap_or((0, 0));
        let Context { name, capability, multiprocessors, .. } = &*self.context;
        let (major, minor) = (capability / 10, capability % 10);
        let name = format!("{name} (sm_{major}{minor}, {multiprocessors} multiprocessors)");
        DeviceInfo { name, total_bytes, free_bytes, depth: DEPTH }
    }

    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Weight> {
        if weight.kind == WeightKind::GateUp {
            self.gate_up = self.gate_up.max(weight.outputs);
        }
        self.uploader.upload(&self.kernels, self.dtype, &weight)
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<Tensor> {
        let dtype = self.dtype;
        let memory = Memory::new(&self.context, rows * width * dtype.bytes(), "activations")?;
        Ok(Tensor { memory, rows, width, dtype })
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Tensor> {
        let memory = Memory::new(&self.context, rows * vocab * 4, "logits")?;
        self.sampler.hold(rows, vocab)?;
        Ok(Tensor { memory, rows, width: vocab, dtype: DType::F32 })
    }

    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Tensor> {
        self.make_routes(rows, routing)
    }

    fn adapt(
        &mut self,
        weight: &mut Weight,
        parts: &[usize],
        capacity: AdapterCapacity,
    ) -> Result<()> {
        self.make_adapters(weight, parts, capacity)
    }

    fn adapt_table(&mut self, table: &mut Weight, capacity: AdapterCapacity) -> Result<()> {
        self.make_table_adapters(table, capacity)
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        let kv = &limits.kv;
        if kv.dtype != self.dtype {
            return Err(Error::Unsupported(format!(
                "kv_cache_dtype: pages of {:?} under a model of {:?} are not supported on GPUs \
                 yet.",
                kv.dtype, self.dtype
            )));
        }
        let page_bytes = kv.page_bytes(limits.page_size) / kv.layers.max(1) as u64;
        let layer_bytes = page_bytes * limits.pages as u64;
        let pool = Memory::new(&self.context, layer_bytes as usize * kv.layers, "the KV pool")?;
        // A page that nobody wrote must hold numbers: NaN times a weight of 0 is NaN.
        pool.fill(0)?;
        self.slots = Slots::new(limits);
        let steps = Steps::new(&self.context, limits, self.slots.layout())?;
        if self.gate_up > 0 {
            self.scratch(limits.step_tokens * self.gate_up * self.dtype.bytes())?;
        }
        self.adapters.reserve(&self.context, limits.step_tokens)?;
        self.uploader.release();
        let attention = Attention::new(&self.context, &self.kernels, self.dtype, limits)?;
        let (limits, graphs) = (limits.clone(), Graphs::new(&self.context));
        self.reserved = Some(Reserved { limits, pool, layer_bytes, steps, attention, graphs });
        Ok(())
    }

    fn install(
        &mut self,
        weight: &mut Weight,
        adapter_slot: AdapterSlotId,
        parts: &[Option<AdapterPart<'_>>],
    ) -> Result<()> {
        self.fill_adapter_slot(weight, adapter_slot, parts)
    }

    fn install_table(
        &mut self,
        table: &mut Weight,
        adapter_slot: AdapterSlotId,
        part: Option<TablePart<'_>>,
    ) -> Result<()> {
        self.fill_table_adapter_slot(table, adapter_slot, part)
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.context.bind()?;
        let sampler = &mut self.sampler;
        self.slots.begin(plan, &mut |slot, words| sampler.far(slot, words))?;
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        let batch = &self.slots.batch;
        // More rows than slots have no logits.
        let most = reserved.limits.slots.min(reserved.limits.step_tokens);
        let padded = graphs::padded(batch.rows)
            .filter(|&rows| batch.decode && reserved.graphs.steady && rows <= most);
        let repeats = reserved.attention.plan(&batch.chunks);
        let (input, moved) = reserved.steps.send(&self.slots, reserved.attention.words())?;
        if moved {
            reserved.graphs.forget();
        }
        self.padded = padded;
        let (rows, all) = (batch.rows as u32, padded.unwrap_or(batch.rows) as u32);
        let device = &reserved.steps.device;
        let stride = self.slots.layout().stride;
        self.kernels.prepare.launch(
            &self.context,
            [self.slots.batch.records, 1],
            ROW_THREADS,
            &[
                &input,
                &device.rows.address,
                &stride,
                &device.token.address,
                &device.position.address,
                &device.slot_of.address,
                &device.adapter_slot_of.address,
                &device.gather_row.address,
                &device.sample_slot.address,
                &device.target.address,
                &rows,
                &all,
            ],
        )?;
        let adapters = self.slots.batch.adapters;
        let key = padded.filter(|_| repeats).map(|rows| graphs::Key { rows, adapters });
        reserved.graphs.begin(key)
    }

    fn steady(&mut self) {
        if let Some(reserved) = &mut self.reserved {
            reserved.graphs.steady = !self.eager;
        }
    }

    fn forwarded(&mut self) -> Result<()> {
        self.reserved.as_mut().map_or(Ok(()), |reserved| reserved.graphs.end())
    }

    fn sample(&mut self, logits: &mut Tensor, masks: &TokenMasks) -> Result<()> {
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        reserved.graphs.end()?;
        logits.at(self.slots.batch.samples.len(), logits.width, "sample");
        self.sampler.run(&self.kernels, &self.slots, &mut reserved.steps, logits, masks)
    }

    fn hand_over(&mut self, pooled: &Tensor) -> Result<()> {
        self.hand_vectors_over(pooled)
    }

    fn collect(&mut self) -> Result<StepResult> {
        self.context.bind()?;
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("no step to collect"));
        };
        reserved.steps.collect()
    }

    fn embed(&mut self, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
        self.look_up(table, scale, out)
    }

    fn add_positions(&mut self, table: &Weight, offset: usize, x: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let x = x.at(rows, table.inputs, "add_positions");
        self.kernels.add_positions.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &[
                &self.reserved()?.steps.device.position.address,
                &table.matrix(),
                &(table.outputs as u32),
                &(offset as u32),
                &(table.inputs as u32),
                &x,
            ],
        )
    }

    fn norm(&mut self, norm: &Norm<Weight>, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let out = out.at(rows, width, "norm");
        self.kernels.norm_rows.launch(
            &self.context,
            [rows, 1],
            norm_threads(width),
            &[
                &x.at(rows, width, "norm"),
                &norm.weight.vector(width),
                &norm_bias(norm, width),
                &(width as u32),
                &norm.eps,
                &norm_code(norm.kind),
                &out,
            ],
        )
    }

    fn add_norm(
        &mut self,
        norm: &Norm<Weight>,
        delta: &Tensor,
        residual: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), residual.width);
        self.kernels.add_norm.launch(
            &self.context,
            [rows, 1],
            norm_threads(width),
            &[
                &delta.at(rows, width, "add_norm"),
                &residual.at(rows, width, "add_norm"),
                &norm.weight.vector(width),
                &norm_bias(norm, width),
                &(width as u32),
                &norm.eps,
                &norm_code(norm.kind),
                &out.at(rows, width, "add_norm"),
            ],
        )
    }

    fn add(&mut self, delta: &Tensor, residual: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), residual.width);
        let (delta, residual) = (delta.at(rows, width, "add"), residual.at(rows, width, "add"));
        let arguments: [&dyn Argument; 3] = [&delta, &residual, &(width as u32)];
        self.kernels.add_rows.launch(&self.context, [rows, 1], norm_threads(width), &arguments)
    }

    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let (q_width, k_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let stride = q_width + 2 * k_width;
        let x = qkv.at(rows, stride, "norm_heads");
        for (norm, first, total) in [(q, 0, q_width), (k, q_width, k_width)] {
            let width = norm.weight.outputs;
            assert!(width > 0 && total % width == 0, "norm of {width} over heads of {total}");
            self.kernels.norm_parts.launch(
                &self.context,
                [rows, total / width],
                norm_threads(width),
                &[
                    &x,
                    &(stride as u32),
                    &(first as u32),
                    &norm.weight.vector(width),
                    &(width as u32),
                    &norm.eps,
                    &norm_code(norm.kind),
                ],
            )?;
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
        let (rows, width) = (self.rows(), weight.outputs);
        let (x, y) = (x.at(rows, weight.inputs, "linear"), out.at(rows, width, "linear"));
        let bias = vector(bias, width);
        self.adapted_product(rows, weight, bias, End::Act(NO_ACTIVATION), [x, y])
    }

    fn linear_act(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        act: Activation,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), weight.outputs);
        let (x, bias) = (x.at(rows, weight.inputs, "linear_act"), vector(bias, width));
        let (kind, width) = match act.is_gated() {
            true => (End::Gated(activation_code(act)), width / 2),
            false => (End::Act(activation_code(act)), width),
        };
        self.adapted_product(rows, weight, bias, kind, [x, out.at(rows, width, "linear_act")])
    }

    fn route(
        &mut self,
        gate: &Weight,
        routing: &Routing,
        x: &Tensor,
        routes: &mut Tensor,
    ) -> Result<()> {
        self.choose_experts(gate, routing, x, routes)
    }

    fn experts_act(
        &mut self,
        weight: &Weight,
        act: Activation,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.multiply_experts(weight, Some(act), routes, x, out)
    }

    fn experts(
        &mut self,
        weight: &Weight,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.multiply_experts(weight, None, routes, x, out)
    }

    fn combine(&mut self, routes: &Tensor, parts: &Tensor, out: &mut Tensor) -> Result<()> {
        self.combine_parts(routes, parts, out)
    }

    fn add_gated(
        &mut self,
        gate: &Weight,
        x: &Tensor,
        delta: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.add_by_gate(gate, x, delta, out)
    }

    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        self.rotate_and_store(layer, spec, rope, qkv)
    }

    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };
        let call = Call {
            rows,
            spec,
            page_size: reserved.limits.page_size,
            layout: self.slots.layout(),
            device: &reserved.steps.device,
            qkv: qkv.at(rows, width, "attend"),
            pool: reserved.pool.address + layer as u64 * reserved.layer_bytes,
            out: out.at(rows, spec.heads * spec.head_dim, "attend"),
        };
        reserved.attention.run(&self.context, &self.kernels, &call)
    }

    fn attend_all(&mut self, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        self.attend_whole(spec, qkv, out)
    }

    fn pool(&mut self, kind: Pooling, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.pool_rows(kind, x, out)
    }

    fn gather(&mut self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let samples = self.samples();
        let (from, to) = (x.at(self.rows(), x.width, "gather"), out.at(samples, x.width, "gather"));
        self.kernels.gather.launch(
            &self.context,
            [samples, 1],
            ROW_THREADS,
            &[&self.reserved()?.steps.device.gather_row.address, &from, &(x.width as u32), &to],
        )
    }

    fn break_down(&mut self) -> Result<()> {
        // No allocation lies at address 0: reading the row's number there ends the context.
        const NOWHERE: u64 = 0;
        let arguments: [&dyn Argument; 4] = [&NOWHERE, &NOWHERE, &8u32, &NOWHERE];
        self.kernels.gather.launch(&self.context, [1, 1], ROW_THREADS, &arguments)
    }

    fn linear_gathered(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let rows = self.samples();
        let x = x.at(rows, weight.inputs, "linear_gathered");
        let y = out.at(rows, weight.outputs, "linear_gathered");
        self.product(rows, weight, 0, End::Act(NO_ACTIVATION), [x, y])
    }

    fn logits(
        &mut self,
        head: &Weight,
        softcap: Option<f32>,
        x: &Tensor,
        logits: &mut Tensor,
    ) -> Result<()> {
        const THREADS: u32 = 256;
        let rows = self.samples();
        assert!(logits.dtype == DType::F32, "logits into activations");
        let y = logits.at(rows, head.outputs, "logits");
        let x = x.at(rows, head.inputs, "logits");
        self.adapted_product(rows, head, 0, End::Logits, [x, y])?;
        let Some(cap) = softcap else { return Ok(()) };
        let count = rows * head.outputs;
        let blocks = [count.div_ceil(THREADS as usize).min(4096), 1];
        let arguments: [&dyn Argument; 3] = [&y, &(count as u64), &cap];
        self.kernels.softcap.launch(&self.context, blocks, THREADS, &arguments)
    }

    fn bias_logits(&mut self, bias: &Weight, logits: &mut Tensor) -> Result<()> {
        const THREADS: u32 = 256;
        let (rows, vocab) = (self.samples(), logits.width);
        let y = logits.at(rows, vocab, "bias_logits");
        let blocks = [rows, vocab.div_ceil(THREADS as usize)];
        let arguments: [&dyn Argument; 3] = [&y, &bias.vector(vocab), &(vocab as u32)];
        self.kernels.bias_logits.launch(&self.context, blocks, THREADS, &arguments)
    }

    fn read(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<f32>> {
        if rows > tensor.rows {
            return Err(internal!("{rows} of {} rows", tensor.rows));
        }
        self.forwarded()?;
        let bytes = tensor.memory.read_now(rows * tensor.width * tensor.dtype.bytes())?;
        let elements = bytes.chunks_exact(tensor.dtype.bytes());
        let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        Ok(match tensor.dtype {
            DType::F32 => elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            DType::F16 => elements.map(|b| f16::from_bits(pair(b)).to_f32()).collect(),
            DType::BF16 => elements.map(|b| bf16::from_bits(pair(b)).to_f32()).collect(),
        })
    }
}
