//! Layers with a state on the CPU. A sequence's rows run one after the other, each head and each
//! channel by itself and in f32, so batch mix and chunking change no bit.

use super::buffer::Tensor;
use super::channel_scan::ChannelScan;
use super::numbers;
use super::scan::Scan;
use super::simd::with_isa;
use super::state_pool::{LayerStates, StatePool};
use super::state_tasks::{share, tasks_of, write_heads, Task};
use super::weight::Weight;
use super::Cpu;
use crate::device::batch::BatchChunk;
use crate::device::{
    Activation, ChannelScanSpec, Columns, ConvSpec, DeltaSpec, DeltaWeights, DeviceTypes, Gate,
    GateOrder, GatedNorm, Join, Norm, ScanSpec, ScanWeights, StateOps,
};
use crate::error::{Error, Result};
use crate::internal;

/// Added to the sum of squares where q and k get the length 1.
const LENGTH_EPS: f32 = 1e-6;

impl StateOps for Cpu {
    fn short_convolution(
        &mut self,
        layer: usize,
        spec: &ConvSpec,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let Cpu { states, slots, isa, .. } = self;
        let chunks = &slots.batch().chunks;
        let states = of_chunks(states.as_mut(), layer, chunks)?;
        let bias = bias.map(Weight::vector);

        for (chunk, state) in chunks.iter().zip(states) {
            with_isa(
                *isa,
                #[inline(always)]
                || convolve(spec, weight.vector(), bias, chunk, state, x, out),
            );
        }
        Ok(())
    }

    fn multiply(
        &mut self,
        a: Columns<'_, Tensor>,
        b: Columns<'_, Tensor>,
        out: &mut Tensor,
    ) -> Result<()> {
        let width = out.width;
        for r in 0..self.rows() {
            let [a, b] = [&a, &b].map(|x| &x.tensor.row(r)[x.first..x.first + width]);
            let products = a.iter().zip(b).map(|(a, b)| a * b);
            out.row_mut(r).iter_mut().zip(products).for_each(|(o, product)| *o = product);
        }
        Ok(())
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
        let Cpu { states, slots, isa, workers, .. } = self;
        let chunks = &slots.batch().chunks;
        let states = of_chunks(states.as_mut(), layer, chunks)?;
        let rule = Rule {
            spec,
            log_decay: weights.log_decay.vector(),
            rate_bias: weights.rate_bias.vector(),
            mixed,
            rates,
        };

        let mut tasks = tasks_of(chunks, states, spec.value_heads, [spec.value_dim, spec.key_dim]);
        let rows = slots.batch().rows;
        let macs = 3 * rows * spec.value_heads * spec.value_dim * spec.key_dim;
        share(workers, *isa, macs, &mut tasks, |task| rule.run(task));
        write_heads(&tasks, spec.value_dim, out);
        Ok(())
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
        let Cpu { states, slots, isa, workers, .. } = self;
        let chunks = &slots.batch().chunks;
        let states = of_chunks(states.as_mut(), layer, chunks)?;
        let scan = Scan {
            spec,
            log_decay: weights.log_decay.vector(),
            rate_bias: weights.rate_bias.vector(),
            skip: weights.skip.vector(),
            mixed,
            rates,
        };

        let mut tasks = tasks_of(chunks, states, spec.heads, [spec.head_dim, spec.state]);
        let macs = 2 * slots.batch().rows * spec.inner_width() * spec.state;
        share(workers, *isa, macs, &mut tasks, |task| scan.run(task));
        write_heads(&tasks, spec.head_dim, out);
        Ok(())
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
        let Cpu { states, slots, isa, workers, .. } = self;
        let chunks = &slots.batch().chunks;
        let states = of_chunks(states.as_mut(), layer, chunks)?;
        let scan = ChannelScan {
            spec,
            log_decay: weights.log_decay.vector(),
            rate_bias: weights.rate_bias.vector(),
            skip: weights.skip.vector(),
            x,
            rates,
            bc,
        };

        let channels = ChannelScan::channels(spec);
        let mut tasks = tasks_of(chunks, states, spec.width / channels, [channels, spec.state]);
        let macs = 8 * slots.batch().rows * spec.width * spec.state;
        share(workers, *isa, macs, &mut tasks, |task| scan.run(task));
        write_heads(&tasks, channels, out);
        Ok(())
    }

