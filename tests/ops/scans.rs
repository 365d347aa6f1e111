//! The ops of Mamba 2: against naive loops in f64 over a whole sequence, however it is cut, in a
//! slot that another had before, and from a copy in another slot; and bit for bit between
//! instruction sets, threads and cuts.

use super::*;
use triton_vllm::device::{
    Columns, ConvSpec, Gate, GateOrder, GatedNorm, ScanSpec, ScanWeights, StateShape,
};
use triton_vllm::error::Result;
use triton_vllm::ids::SnapshotId;

const SCAN: ScanSpec = ScanSpec { heads: 6, head_dim: 5, groups: 2, state: 20 };
const TAPS: usize = 4;
const EPS: f32 = 1e-5;

/// A model of two layers and two slots, and a sequence's inputs.
/// States of a slot that it can go back to.
const SPARES: usize = 3;

struct Case {
    scan: ScanSpec,
    tokens: usize,
    normed: bool,
    /// `[tokens, x|B|C|gate|rates]`
    mixed: Vec<f32>,
    convolution: Vec<f32>,
    bias: Vec<f32>,
    log_decay: Vec<f32>,
    rate_bias: Vec<f32>,
    skip: Vec<f32>,
    norm: Vec<f32>,
}

impl Case {
    fn new(scan: ScanSpec, tokens: usize, seed: u64, normed: bool) -> Case {
        let mut noise = Noise(seed);
        let width = scan.mixed_width();
        Case {
            scan,
            tokens,
            normed,
            mixed: noise.values(tokens * (width + scan.inner_width() + scan.heads)),
            convolution: noise.values(width * TAPS),
            bias: noise.values(width),
            log_decay: noise.values(scan.heads).iter().map(|x| x - 1.0).collect(),
            rate_bias: noise.values(scan.heads).iter().map(|x| 3.0 * x - 1.0).collect(),
            skip: noise.values(scan.heads),
            norm: noise.values(scan.inner_width()),
        }
    }

    /// Columns of what a token brings.
    fn width(&self) -> usize {
        self.scan.mixed_width() + self.scan.inner_width() + self.scan.heads
    }

