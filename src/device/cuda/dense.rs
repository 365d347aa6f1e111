//! Lookup, norms, linears and the head on the GPU. How products are made `products` knows.

use std::ops::Range;

use super::abi;
use super::coded_scratch::padded_inputs;
use super::device_ptr::DevicePtr;
use super::gemm_small_m::End;
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{Activation, DType, DenseOps, Join, LogitsRows, Norm, NormKind, Seam, XIelu};
use crate::error::Result;

/// Threads of a norm's block: one for eight columns, whole warps.
pub(super) fn norm_threads(width: usize) -> u32 {
    width.div_ceil(8).next_multiple_of(32).clamp(32, 1024) as u32
}

/// Rows from which a thread of a norm has several eights of columns: more rows are on their way at
/// once then, where with few of them each is done sooner by more threads.
const MANY_ROWS: usize = 256;

/// Rows without logits that are worth gathering the others first: two small launches cost as much
/// as the last layer's products of so many rows.
const FEWER_ROWS: usize = 32;

/// Threads of a norm of so many rows by the kernels for many; None: they do not take them.
fn threads_of_many(rows: usize, width: usize) -> Option<u32> {
    let each = 8 * abi::NORM_GROUPS as usize;
    let takes = rows >= MANY_ROWS
        && width.is_multiple_of(8)
        && (1..=abi::NORM_MANY_COLUMNS as usize).contains(&width);
    takes.then(|| (width.div_ceil(each) as u32).next_multiple_of(32))
}

/// Columns of a row, a multiple of 8, that a norm's block holds from the first read to the last
/// write, at most; what is made of others it reads again.
const WIDEST_HELD: usize = 8 * 1024;

impl From<NormKind> for abi::NormKind {
    fn from(kind: NormKind) -> abi::NormKind {
        match kind {
            NormKind::Rms => abi::NormKind::Rms,
            NormKind::RmsPlusOne => abi::NormKind::RmsPlusOne,
            NormKind::Layer => abi::NormKind::Layer,
        }
    }
}

/// Where a vector lies; null without one.
fn vector(weight: Option<&Weight>, length: usize) -> DevicePtr {
    weight.map_or(DevicePtr::NULL, |weight| weight.vector(length))
}

/// Only layer norm has a bias.
fn norm_bias(norm: &Norm<Weight>, width: usize) -> DevicePtr {
    vector(norm.bias.as_ref().filter(|_| norm.kind == NormKind::Layer), width)
}

/// Threads of a block with an element for each.
const ELEMENT_THREADS: u32 = 256;

impl DenseOps for Cuda {
    fn embed(&mut self, table: &Weight, scale: f32, out: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let out = out.to(rows, table.inputs, "embed");
        let first = match table.join {
            Join::Rows { first } => first as u32,
            Join::None | Join::Sum => 0,
        };
        self.look_up(rows, table, first, scale, out)?;
        if table.join == Join::None {
            return Ok(());
        }
        self.all_reduce(&table.name, rows * table.inputs, out)
    }