    fn norm_gated(
        &mut self,
        spec: &GatedNorm,
        norm: Option<&Norm<Weight>>,
        z: &Tensor,
        x: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let gates_of = |r: usize| {
            let mut gates = z.row(r)[spec.first..spec.first + x.width].to_vec();
            apply_gate(spec.gate, &mut gates);
            gates
        };
        let gates: Vec<Vec<f32>> = (0..rows).map(gates_of).collect();
        let multiply = |x: &mut Tensor| {
            for (r, gates) in gates.iter().enumerate() {
                x.row_mut(r).iter_mut().zip(gates).for_each(|(x, gate)| *x *= gate);
            }
        };

        let Some(norm) = norm else {
            multiply(x);
            return Ok(());
        };
        if spec.order == GateOrder::GateFirst {
            multiply(x);
        }
        if norm.weight.join == Join::Sum {
            self.norm_row_over_ranks(norm, x)?;
        } else {
            (0..rows).for_each(|r| norm_parts(norm, spec.part, x.row_mut(r)));
        }
        if spec.order == GateOrder::NormFirst {
            multiply(x);
        }
        Ok(())
    }
}

/// Each part of a row by itself; weights are a part's, or a row's.
fn norm_parts(norm: &Norm<Weight>, part: usize, row: &mut [f32]) {
    let w = norm.weight.vector();
    let weights = w.chunks_exact(part).cycle();
    for (x, w) in row.chunks_exact_mut(part).zip(weights) {
        let own = x.to_vec();
        numbers::norm(norm.kind, norm.eps, w, None, &own, x);
    }
}

impl Cpu {
    /// Rows of which each rank has some columns.
    fn norm_row_over_ranks(&mut self, norm: &Norm<Weight>, x: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let columns = (self.rank().of * x.width) as f32;
        let square = |r| numbers::sum_by(x.row(r), |v| v * v);
        let mut squares: Vec<f32> = (0..rows).map(square).collect();
        self.group(&norm.weight.name)?.sum(&mut squares)?;

        for (r, sum) in squares.iter().enumerate() {
            let row = x.row_mut(r);
            let own = row.to_vec();
            let weights = norm.weight.vector();
            numbers::rms_norm(norm.kind, norm.eps, weights, sum / columns, &own, row);
        }
        Ok(())
    }

    /// Copies of states that the step's plan asks for, in the order of its changes.
    pub(super) fn copy_states(&mut self) -> Result<()> {
        for copy in &self.slots.batch().state_copies {
            self.states.as_mut().ok_or_else(no_states)?.copy(copy);
        }
        Ok(())
    }
}

/// What gates multiply by, in their place.
pub(super) fn apply_gate(gate: Gate, x: &mut [f32]) {
    match gate {
        Gate::Silu => numbers::activate(Activation::Silu, x),
        Gate::Sigmoid => x.iter_mut().for_each(|v| *v = sigmoid(*v)),
    }
}

fn no_states() -> Error {
    internal!("no states were reserved")
}

/// A layer's states of the sequences that run.
fn of_chunks<'a>(
    states: Option<&'a mut StatePool>,
    layer: usize,
    chunks: &[BatchChunk],
) -> Result<Vec<LayerStates<'a>>> {
    Ok(states.ok_or_else(no_states)?.of_chunks(layer, chunks))
}

/// A sequence's rows through the convolution; tails become those of their rows.
#[inline(always)]
fn convolve(
    spec: &ConvSpec,
    weight: &[f32],
    bias: Option<&[f32]>,
    chunk: &BatchChunk,
    states: LayerStates<'_>,
    x: &Tensor,
    out: &mut Tensor,
) {
    let ConvSpec { taps, width, silu } = *spec;
    let tail = states.own.tail;
    if chunk.position() == 0 {
        tail.fill(0.0);
    }
    // What is in front of the rows, then the rows.
    let mut inputs = tail.to_vec();
    chunk.rows().for_each(|row| inputs.extend_from_slice(&x.row(row)[..width]));

    for (n, row) in chunk.rows().enumerate() {
        let out = &mut out.row_mut(row)[..width];
        match bias {
            Some(bias) => out.copy_from_slice(bias),
            None => out.fill(0.0),
        }
        for tap in 0..taps {
            let input = &inputs[(n + tap) * width..(n + tap + 1) * width];
            for (c, (o, x)) in out.iter_mut().zip(input).enumerate() {
                *o += weight[c * taps + tap] * x;
            }
        }
        if silu {
            numbers::activate(Activation::Silu, out);
        }
    }
    tail.copy_from_slice(&inputs[inputs.len() - tail.len()..]);
    for (n, spare) in states.spares.into_iter().enumerate() {
        let first = (n + 1) * width;
        spare.tail.copy_from_slice(&inputs[first..first + spare.tail.len()]);
    }
}

