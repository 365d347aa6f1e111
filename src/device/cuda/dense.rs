//! Lookup, norms, linears and the head on the GPU. A product is followed by its end (bias,
//! activation, gate) within the kernel where rows are few, by a launch where they are many.

use super::codes::{activation_code, norm_code, NO_ACTIVATION};
use super::gemm::Product;
use super::gemm_small_m::{self, End};
use super::launch::Argument;
use super::memory::Memory;
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{Activation, DType, DenseOps, Norm, NormKind};
use crate::error::Result;

/// Threads of a norm's block: one for eight columns, whole warps.
pub(super) fn norm_threads(width: usize) -> u32 {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 1024) as u32
}

fn vector(weight: Option<&Weight>, length: usize) -> u64 {
    weight.map_or(0, |w| w.vector(length))
}

/// Only layer norm has a bias.
fn norm_bias(norm: &Norm<Weight>, width: usize) -> u64 {
    vector(norm.bias.as_ref().filter(|_| norm.kind == NormKind::Layer), width)
}

impl DenseOps for Cuda {
    fn embed(&mut self, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let out = out.at(rows, table.inputs, "embed");
        if let Some(slots) = table.table_adapters.as_ref().filter(|_| self.slots.batch().adapters) {
            return self.look_up_adapted(rows, table, slots, scale, out);
        }
        self.kernels.embed.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &[
                &self.reserved()?.steps.device.token.address,
                &table.matrix(),
                &(table.outputs as u32),
                &(table.inputs as u32),
                &scale,
                &out,
            ],
        )
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
}

impl Cuda {
    /// Scratch of at least `bytes`. Grows, which waits for the GPU, only where reserve did not
    /// know.
    pub(super) fn scratch(&mut self, bytes: usize) -> Result<u64> {
        if self.scratch.as_ref().is_none_or(|s| s.bytes < bytes) {
            self.scratch = None;
            self.scratch = Some(Memory::new(&self.context, bytes, "gates and ups")?);
        }
        Ok(self.scratch.as_ref().map_or(0, |s| s.address))
    }

    /// y = end(x W^T + bias) over `rows` rows; `bias` may be 0.
    pub(super) fn product(
        &mut self,
        rows: usize,
        weight: &Weight,
        bias: u64,
        end: End,
        [x, y]: [u64; 2],
    ) -> Result<()> {
        let (outputs, inputs, w) = (weight.outputs, weight.inputs, weight.matrix());
        if gemm_small_m::takes(&self.context, self.dtype, rows, inputs) {
            let call = gemm_small_m::Call { rows, outputs, inputs, x, w, bias, y, end };
            return gemm_small_m::run(&self.context, &self.kernels, &call);
        }
        let gated = matches!(end, End::Gated(_));
        let to = if gated { self.scratch(rows * outputs * self.dtype.bytes())? } else { y };
        let logits = end == End::Logits;
        self.gemm.run(&self.kernels, &Product { rows, outputs, inputs, logits, x, w, y: to })?;
        self.finish(rows, outputs, bias, end, [to, y])
    }

    /// y = end(sums + bias); only a gated end has its sums elsewhere.
    pub(super) fn finish(
        &self,
        rows: usize,
        outputs: usize,
        bias: u64,
        end: End,
        [sums, y]: [u64; 2],
    ) -> Result<()> {
        match end {
            End::Act(NO_ACTIVATION) if bias == 0 => Ok(()),
            End::Act(kind) => self.bias_act(rows, outputs, y, bias, kind),
            End::Gated(kind) => self.gated_act(rows, outputs / 2, [sums, y], bias, kind),
            End::Logits => Ok(()),
        }
    }

    fn gated_act(
        &self,
        rows: usize,
        half: usize,
        [both, y]: [u64; 2],
        bias: u64,
        kind: i32,
    ) -> Result<()> {
        let arguments: [&dyn Argument; 5] = [&both, &bias, &(half as u32), &kind, &y];
        let blocks = [rows, columns(half)];
        self.kernels.gated_act.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }

    fn bias_act(&self, rows: usize, width: usize, x: u64, bias: u64, kind: i32) -> Result<()> {
        let blocks = [rows, columns(width)];
        let arguments: [&dyn Argument; 4] = [&x, &bias, &(width as u32), &kind];
        self.kernels.bias_act.launch(&self.context, blocks, ROW_THREADS, &arguments)
    }
}

/// Blocks of ROW_THREADS threads across a row, eight columns a thread where the width allows.
pub(super) fn columns(width: usize) -> usize {
    let per_thread = if width.is_multiple_of(8) { 8 } else { 1 };
    width.div_ceil(per_thread * ROW_THREADS as usize)
}