    fn add_positions(&mut self, table: &Weight, offset: usize, x: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let x = x.to(rows, table.inputs, "add_positions");
        self.kernels.add_positions.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &abi::AddPositions {
                position: self.reserved()?.steps.device.position.address,
                table: table.matrix(),
                x,
                table_rows: table.outputs as u32,
                offset: offset as u32,
                width: table.inputs as u32,
            },
        )
    }

    fn norm(&mut self, norm: &Norm<Weight>, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if self.leave_norm(norm, x, out) {
            return Ok(());
        }

        let (rows, width) = (self.rows(), x.width);
        let to = out.to(rows, width, "norm");
        let made = self.made_of(rows, out);
        let parameters = abi::NormRows {
            x: x.at(rows, width, "norm"),
            weight: norm.weight.vector(width),
            bias: norm_bias(norm, width),
            out: to,
            codes: made.codes,
            bytes: made.bytes,
            steps: made.steps,
            width: width as u32,
            padded_width: padded_inputs(width) as u32,
            eps: norm.eps,
            kind: norm.kind.into(),
        };
        let (kernel, threads) = match threads_of_many(rows, width) {
            Some(threads) => (&self.kernels.norm_rows_many, threads),
            None => (&self.kernels.norm_rows, norm_threads(width)),
        };
        kernel.launch(&self.context, [rows, 1], threads, &parameters)
    }

    fn add_norm(
        &mut self,
        norm: &Norm<Weight>,
        delta: &Tensor,
        residual: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), residual.width);
        let parameters = self.add_norm_of(norm, delta, residual, out);
        self.launch_add_norm(rows, width, false, &parameters)
    }

    fn norm_parts(
        &mut self,
        norm: &Norm<Weight>,
        columns: Range<usize>,
        x: &mut Tensor,
    ) -> Result<()> {
        let (rows, stride) = (self.rows(), x.width);
        let width = norm.weight.outputs;
        let whole = width > 0 && columns.len().is_multiple_of(width) && columns.end <= stride;
        assert!(whole, "norms of {width} over columns {columns:?} of {stride}");

        let parameters = abi::NormParts {
            x: x.to(rows, stride, "norm_parts"),
            weight: norm.weight.vector(width),
            squares: DevicePtr::NULL,
            stride: stride as u32,
            first: columns.start as u32,
            width: width as u32,
            eps: norm.eps,
            kind: norm.kind.into(),
            count: width as f32,
            weight_step: 0,
            unused: 0,
        };
        let blocks = [rows, columns.len() / width];
        self.kernels.norm_parts.launch(&self.context, blocks, norm_threads(width), &parameters)
    }

    fn add(&mut self, delta: &Tensor, residual: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), residual.width);
        self.kernels.add_rows.launch(
            &self.context,
            [rows, 1],
            norm_threads(width),
            &abi::AddRows {
                delta: delta.at(rows, width, "add"),
                residual: residual.to(rows, width, "add"),
                width: width as u32,
            },
        )
    }

    fn clamp(&mut self, limit: f32, x: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let blocks = [rows, width.div_ceil(ELEMENT_THREADS as usize)];
        let parameters = abi::Clamp { x: x.to(rows, width, "clamp"), width: width as u32, limit };
        self.kernels.clamp.launch(&self.context, blocks, ELEMENT_THREADS, &parameters)
    }

    fn scale(&mut self, factor: f32, x: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let blocks = [rows, width.div_ceil(abi::LAYER_THREADS as usize)];
        let parameters =
            abi::ScaleRows { x: x.to(rows, width, "scale"), width: width as u32, factor };
        self.kernels.scale_rows.launch(&self.context, blocks, abi::LAYER_THREADS, &parameters)
    }

    fn linear(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), weight.outputs);
        let x = x.input(rows, weight.inputs, "linear");
        let y = out.to(rows, width, "linear");
        let end = End::Act(abi::Activation::None);
        self.adapted_product(rows, weight, vector(bias, width), end, x, y)?;
        self.join_sums(weight, rows, width, y)
    }

    fn linear_add_norm(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Tensor,
        mut seam: Seam<'_, Weight, Tensor>,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), weight.outputs);
        if let Some(blocks) = self.blocks_of_row_shares(weight, &seam, rows)? {
            let x = x.input(rows, weight.inputs, "linear_add_norm");
            let y = seam.delta.to(rows, width, "linear_add_norm");
            let end = End::Act(abi::Activation::None);
            self.adapted_product(rows, weight, vector(bias, width), end, x, y)?;
            return self.share_rows(&weight.name, blocks, seam);
        }
        let Some(blocks) = self.blocks_of_joined_norm(weight, seam.norm, rows, width) else {
            let of = vector(bias, width);
            if self.add_to_residuals(weight, of, x, &mut seam)?
                || self.add_to_residual(weight, of, x, &mut seam)?
            {
                return Ok(());
            }
            if bias.is_none() && self.library_adds(weight, x, &mut seam)? {
                return self.norm(seam.norm, seam.residual, seam.normed);
            }
            // Of a tower: a bias that would take a launch of its own goes with the norm.
            let waits = self.tower_rows.is_some() && self.bias_takes_a_launch(rows, weight);
            let [now, then] = if waits { [None, bias] } else { [bias, None] };
            let ahead = self.ends_with_product(rows, weight, now.is_some());
            self.linear(weight, now, x, seam.delta)?;
            let Seam { norm, delta, residual, normed, next } = seam;
            let delta_bias = vector(then, width);
            let parameters = self.add_norm_of(norm, delta, residual, normed);
            let out = if width <= WIDEST_HELD && self.leaves_codes(next, rows, normed) {
                DevicePtr::NULL
            } else {
                parameters.out
            };
            let parameters = abi::AddNorm { delta_bias, out, ..parameters };
            return self.launch_add_norm(rows, width, ahead, &parameters);
        };
        let x = x.input(rows, weight.inputs, "linear_add_norm");
        if let Some(push) = self.row_push(rows, weight) {
            return self.push_row(weight, vector(bias, width), x, push, seam);
        }
        let y = seam.delta.to(rows, width, "linear_add_norm");
        let end = End::Act(abi::Activation::None);
        self.adapted_product(rows, weight, vector(bias, width), end, x, y)?;
        self.sum_add_norm(&weight.name, blocks, seam)
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
        let x = x.input(rows, weight.inputs, "linear_act");
        let bias = vector(bias, width);
        if act.is_gated() {
            let y = out.to(rows, width / 2, "linear_act");
            return self.adapted_product(rows, weight, bias, End::Gated(act.into()), x, y);
        }
        let y = out.to(rows, width, "linear_act");
        self.adapted_product(rows, weight, bias, End::Act(act.into()), x, y)?;
        match act {
            Activation::XIelu(numbers) => self.xielu(numbers, rows, width, y),
            _ => Ok(()),
        }
    }

    fn logits_rows(&self) -> LogitsRows {
        let batch = self.slots.batch();
        match batch.logits.len() {
            all if all == batch.rows => LogitsRows::All,
            few if self.padded.is_none()
                && batch.rows >= few + FEWER_ROWS
                // They go by token rows.
                && !batch.adapters =>
            {
                LogitsRows::Few(few)
            }
            _ => LogitsRows::Gathered,
        }
    }

    fn gather(&mut self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let samples = self.samples();
        self.kernels.gather.launch(
            &self.context,
            [samples, 1],
            ROW_THREADS,
            &abi::Gather {
                row: self.reserved()?.steps.device.gather_row.address,
                x: x.at(self.rows(), x.width, "gather"),
                out: out.to(samples, x.width, "gather"),
                width: x.width as u32,
            },
        )
    }

    fn linear_gathered(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let rows = self.samples();
        let x = x.input(rows, weight.inputs, "linear_gathered");
        let width = weight.outputs;
        let y = out.to(rows, width, "linear_gathered");
        self.product(rows, weight, DevicePtr::NULL, End::Act(abi::Activation::None), x, y)?;
        self.join_sums(weight, rows, width, y)
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
        let vocab = logits.width;
        let y = logits.to(rows, vocab, "logits");
        let x = x.input(rows, head.inputs, "logits");
        // What is not yet the row that is sampled from has another best.
        let last = softcap.is_none() && head.join == Join::None && !self.adapts(head);
        self.logits_best.begin(last.then_some(y));
        if let Join::Rows { .. } = head.join {
            let part = self.scratch(rows * head.outputs * DType::F32.bytes())?;
            self.adapted_product(rows, head, DevicePtr::NULL, End::Logits, x, part)?;
            self.all_gather(&head.name, rows, [head.outputs, vocab], part, y)?;
        } else {
            assert!(head.outputs == vocab, "{}: logits of {vocab}", head.name);
            self.adapted_product(rows, head, DevicePtr::NULL, End::Logits, x, y)?;
        }

        let Some(cap) = softcap else { return Ok(()) };
        let count = rows * vocab;
        let blocks = [count.div_ceil(THREADS as usize).min(4096), 1];
        let parameters = abi::Softcap { logits: y, count: count as u64, cap };
        self.kernels.softcap.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn bias_logits(&mut self, bias: &Weight, logits: &mut Tensor) -> Result<()> {
        const THREADS: u32 = 256;
        let (rows, vocab) = (self.samples(), logits.width);
        let y = logits.to(rows, vocab, "bias_logits");
        self.logits_best.begin(None);
        let blocks = [rows, vocab.div_ceil(THREADS as usize)];
        let parameters =
            abi::BiasLogits { logits: y, bias: bias.vector(vocab), vocab: vocab as u32 };
        self.kernels.bias_logits.launch(&self.context, blocks, THREADS, &parameters)
    }
}

