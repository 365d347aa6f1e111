//! Layers that keep a state on the GPU. Which rows belong together the kernels read from the step's
//! rows on the device, so launches depend on the number of rows alone.

use super::abi;
use super::dense::norm_threads;
use super::device_ptr::DevicePtr;
use super::launch::Kernel;
use super::module::Kernels;
use super::weights::Weight;
use super::{state_chunks, Cuda, Tensor};
use crate::device::{
    ChannelScanSpec, Columns, ConvSpec, DeltaSpec, DeltaWeights, DeviceTypes, Gate, GateOrder,
    GatedNorm, Join, Norm, ScanSpec, ScanWeights, StateOps, StateShape,
};
use crate::error::Result;
use crate::internal;

impl From<Gate> for abi::Gate {
    fn from(gate: Gate) -> abi::Gate {
        match gate {
            Gate::Silu => abi::Gate::Silu,
            Gate::Sigmoid => abi::Gate::Sigmoid,
        }
    }
}

impl From<GateOrder> for abi::GateOrder {
    fn from(order: GateOrder) -> abi::GateOrder {
        match order {
            GateOrder::NormFirst => abi::GateOrder::NormFirst,
            GateOrder::GateFirst => abi::GateOrder::GateFirst,
        }
    }
}

impl StateOps for Cuda {
    fn short_convolution(
        &mut self,
        layer: usize,
        spec: &ConvSpec,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let ConvSpec { taps, width, silu } = *spec;
        let rows = self.rows();
        if !(2..=abi::CONV_MAX_TAPS as usize).contains(&taps) || width > x.width {
            return Err(internal!("a convolution of {taps} taps over {width} of {}", x.width));
        }
        let reserved = self.reserved()?;
        let StateShape { tail_rows, tail_width, .. } = reserved.states.shape();
        if (tail_rows, tail_width) != (taps - 1, width) {
            return Err(internal!("{taps} taps over {width}, and states of {tail_width}"));
        }

        let device = &reserved.steps.device;
        let parameters = abi::ShortConvolution {
            x: x.at(rows, x.width, "short_convolution"),
            weight: weight.vector(width * taps),
            bias: bias.map_or(DevicePtr::NULL, |bias| bias.vector(width)),
            out: out.to(rows, width, "short_convolution"),
            tails: reserved.states.tails(layer),
            slot_bytes: reserved.states.slot_bytes(),
            entry_bytes: reserved.states.entry_bytes(),
            position: device.position.address,
            slot_of: device.slot_of.address,
            rows: rows as u32,
            stride: x.width as u32,
            width: width as u32,
            taps: taps as u32,
            silu: silu.into(),
            spares: reserved.states.spares(),
        };
        let blocks = [rows, width.div_ceil(abi::CONV_THREADS as usize)];
        let launch = |kernel: &Kernel<abi::ShortConvolution>| {
            kernel.launch(&self.context, blocks, abi::CONV_THREADS, &parameters)
        };
        launch(&self.kernels.short_convolution)?;
        // A sequence of a single row has moved its tail.
        if !self.slots.batch().several_rows() {
            return Ok(());
        }
        launch(&self.kernels.convolution_tails)
    }

