//! The ops of layers that keep a state: against naive loops in f64 over a whole sequence, however
//! it is cut, in a slot that another had before, and from a copy in another slot; and bit for bit
//! between instruction sets, threads and cuts.

use super::*;
use triton_vllm::device::{
    Columns, ConvSpec, DeltaSpec, DeltaWeights, Gate, GateOrder, GatedNorm, StateShape,
};
use triton_vllm::error::Result;
use triton_vllm::ids::SnapshotId;

const DELTA: DeltaSpec = DeltaSpec { key_heads: 2, value_heads: 4, key_dim: 20, value_dim: 7 };
const TAPS: usize = 4;
const EPS: f32 = 1e-5;

/// A model of one layer and two slots, and a sequence's inputs.
/// States of a slot that it can go back to.
const SPARES: usize = 3;

struct Case {
    delta: DeltaSpec,
    tokens: usize,
    /// `[tokens, mixed + value width]`
    mixed: Vec<f32>,
    /// `[tokens, 2 value heads]`
    rates: Vec<f32>,
    convolution: Vec<f32>,
    bias: Vec<f32>,
    log_decay: Vec<f32>,
    rate_bias: Vec<f32>,
    norm: Vec<f32>,
}

impl Case {
    fn new(delta: DeltaSpec, tokens: usize, seed: u64) -> Case {
        let mut noise = Noise(seed);
        let width = delta.mixed_width();
        let heads = delta.value_heads;
        Case {
            delta,
            tokens,
            mixed: noise.values(tokens * (width + delta.value_width())),
            rates: noise.values(tokens * 2 * heads).iter().map(|x| 3.0 * x).collect(),
            convolution: noise.values(width * TAPS),
            bias: noise.values(width),
            log_decay: noise.values(heads).iter().map(|x| x - 2.0).collect(),
            rate_bias: noise.values(heads),
            norm: noise.values(delta.value_dim),
        }
    }

    fn device(&self, isa: Isa, threads: usize) -> Cpu {
        let mut dev = Cpu::with_isa(threads, isa).unwrap();
        let state = StateShape {
            layers: 2,
            tail_rows: TAPS - 1,
            tail_width: self.delta.mixed_width(),
            heads: self.delta.value_heads,
            rows: self.delta.value_dim,
            columns: self.delta.key_dim,
        };
        dev.reserve(&DeviceLimits {
            step_tokens: self.tokens,
            slots: 2,
            logits_rows: 2,
            pages: 2 * self.tokens.div_ceil(16) + 1,
            page_size: 16,
            max_model_len: self.tokens,
            kv: no_kv(),
            state,
            snapshots: 1,
            spares: SPARES,
        })
        .unwrap();
        dev
    }