impl Cuda {
    /// What `add_norm` is called with, for the kernels that are it.
    pub(super) fn add_norm_of(
        &self,
        norm: &Norm<Weight>,
        delta: &Tensor,
        residual: &mut Tensor,
        out: &mut Tensor,
    ) -> abi::AddNorm {
        let (rows, width) = (self.rows(), residual.width);
        let to = out.to(rows, width, "add_norm");
        let made = self.made_of(rows, out);

        abi::AddNorm {
            delta: delta.at(rows, width, "add_norm"),
            residual: residual.to(rows, width, "add_norm"),
            weight: norm.weight.vector(width),
            bias: norm_bias(norm, width),
            out: to,
            codes: made.codes,
            bytes: made.bytes,
            steps: made.steps,
            width: width as u32,
            padded_width: padded_inputs(width) as u32,
            eps: norm.eps,
            kind: norm.kind.into(),
            delta_bias: DevicePtr::NULL,
        }
    }

    /// `ahead`: the launch before is a product as `ends_with_product` says.
    fn launch_add_norm(
        &self,
        rows: usize,
        width: usize,
        ahead: bool,
        parameters: &abi::AddNorm,
    ) -> Result<()> {
        let held = width.is_multiple_of(8) && width <= WIDEST_HELD;
        let (kernel, threads) = match threads_of_many(rows, width) {
            Some(threads) => (&self.kernels.add_norm_many, threads),
            None if ahead && held => (&self.kernels.add_norm_ahead, norm_threads(width)),
            None => (&self.kernels.add_norm, norm_threads(width)),
        };
        kernel.launch(&self.context, [rows, 1], threads, parameters)
    }