/// What all heads of a step share.
struct Rule<'a> {
    spec: &'a DeltaSpec,
    log_decay: &'a [f32],
    rate_bias: &'a [f32],
    mixed: &'a Tensor,
    rates: &'a Tensor,
}

impl Rule<'_> {
    #[inline(always)]
    fn run(&self, task: &mut Task) {
        let DeltaSpec { key_heads, value_heads, key_dim, value_dim } = *self.spec;
        let Task { chunk, head, matrix, spares, y } = task;
        let key_head = *head / (value_heads / key_heads);
        let keys = key_heads * key_dim;
        if chunk.position() == 0 {
            matrix.fill(0.0);
        }
        let decay = numbers::exp(self.log_decay[*head]);

        let mut spares = spares.iter_mut();
        for (row, y) in chunk.rows().zip(y.chunks_exact_mut(value_dim)) {
            let mixed = self.mixed.row(row);
            let mut q = mixed[key_head * key_dim..(key_head + 1) * key_dim].to_vec();
            let mut k = mixed[keys + key_head * key_dim..keys + (key_head + 1) * key_dim].to_vec();
            let v = &mixed[2 * keys + *head * value_dim..2 * keys + (*head + 1) * value_dim];
            normalise(&mut q, (key_dim as f32).sqrt().recip());
            normalise(&mut k, 1.0);

            let rates = self.rates.row(row);
            let beta = sigmoid(rates[*head]);
            let rate = numbers::softplus(rates[value_heads + *head] + self.rate_bias[*head]);
            let keep = numbers::exp(-decay * rate);
            step(matrix, keep, beta, [&q, &k, v], y);
            spares.next().into_iter().for_each(|spare| spare.copy_from_slice(matrix));
        }
    }
}

/// One token: S = keep S, S += beta (v - S k) k^T, y = S q, row by row of S.
#[inline(always)]
fn step(matrix: &mut [f32], keep: f32, beta: f32, qkv: [&[f32]; 3], y: &mut [f32]) {
    let [q, k, v] = qkv;
    let rows = matrix.chunks_exact_mut(k.len());
    for ((row, v), y) in rows.zip(v).zip(y) {
        row.iter_mut().for_each(|s| *s *= keep);
        let error = beta * (v - numbers::dot(row, k));
        row.iter_mut().zip(k).for_each(|(s, k)| *s += error * k);
        *y = numbers::dot(row, q);
    }
}

/// x times `scale` over its length.
#[inline(always)]
fn normalise(x: &mut [f32], scale: f32) {
    let length = (numbers::sum_by(x, |v| v * v) + LENGTH_EPS).sqrt();
    x.iter_mut().for_each(|v| *v = *v / length * scale);
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + numbers::exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_and_rates_match_their_formulas() {
        for i in -300..300 {
            let x = i as f32 / 10.0;
            let exact = f64::from(x);
            let error = (f64::from(numbers::softplus(x)) - exact.exp().ln_1p()).abs();
            assert!(error <= 3e-7 * exact.exp().ln_1p(), "softplus({x}): {error:e}");
            let error = (f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs();
            assert!(error < 2e-7, "sigmoid({x}): {error:e}");
        }
    }

    /// After beta = 1 the matrix answers k with v, and forgets by `keep`.
    #[test]
    fn a_matrix_answers_what_it_was_told() {
        let mut matrix = vec![0.0; 2 * 3];
        let (k, other) = ([0.0, 1.0, 0.0], [1.0, 0.0, 0.0]);
        let mut y = [0.0; 2];
        step(&mut matrix, 1.0, 1.0, [&k, &k, &[5.0, -2.0]], &mut y);
        assert_eq!(y, [5.0, -2.0]);
        step(&mut matrix, 0.5, 1.0, [&k, &other, &[1.0, 1.0]], &mut y);
        assert_eq!(y, [2.5, -1.0]);
        step(&mut matrix, 1.0, 1.0, [&k, &k, &[7.0, 7.0]], &mut y);
        assert_eq!(y, [7.0, 7.0], "what was there is replaced");
    }
}