    fn multiply(
        &mut self,
        a: Columns<'_, Tensor>,
        b: Columns<'_, Tensor>,
        out: &mut Tensor,
    ) -> Result<()> {
        const THREADS: u32 = abi::CONV_THREADS;
        let (rows, width) = (self.rows(), out.width);
        for Columns { tensor, first } in [&a, &b] {
            if first + width > tensor.width {
                return Err(internal!("{width} columns from {first} on of {}", tensor.width));
            }
        }

        let parameters = abi::Multiply {
            a: a.tensor.at(rows, a.tensor.width, "multiply"),
            b: b.tensor.at(rows, b.tensor.width, "multiply"),
            out: out.to(rows, width, "multiply"),
            a_stride: a.tensor.width as u32,
            b_stride: b.tensor.width as u32,
            a_first: a.first as u32,
            b_first: b.first as u32,
            width: width as u32,
            unused: 0,
        };
        let blocks = [rows, width.div_ceil(THREADS as usize)];
        self.kernels.multiply.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn delta_rule(
        &mut self,
        layer: usize,
        spec: &DeltaSpec,
        weights: DeltaWeights<'_, Weight>,
        mixed: &Tensor,
        rates: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let DeltaSpec { key_heads, value_heads, key_dim, value_dim } = *spec;
        let rows = self.rows();
        let reserved = self.reserved()?;
        let StateShape { heads, rows: state_rows, columns, .. } = reserved.states.shape();
        if (heads, state_rows, columns) != (value_heads, value_dim, key_dim) {
            return Err(internal!("{spec:?}, and states of {heads} x {state_rows} x {columns}"));
        }

        let device = &reserved.steps.device;
        let parameters = abi::DeltaRule {
            mixed: mixed.at(rows, spec.mixed_width(), "delta_rule"),
            rates: rates.at(rows, 2 * value_heads, "delta_rule"),
            log_decay: weights.log_decay.vector(value_heads),
            rate_bias: weights.rate_bias.vector(value_heads),
            out: out.to(rows, spec.value_width(), "delta_rule"),
            matrices: reserved.states.matrices(layer),
            slot_bytes: reserved.states.slot_bytes(),
            entry_bytes: reserved.states.entry_bytes(),
            position: device.position.address,
            slot_of: device.slot_of.address,
            records: if self.padded.is_some() { DevicePtr::NULL } else { reserved.steps.records },
            rows: rows as u32,
            key_heads: key_heads as u32,
            value_heads: value_heads as u32,
            key_dim: key_dim as u32,
            value_dim: value_dim as u32,
            without_chunks: 0,
            spares: reserved.states.spares(),
            unused: 0,
        };
        let chunks = state_chunks::delta_kernel(&self.kernels, key_dim);
        let chunks = chunks.filter(|_| self.has_chunks(value_dim));
        if let Some(kernel) = chunks {
            let blocks = self.blocks_of_heads(value_heads, value_dim, abi::RULE_ROWS);
            state_chunks::launch(&self.context, kernel, blocks, &parameters)?;
            if state_chunks::all(self.slots.batch()) {
                return Ok(());
            }
        }
        let without_chunks = u32::from(chunks.is_some());
        let parameters = abi::DeltaRule { without_chunks, ..parameters };
        let blocks = self.blocks_of_heads(value_heads, value_dim, abi::DELTA_BLOCK_ROWS);
        let kernel = delta_kernel(&self.kernels, key_dim);
        kernel.launch(&self.context, blocks, abi::DELTA_THREADS, &parameters)
    }

    fn selective_scan(
        &mut self,
        layer: usize,
        spec: &ScanSpec,
        weights: ScanWeights<'_, Weight>,
        mixed: &Tensor,
        rates: Columns<'_, Tensor>,
        out: &mut Tensor,
    ) -> Result<()> {
        let ScanSpec { heads, head_dim, groups, state } = *spec;
        let rows = self.rows();
        if rates.first + heads > rates.tensor.width {
            return Err(internal!("rates of {heads} heads in {} columns", rates.tensor.width));
        }
        let reserved = self.reserved()?;
        let StateShape { heads: held, rows: state_rows, columns, .. } = reserved.states.shape();
        if (held, state_rows, columns) != (heads, head_dim, state) {
            return Err(internal!("{spec:?}, and states of {held} x {state_rows} x {columns}"));
        }

        let device = &reserved.steps.device;
        let parameters = abi::SelectiveScan {
            mixed: mixed.at(rows, spec.mixed_width(), "selective_scan"),
            rates: rates.tensor.at(rows, rates.tensor.width, "selective_scan"),
            log_decay: weights.log_decay.vector(heads),
            rate_bias: weights.rate_bias.vector(heads),
            skip: weights.skip.vector(heads),
            out: out.to(rows, spec.inner_width(), "selective_scan"),
            matrices: reserved.states.matrices(layer),
            slot_bytes: reserved.states.slot_bytes(),
            entry_bytes: reserved.states.entry_bytes(),
            position: device.position.address,
            slot_of: device.slot_of.address,
            records: if self.padded.is_some() { DevicePtr::NULL } else { reserved.steps.records },
            rows: rows as u32,
            heads: heads as u32,
            head_dim: head_dim as u32,
            groups: groups as u32,
            state: state as u32,
            stride: rates.tensor.width as u32,
            first: rates.first as u32,
            without_chunks: 0,
            spares: reserved.states.spares(),
            unused: 0,
        };
        let chunks = state_chunks::scan_kernel(&self.kernels, state);
        let chunks = chunks.filter(|_| self.has_chunks(head_dim));
        if let Some(kernel) = chunks {
            let blocks = self.blocks_of_heads(heads, head_dim, abi::RULE_ROWS);
            state_chunks::launch(&self.context, kernel, blocks, &parameters)?;
            if state_chunks::all(self.slots.batch()) {
                return Ok(());
            }
        }
        let without_chunks = u32::from(chunks.is_some());
        let parameters = abi::SelectiveScan { without_chunks, ..parameters };
        let blocks = self.blocks_of_heads(heads, head_dim, abi::DELTA_BLOCK_ROWS);
        let kernel = scan_kernel(&self.kernels, state);
        kernel.launch(&self.context, blocks, abi::DELTA_THREADS, &parameters)
    }

    fn channel_scan(
        &mut self,
        layer: usize,
        spec: &ChannelScanSpec,
        weights: ScanWeights<'_, Weight>,
        x: &Tensor,
        rates: &Tensor,
        bc: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        const OP: &str = "channel_scan";
        const THREADS: u32 = abi::CHANNEL_SCAN_THREADS;
        let ChannelScanSpec { width, state } = *spec;
        let rows = self.rows();
        let reserved = self.reserved()?;
        let StateShape { heads, rows: held, columns, .. } = reserved.states.shape();
        if (heads, held, columns) != (1, width, state) {
            return Err(internal!("{spec:?}, and states of {heads} x {held} x {columns}"));
        }

        let device = &reserved.steps.device;
        let parameters = abi::ChannelScan {
            x: x.at(rows, width, OP),
            rates: rates.at(rows, width, OP),
            bc: bc.at(rows, 2 * state, OP),
            log_decay: weights.log_decay.vector(width * state),
            rate_bias: weights.rate_bias.vector(width),
            skip: weights.skip.vector(width),
            out: out.to(rows, width, OP),
            matrices: reserved.states.matrices(layer),
            slot_bytes: reserved.states.slot_bytes(),
            entry_bytes: reserved.states.entry_bytes(),
            position: device.position.address,
            slot_of: device.slot_of.address,
            records: if self.padded.is_some() { DevicePtr::NULL } else { reserved.steps.records },
            rows: rows as u32,
            width: width as u32,
            state: state as u32,
            spares: reserved.states.spares(),
        };
        let blocks = [self.sequences(), width.div_ceil(THREADS as usize)];
        let few = state <= 16;
        let kernel =
            if few { &self.kernels.channel_scan_16 } else { &self.kernels.channel_scan_64 };
        kernel.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn norm_gated(
        &mut self,
        spec: &GatedNorm,
        norm: Option<&Norm<Weight>>,
        z: &Tensor,
        x: &mut Tensor,
    ) -> Result<()> {
        let over_ranks = norm.filter(|norm| norm.weight.join == Join::Sum);
        self.gate_parts(spec, norm.filter(|_| over_ranks.is_none()), z, x)?;
        match over_ranks {
            Some(norm) => self.norm_row_over_ranks(norm, x),
            None => Ok(()),
        }
    }
}

impl Cuda {
    /// Whether some sequence of the step is cut into chunks; matrices have so many rows.
    fn has_chunks(&self, state_rows: usize) -> bool {
        // Recorded steps are of single tokens.
        self.padded.is_none() && state_chunks::some(self.dtype, self.slots.batch(), state_rows)
    }

    /// Blocks of a recurrence over heads whose states have so many rows each, of every sequence; a
    /// block has `block_rows` of them.
    fn blocks_of_heads(&self, heads: usize, state_rows: usize, block_rows: u32) -> [usize; 2] {
        [self.sequences(), heads * state_rows.div_ceil(block_rows as usize)]
    }

    /// Sequences of the step, with empty ones up to a size that returns.
    fn sequences(&self) -> usize {
        // Only padded steps are recorded.
        let padded = self.padded.is_some();
        if padded {
            self.rows()
        } else {
            self.slots.batch().chunks.len()
        }
    }

    /// A gate and a norm that is the rank's alone, or no norm.
    fn gate_parts(
        &mut self,
        spec: &GatedNorm,
        norm: Option<&Norm<Weight>>,
        z: &Tensor,
        x: &mut Tensor,
    ) -> Result<()> {
        let (rows, all, part) = (self.rows(), x.width, spec.part);
        let weights = norm.map_or(part, |norm| norm.weight.outputs);
        let fits = part > 0 && all.is_multiple_of(part) && (weights == part || weights == all);
        if !fits || spec.first + all > z.width {
            return Err(internal!(
                "a norm of {weights} over {all} columns in parts of {part}, gates in {}",
                z.width
            ));
        }

        let parts = all / part;
        let parameters = abi::NormGated {
            x: x.to(rows, all, "norm_gated"),
            weight: norm.map_or(DevicePtr::NULL, |norm| norm.weight.vector(weights)),
            z: z.at(rows, z.width, "norm_gated"),
            parts: parts as u32,
            width: part as u32,
            stride: z.width as u32,
            first: spec.first as u32,
            eps: norm.map_or(0.0, |norm| norm.eps),
            norm: norm.map_or(abi::NormKind::Rms, |norm| norm.kind.into()),
            gate: spec.gate.into(),
            order: spec.order.into(),
            weight_step: if weights == part { 0 } else { part as u32 },
            unused: 0,
        };
        let kernel = &self.kernels.norm_gated;
        kernel.launch(&self.context, [rows, parts], norm_threads(part), &parameters)
    }

    /// Rows of which each rank has some columns.
    fn norm_row_over_ranks(&mut self, norm: &Norm<Weight>, x: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let ranks = self.rank().of;
        let rows_of_x = x.to(rows, width, "norm_gated");
        let squares =
            self.squares_of_ranks(&norm.weight.name, rows, rows_of_x, width, [width, 0])?;
        let parameters = abi::NormParts {
            x: rows_of_x,
            weight: norm.weight.vector(width),
            squares,
            stride: width as u32,
            first: 0,
            width: width as u32,
            eps: norm.eps,
            kind: norm.kind.into(),
            count: (ranks * width) as f32,
            weight_step: 0,
            unused: 0,
        };
        let kernel = &self.kernels.norm_parts;
        kernel.launch(&self.context, [rows, 1], norm_threads(width), &parameters)
    }
}

/// As [`delta_kernel`].
fn scan_kernel(kernels: &Kernels, columns: usize) -> &Kernel<abi::SelectiveScan> {
    match columns {
        0..=32 => &kernels.selective_scan_1,
        33..=64 => &kernels.selective_scan_2,
        65..=128 => &kernels.selective_scan_4,
        _ => &kernels.selective_scan_8,
    }
}

/// By the columns of a matrix, of which a lane of a warp holds a run.
fn delta_kernel(kernels: &Kernels, columns: usize) -> &Kernel<abi::DeltaRule> {
    match columns {
        0..=32 => &kernels.delta_rule_1,
        33..=64 => &kernels.delta_rule_2,
        65..=128 => &kernels.delta_rule_4,
        _ => &kernels.delta_rule_8,
    }
}