    /// Outputs of the tokens `range` in layer 1, which a slot feeds in one step behind `changes`.
    fn feed(
        &self,
        dev: &mut Cpu,
        slot: SlotId,
        changes: Vec<SlotChange>,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<f32>> {
        let rows = range.len();
        let chunk_tokens = (0..rows as u32).map(TokenId).collect();
        let mut plan = StepPlan { step: 1, changes, chunk_tokens, ..StepPlan::default() };
        plan.push(slot, Feed::Known(0..rows), true);
        dev.begin(&plan)?;

        let delta = self.delta;
        let (width, values, heads) = (delta.mixed_width(), delta.value_width(), delta.value_heads);
        let part = |all: &[f32], width: usize| all[range.start * width..range.end * width].to_vec();
        let x = tensor(dev, rows, width + values, &part(&self.mixed, width + values));
        let rates = tensor(dev, rows, 2 * heads, &part(&self.rates, 2 * heads));
        let mut vector = |v: &[f32]| upload(dev, WeightKind::Vector, DType::F32, (v.len(), 1), v);
        let convolution = vector(&self.convolution);
        let bias = vector(&self.bias);
        let (log_decay, rate_bias) = (vector(&self.log_decay), vector(&self.rate_bias));
        let weight = vector(&self.norm);
        let norm = Norm { kind: NormKind::Rms, eps: EPS, weight, bias: None };

        let mut convolved = dev.tensor(rows, width)?;
        let conv = ConvSpec { taps: TAPS, width, silu: true };
        dev.short_convolution(1, &conv, &convolution, Some(&bias), &x, &mut convolved)?;
        let mut y = dev.tensor(rows, values)?;
        let weights = DeltaWeights { log_decay: &log_decay, rate_bias: &rate_bias };
        dev.delta_rule(1, &delta, weights, &convolved, &rates, &mut y)?;
        let gated = GatedNorm {
            gate: Gate::Silu,
            first: width,
            part: delta.value_dim,
            order: GateOrder::NormFirst,
        };
        dev.norm_gated(&gated, Some(&norm), &x, &mut y)?;
        dev.read(&y, rows)
    }

    /// The whole sequence in steps of `chunk` tokens, in a slot that it opens.
    fn run(&self, dev: &mut Cpu, slot: SlotId, chunk: usize) -> Vec<f32> {
        let mut out = Vec::new();
        for first in (0..self.tokens).step_by(chunk) {
            let changes = if first == 0 { self.open(slot, 0) } else { Vec::new() };
            let end = self.tokens.min(first + chunk);
            out.extend(self.feed(dev, slot, changes, first..end).unwrap());
        }
        out
    }

    fn open(&self, slot: SlotId, cached: usize) -> Vec<SlotChange> {
        let open = SlotOpen {
            slot,
            adapter: AdapterId(0),
            tokens: Arc::from([]),
            prompt_tokens: 0,
            cached_tokens: cached as u32,
            sampler: Arc::default(),
        };
        let pages = (1..=self.tokens.div_ceil(16) as u32).map(PageId).collect();
        vec![SlotChange::Open(Box::new(open)), SlotChange::Pages { slot, group: GroupId(0), pages }]
    }

    fn f64(&self) -> Vec<f64> {
        let delta = self.delta;
        let (width, values) = (delta.mixed_width(), delta.value_width());
        let at = |t: usize, c: usize| f64::from(self.mixed[t * (width + values) + c]);
        let convolved = |t: usize, c: usize| {
            let taps = (0..TAPS).filter(|k| t + k + 1 >= TAPS);
            let products =
                taps.map(|k| f64::from(self.convolution[c * TAPS + k]) * at(t + k + 1 - TAPS, c));
            act_f64(Activation::Silu, f64::from(self.bias[c]) + products.sum::<f64>())
        };

        let DeltaSpec { key_heads, value_heads, key_dim, value_dim } = delta;
        let mut out = vec![0.0; self.tokens * values];
        for head in 0..value_heads {
            let key_head = head / (value_heads / key_heads);
            let mut s = vec![vec![0.0; key_dim]; value_dim];
            for t in 0..self.tokens {
                let unit = |first: usize| -> Vec<f64> {
                    let x: Vec<f64> = (0..key_dim).map(|i| convolved(t, first + i)).collect();
                    let length = (x.iter().map(|v| v * v).sum::<f64>() + 1e-6).sqrt();
                    x.iter().map(|v| v / length).collect()
                };
                let q = unit(key_head * key_dim);
                let k = unit((key_heads + key_head) * key_dim);
                let rate = |n: usize| f64::from(self.rates[t * 2 * value_heads + n]);
                let beta = 1.0 / (1.0 + (-rate(head)).exp());
                let x = rate(value_heads + head) + f64::from(self.rate_bias[head]);
                let keep = (-f64::from(self.log_decay[head]).exp() * x.exp().ln_1p()).exp();

                for (i, row) in s.iter_mut().enumerate() {
                    row.iter_mut().for_each(|v| *v *= keep);
                    let told: f64 = row.iter().zip(&k).map(|(s, k)| s * k).sum();
                    let v = convolved(t, 2 * key_heads * key_dim + head * value_dim + i);
                    row.iter_mut().zip(&k).for_each(|(s, k)| *s += beta * (v - told) * k);
                    let y: f64 = row.iter().zip(&q).map(|(s, q)| s * q).sum();
                    out[t * values + head * value_dim + i] = y / (key_dim as f64).sqrt();
                }
            }
        }

        for (n, part) in out.chunks_exact_mut(value_dim).enumerate() {
            let mean = part.iter().map(|v| v * v).sum::<f64>() / value_dim as f64;
            let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
            let (t, head) = (n / value_heads, n % value_heads);
            for (i, v) in part.iter_mut().enumerate() {
                let gate = act_f64(Activation::Silu, at(t, width + head * value_dim + i));
                *v *= scale * f64::from(self.norm[i]) * gate;
            }
        }
        out
    }
}

#[test]
fn states_equal_f64_however_a_sequence_is_cut() {
    let (first, second) = (Case::new(DELTA, 41, 1), Case::new(DELTA, 41, 2));
    let mut dev = first.device(Isa::detect(), 1);
    let slot = SlotId(1);
    for case in [&first, &second] {
        let whole = case.run(&mut dev, slot, 41);
        close("a state", &whole, &case.f64(), 2e-5);
        for chunk in [1, 2, 7] {
            assert!(case.run(&mut dev, slot, chunk) == whole, "chunks of {chunk} change bits");
        }
    }
}

/// Behind each row of the newest chunk that may be the last to stay, and no further.
#[test]
fn a_state_goes_back_behind_drafts() {
    let case = Case::new(DELTA, 20, 3);
    let slot = SlotId(0);
    let back = |length: usize| vec![SlotChange::Truncate { slot, length: length as u32 }];
    let mut dev = case.device(Isa::detect(), 1);
    let whole = case.run(&mut dev, slot, 20);
    let behind = |rows: usize| &whole[rows * DELTA.value_width()..];
    for stay in 1..=SPARES {
        case.feed(&mut dev, slot, case.open(slot, 0), 0..9).unwrap();
        case.feed(&mut dev, slot, Vec::new(), 9..10 + SPARES).unwrap();
        // Twice: what stays of a chunk has its states still.
        case.feed(&mut dev, slot, back(9 + stay), 9 + stay..11 + stay).unwrap();
        let got = case.feed(&mut dev, slot, back(10 + stay), 10 + stay..20).unwrap();
        assert!(got == behind(10 + stay), "{stay} rows stay");
    }

    for (fed, length) in [(9..10 + SPARES, 9), (9..11 + SPARES, 10)] {
        let mut dev = case.device(Isa::detect(), 1);
        case.feed(&mut dev, slot, case.open(slot, 0), 0..9).unwrap();
        case.feed(&mut dev, slot, Vec::new(), fed).unwrap();
        let error = case.feed(&mut dev, slot, back(length), length..20).unwrap_err();
        assert!(error.to_string().contains("cannot go back from"), "{error}");
    }
}

#[test]
fn a_copy_goes_on_in_another_slot() {
    let case = Case::new(DELTA, 20, 3);
    let mut dev = case.device(Isa::detect(), 1);
    let whole = case.run(&mut dev, SlotId(0), 20);
    let snapshot = SnapshotId(0);
    case.feed(&mut dev, SlotId(0), case.open(SlotId(0), 0), 0..16).unwrap();
    let mut changes = vec![SlotChange::SaveState { slot: SlotId(0), snapshot }];
    changes.extend(case.open(SlotId(1), 16));
    let error = case.feed(&mut dev, SlotId(1), case.open(SlotId(1), 16), 16..20).unwrap_err();
    assert!(error.to_string().contains("without a state"), "{error}");

    changes.push(SlotChange::RestoreState { slot: SlotId(1), snapshot });
    let behind = case.feed(&mut dev, SlotId(1), changes, 16..20).unwrap();
    let values = DELTA.value_width();
    assert!(behind == whole[16 * values..]);
    // Who was copied goes on as well.
    let own = case.feed(&mut dev, SlotId(0), Vec::new(), 16..20).unwrap();
    assert!(own == behind);
}

#[test]
fn gates_multiply_columns() {
    let (rows, width) = (3, 5);
    let mut noise = Noise(6);
    let (x, y) = (noise.values(rows * 3 * width), noise.values(rows * (width + 1)));
    let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());
    let a = tensor(&mut dev, rows, 3 * width, &x);
    let b = tensor(&mut dev, rows, width + 1, &y);
    let mut out = tensor(&mut dev, rows, width, &[0.0; 15]);
    let columns = Columns { tensor: &a, first: 2 * width };
    dev.multiply(columns, Columns { tensor: &b, first: 1 }, &mut out).unwrap();
    let at = |r: usize, c: usize| x[(r * 3 + 2) * width + c] * y[r * (width + 1) + 1 + c];
    let want: Vec<f32> = (0..rows * width).map(|i| at(i / width, i % width)).collect();
    assert_eq!(dev.read(&out, rows).unwrap(), want);

    // The gate of attention's output.
    let gate = noise.values(rows * width);
    let z = tensor(&mut dev, rows, width, &gate);
    dev.gate_output(&z, &mut out).unwrap();
    let sigmoid = |z: f32| 1.0 / (1.0 + (-f64::from(z)).exp());
    let want: Vec<f64> = want.iter().zip(&gate).map(|(x, &z)| f64::from(*x) * sigmoid(z)).collect();
    close("gate_output", &dev.read(&out, rows).unwrap(), &want, 1e-6);
}

/// Enough of it that threads share the work.
#[test]
fn states_are_the_same_on_every_instruction_set() {
    let delta = DeltaSpec { key_heads: 2, value_heads: 4, key_dim: 72, value_dim: 50 };
    let case = Case::new(delta, 130, 4);
    let run = |isa, threads, chunk| case.run(&mut case.device(isa, threads), SlotId(0), chunk);
    let want = run(Isa::all()[0], 1, 130);
    for isa in Isa::all() {
        assert!(run(isa, 1, 17) == want, "{} in chunks", isa.name());
        assert!(run(isa, 2, 130) == want, "{} by two threads", isa.name());
    }
}