    fn device(&self, isa: Isa, threads: usize) -> Cpu {
        let mut dev = Cpu::with_isa(threads, isa).unwrap();
        let state = StateShape {
            layers: 2,
            tail_rows: TAPS - 1,
            tail_width: self.scan.mixed_width(),
            heads: self.scan.heads,
            rows: self.scan.head_dim,
            columns: self.scan.state,
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

        let (scan, all) = (self.scan, self.width());
        let (width, inner) = (scan.mixed_width(), scan.inner_width());
        let x = tensor(dev, rows, all, &self.mixed[range.start * all..range.end * all]);
        let mut vector = |v: &[f32]| upload(dev, WeightKind::Vector, DType::F32, (v.len(), 1), v);
        let convolution = vector(&self.convolution);
        let bias = vector(&self.bias);
        let [log_decay, rate_bias, skip] =
            [&self.log_decay, &self.rate_bias, &self.skip].map(|v| vector(v));
        let weight = vector(&self.norm);
        let norm = Norm { kind: NormKind::Rms, eps: EPS, weight, bias: None };

        let mut convolved = dev.tensor(rows, width)?;
        let conv = ConvSpec { taps: TAPS, width, silu: true };
        dev.short_convolution(1, &conv, &convolution, Some(&bias), &x, &mut convolved)?;
        let mut y = dev.tensor(rows, inner)?;
        let weights = ScanWeights { log_decay: &log_decay, rate_bias: &rate_bias, skip: &skip };
        let rates = Columns { tensor: &x, first: width + inner };
        dev.selective_scan(1, &scan, weights, &convolved, rates, &mut y)?;
        let gated = GatedNorm {
            gate: Gate::Silu,
            first: width,
            part: inner / scan.groups,
            order: GateOrder::GateFirst,
        };
        dev.norm_gated(&gated, self.normed.then_some(&norm), &x, &mut y)?;
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
        let (scan, all) = (self.scan, self.width());
        let (width, inner) = (scan.mixed_width(), scan.inner_width());
        let at = |t: usize, c: usize| f64::from(self.mixed[t * all + c]);
        let convolved = |t: usize, c: usize| {
            let taps = (0..TAPS).filter(|k| t + k + 1 >= TAPS);
            let products =
                taps.map(|k| f64::from(self.convolution[c * TAPS + k]) * at(t + k + 1 - TAPS, c));
            act_f64(Activation::Silu, f64::from(self.bias[c]) + products.sum::<f64>())
        };

        let ScanSpec { heads, head_dim, groups, state } = scan;
        let mut out = vec![0.0; self.tokens * inner];
        for head in 0..heads {
            let group = head * groups / heads;
            let mut s = vec![vec![0.0; state]; head_dim];
            for t in 0..self.tokens {
                let rate = at(t, width + inner + head) + f64::from(self.rate_bias[head]);
                let step = rate.exp().ln_1p();
                let keep = (-f64::from(self.log_decay[head]).exp() * step).exp();
                for (i, row) in s.iter_mut().enumerate() {
                    let x = convolved(t, head * head_dim + i);
                    let mut y = f64::from(self.skip[head]) * x;
                    for (n, s) in row.iter_mut().enumerate() {
                        let b = convolved(t, inner + group * state + n);
                        let c = convolved(t, inner + (groups + group) * state + n);
                        *s = keep * *s + step * x * b;
                        y += *s * c;
                    }
                    let gate = act_f64(Activation::Silu, at(t, width + head * head_dim + i));
                    out[t * inner + head * head_dim + i] = y * gate;
                }
            }
        }

        if self.normed {
            for (n, part) in out.chunks_exact_mut(inner / groups).enumerate() {
                let mean = part.iter().map(|v| v * v).sum::<f64>() / part.len() as f64;
                let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
                let first = n % groups * part.len();
                let weights = &self.norm[first..first + part.len()];
                part.iter_mut().zip(weights).for_each(|(v, &w)| *v *= scale * f64::from(w));
            }
        }
        out
    }
}

#[test]
fn scans_equal_f64_however_a_sequence_is_cut() {
    let (first, second) = (Case::new(SCAN, 41, 1, true), Case::new(SCAN, 41, 2, false));
    let mut dev = first.device(Isa::detect(), 1);
    let slot = SlotId(1);
    for case in [&first, &second] {
        let whole = case.run(&mut dev, slot, 41);
        close("a scan", &whole, &case.f64(), 2e-5);
        for chunk in [1, 2, 7] {
            assert!(case.run(&mut dev, slot, chunk) == whole, "chunks of {chunk} change bits");
        }
    }
}

/// Behind each row of the newest chunk that may be the last to stay, and no further.
#[test]
fn a_scan_goes_back_behind_drafts() {
    let case = Case::new(SCAN, 20, 3, true);
    let slot = SlotId(0);
    let back = |length: usize| vec![SlotChange::Truncate { slot, length: length as u32 }];
    let mut dev = case.device(Isa::detect(), 1);
    let whole = case.run(&mut dev, slot, 20);
    let behind = |rows: usize| &whole[rows * SCAN.inner_width()..];
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
fn a_copy_of_a_scan_goes_on_in_another_slot() {
    let case = Case::new(SCAN, 20, 3, true);
    let mut dev = case.device(Isa::detect(), 1);
    let whole = case.run(&mut dev, SlotId(0), 20);
    let snapshot = SnapshotId(0);
    case.feed(&mut dev, SlotId(0), case.open(SlotId(0), 0), 0..16).unwrap();
    let mut changes = vec![SlotChange::SaveState { slot: SlotId(0), snapshot }];
    changes.extend(case.open(SlotId(1), 16));
    changes.push(SlotChange::RestoreState { slot: SlotId(1), snapshot });
    let behind = case.feed(&mut dev, SlotId(1), changes, 16..20).unwrap();
    assert!(behind == whole[16 * SCAN.inner_width()..]);
    // Who was copied goes on as well.
    let own = case.feed(&mut dev, SlotId(0), Vec::new(), 16..20).unwrap();
    assert!(own == behind);
}

/// Enough of it that threads share the work.
#[test]
fn scans_are_the_same_on_every_instruction_set() {
    let scan = ScanSpec { heads: 4, head_dim: 50, groups: 1, state: 72 };
    let case = Case::new(scan, 130, 4, true);
    let run = |isa, threads, chunk| case.run(&mut case.device(isa, threads), SlotId(0), chunk);
    let want = run(Isa::all()[0], 1, 130);
    for isa in Isa::all() {
        assert!(run(isa, 1, 17) == want, "{} in chunks", isa.name());
        assert!(run(isa, 2, 130) == want, "{} by two threads", isa.name());
    }
}