    /// Rows of a table whose first one is token `first`'s; zeros for tokens that it does not have.
    fn look_up(
        &self,
        rows: usize,
        table: &Weight,
        first: u32,
        scale: f32,
        out: DevicePtr,
    ) -> Result<()> {
        if let Some(slots) = table.table_adapters.as_ref().filter(|_| self.slots.batch().adapters) {
            return self.look_up_adapted(rows, table, slots, first, scale, out);
        }

        self.kernels.embed.launch(
            &self.context,
            [rows, 1],
            ROW_THREADS,
            &abi::Embed {
                token: self.reserved()?.steps.device.token.address,
                table: table.matrix(),
                out,
                table_rows: table.outputs as u32,
                width: table.inputs as u32,
                first,
                scale,
            },
        )
    }
}

impl Cuda {
    /// The activation behind a product, over `x` `[rows, width]` in place.
    fn xielu(&self, numbers: XIelu, rows: usize, width: usize, x: DevicePtr) -> Result<()> {
        let XIelu { positive, negative, linear, limit } = numbers;
        let blocks = [rows, width.div_ceil(ELEMENT_THREADS as usize)];
        let width = width as u32;
        let parameters = abi::Xielu { x, width, positive, negative, linear, limit };
        self.kernels.xielu.launch(&self.context, blocks, ELEMENT_THREADS, &parameters)
    }
}
