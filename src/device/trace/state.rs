//! What layers with a state would move and compute: each sequence's state is read and written once.

use super::{bytes, product, Trace, TraceTensor, TraceWeight};
use crate::device::{
    ChannelScanSpec, Columns, ConvSpec, DType, DeltaSpec, DeltaWeights, GatedNorm, Norm,
};
use crate::device::{ScanSpec, ScanWeights, StateOps};
use crate::error::Result;
use crate::internal;

impl StateOps for Trace {
    fn short_convolution(
        &mut self,
        _layer: usize,
        spec: &ConvSpec,
        weight: &TraceWeight,
        _bias: Option<&TraceWeight>,
        x: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let ConvSpec { taps, width, .. } = *spec;
        if width > x.width || width != out.width || weight.outputs != width * taps {
            return Err(internal!("{taps} taps over {width} of {} channels", x.width));
        }
        let rows = self.rows();
        let tails = product(&[self.sequences(), taps - 1, width, x.bytes]);
        let moved = product(&[rows, width, x.bytes]);
        let flops = product(&[rows, width, 2 * taps]);
        let shape = (rows, width, width);
        self.launch("short_convolution", shape, moved + tails + weight.bytes, moved + tails, flops);
        Ok(())
    }

    fn multiply(
        &mut self,
        a: Columns<'_, TraceTensor>,
        b: Columns<'_, TraceTensor>,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        for Columns { tensor, first } in [a, b] {
            if first + width > tensor.width {
                return Err(internal!("{width} columns from {first} on of {}", tensor.width));
            }
        }
        let moved = bytes(rows, out);
        let flops = (rows * width) as u64;
        self.launch("multiply", (rows, width, width), 2 * moved, moved, flops);
        Ok(())
    }

    fn delta_rule(
        &mut self,
        _layer: usize,
        spec: &DeltaSpec,
        _weights: DeltaWeights<'_, TraceWeight>,
        mixed: &TraceTensor,
        rates: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        if mixed.width != spec.mixed_width() || rates.width != 2 * spec.value_heads {
            return Err(internal!("{spec:?} over {} and {} columns", mixed.width, rates.width));
        }
        let rows = self.rows();
        let DeltaSpec { value_heads, value_dim, key_dim, .. } = *spec;
        let element = DType::F32.bytes();
        let states = product(&[self.sequences(), value_heads, value_dim, key_dim, element]);
        let read = bytes(rows, mixed) + bytes(rows, rates) + states;
        let flops = product(&[7, rows, value_heads, value_dim, key_dim]);
        let written = bytes(rows, out) + states;
        self.launch("delta_rule", (rows, mixed.width, out.width), read, written, flops);
        Ok(())
    }

    fn selective_scan(
        &mut self,
        _layer: usize,
        spec: &ScanSpec,
        _weights: ScanWeights<'_, TraceWeight>,
        mixed: &TraceTensor,
        rates: Columns<'_, TraceTensor>,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let ScanSpec { heads, head_dim, state, .. } = *spec;
        let fits = mixed.width == spec.mixed_width() && out.width == spec.inner_width();
        if !fits || rates.first + heads > rates.tensor.width {
            return Err(internal!("{spec:?} of {} columns into {}", mixed.width, out.width));
        }
        let rows = self.rows();
        let element = DType::F32.bytes();
        let states = product(&[self.sequences(), heads, head_dim, state, element]);
        let read_rates = product(&[rows, heads, rates.tensor.bytes]);
        let read = bytes(rows, mixed) + read_rates + states;
        let flops = product(&[5, rows, heads, head_dim, state]);
        let written = bytes(rows, out) + states;
        self.launch("selective_scan", (rows, mixed.width, out.width), read, written, flops);
        Ok(())
    }

    fn channel_scan(
        &mut self,
        _layer: usize,
        spec: &ChannelScanSpec,
        weights: ScanWeights<'_, TraceWeight>,
        x: &TraceTensor,
        rates: &TraceTensor,
        bc: &TraceTensor,
        out: &mut TraceTensor,
    ) -> Result<()> {
        let ChannelScanSpec { width, state } = *spec;
        if [x.width, rates.width, out.width] != [width; 3] || bc.width != 2 * state {
            return Err(internal!("{spec:?} of {} and {} columns", x.width, bc.width));
        }
        let rows = self.rows();
        let states = product(&[self.sequences(), width, state, DType::F32.bytes()]);
        let inputs = bytes(rows, x) + bytes(rows, rates) + bytes(rows, bc);
        let read = inputs + weights.log_decay.bytes + states;
        let flops = product(&[6, rows, width, state]);
        let written = bytes(rows, out) + states;
        self.launch("channel_scan", (rows, width, width), read, written, flops);
        Ok(())
    }

    fn norm_gated(
        &mut self,
        spec: &GatedNorm,
        _norm: Option<&Norm<TraceWeight>>,
        z: &TraceTensor,
        x: &mut TraceTensor,
    ) -> Result<()> {
        if spec.first + x.width > z.width {
            return Err(internal!("a gate of {} columns in {}", x.width, z.width));
        }
        let (rows, width) = (self.rows(), x.width);
        let moved = bytes(rows, x);
        let flops = (10 * rows * width) as u64;
        self.launch("norm_gated", (rows, width, width), 2 * moved, moved, flops);
        Ok(())
    }
}

impl Trace {
    fn sequences(&self) -> usize {
        self.slots.batch().chunks.len()
    }
}
