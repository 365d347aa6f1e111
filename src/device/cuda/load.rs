//! Loading on the GPU: weights, buffers, the KV pool and everything that a step needs.

use half::{bf16, f16};

use super::coded_scratch::padded_inputs;
use super::graphs::Graphs;
use super::memory::Memory;
use super::page_attention::PageAttention;
use super::slots::Slots;
use super::state_memory::States;
use super::steps::Steps;
use super::tensor::{Holds, Rounded};
use super::weights::{Held, Weight};
use super::{Cuda, Reserved, Tensor};
use crate::device::{
    DType, DeviceLimits, InputQuant, Join, KvType, LoadOps, StepOps, WeightDesc, WeightKind,
};
use crate::error::{Error, Result};
use crate::internal;

impl LoadOps for Cuda {
    fn upload(&mut self, weight: WeightDesc<'_>) -> Result<Weight> {
        if weight.join != Join::None && self.member.is_none() {
            return Err(internal!("{}: a rank's, and there is one GPU", weight.name));
        }
        if let Join::Rows { .. } = weight.join {
            self.shared_rows = self.shared_rows.max(weight.outputs);
        }
        if weight.kind == WeightKind::GateUp {
            self.gate_up = self.gate_up.max(weight.outputs);
        }
        let weight = self.uploader.upload(&self.kernels, self.dtype, &weight)?;
        if let Held::Coded(coded) = &weight.held {
            self.coded.note(coded, self.dtype);
        }
        if weight.rounding.is_some() {
            self.coded.note_rounded(weight.inputs);
        }
        Ok(weight)
    }

    fn tensor(&mut self, rows: usize, width: usize) -> Result<Tensor> {
        let dtype = self.dtype;
        let memory = Memory::new(&self.context, rows * width * dtype.bytes(), "activations")?;
        Ok(Tensor::new(memory, [rows, width], dtype))
    }

    fn reshape(&mut self, tensor: &mut Tensor, width: usize) -> Result<()> {
        if tensor.rows * width * tensor.dtype.bytes() > tensor.memory.bytes {
            return Err(internal!("rows of {width} in those of {}", tensor.width));
        }
        tensor.width = width;
        if let Some(rounded) = &mut tensor.rounded {
            rounded.holds = Holds::Nothing;
            rounded.alone = false;
        }
        Ok(())
    }

    fn logits_tensor(&mut self, rows: usize, vocab: usize) -> Result<Tensor> {
        let memory = Memory::new(&self.context, rows * vocab * 4, "logits")?;
        self.sampler.hold(rows, vocab)?;
        Ok(Tensor::new(memory, [rows, vocab], DType::F32))
    }

    fn feeds(&mut self, tensor: &mut Tensor, weight: &Weight) -> Result<()> {
        let Held::Coded(coded) = &weight.held else { return Ok(()) };
        if coded.inputs != Some(InputQuant::E4m3Row) || !tensor.width.is_multiple_of(8) {
            return Ok(());
        }
        let row_bytes = (tensor.width * tensor.dtype.bytes()).max(padded_inputs(tensor.width));
        let what = "rounded activations";
        tensor.rounded = Some(Rounded {
            codes: Memory::new(&self.context, tensor.rows * row_bytes, what)?,
            steps: Memory::new(&self.context, tensor.rows * 4, what)?,
            holds: Holds::Nothing,
            alone: false,
        });
        Ok(())
    }

    fn reserve(&mut self, limits: &DeviceLimits) -> Result<()> {
        let kv = &limits.kv;
        if kv.dtype.plain().is_some_and(|plain| plain != self.dtype) {
            return Err(Error::Unsupported(format!(
                "kv_cache_dtype: pages of {} under a model of {} are not supported on GPUs; use \
                 auto or fp8.",
                kv.dtype.name(),
                KvType::from(self.dtype).name()
            )));
        }
        let mut pool_bytes = 0;
        let mut layer_starts = Vec::with_capacity(kv.layers());
        for row in &kv.rows {
            layer_starts.push(pool_bytes);
            pool_bytes += kv.bytes_of(row, limits.page_size) as usize * limits.pages;
        }
        let pool = Memory::new(&self.context, pool_bytes, "the KV pool")?;
        // A page that nobody wrote must hold numbers: NaN times a weight of 0 is NaN.
        pool.fill(0)?;
        let states = States::new(&self.context, limits, self.dtype)?;
        self.slots = Slots::new(limits);
        let steps = Steps::new(&self.context, limits, self.slots.layout())?;
        let gates = limits.step_tokens * self.gate_up * self.dtype.bytes();
        let logits = limits.logits_rows * self.shared_rows * DType::F32.bytes();
        // Sums of squares, of norms over ranks.
        let squares = if self.member.is_some() { 8 * limits.step_tokens } else { 0 };
        let scratch = gates.max(logits).max(squares);
        if scratch > 0 {
            self.scratch(scratch)?;
        }
        self.adapters.reserve(&self.context, limits.step_tokens)?;
        let rows = self.tower.as_ref().map_or(0, |tower| tower.most_rows());
        self.coded.reserve(&self.context, self.dtype, limits.step_tokens.max(rows))?;
        self.uploader.release();
        let attention = PageAttention::new(&self.context, &self.kernels, self.dtype, limits)?;
        let (limits, graphs) = (limits.clone(), Graphs::new(&self.context));
        self.reserved =
            Some(Reserved { limits, pool, layer_starts, states, steps, attention, graphs });
        Ok(())
    }

    fn sizes_to_rehearse(&self, step_tokens: usize) -> Vec<usize> {
        super::gemm_choices::buckets(step_tokens)
    }

    fn keep_choices(&mut self) {
        self.gemm.keep_choices();
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
