//! Layers that keep a state, on the GPU and on the CPU: prompts, chunks and single tokens in one
//! step, sequences that begin anew in a slot, copies of states; and the same bits however a
//! sequence is cut.

use triton_vllm::device::{
    Columns, ConvSpec, DeltaSpec, DeltaWeights, Gate, GateOrder, GatedNorm, StateShape,
};
use triton_vllm::ids::{SlotId, SnapshotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, StepPlan};

use super::*;

/// Heads of keys and values and their widths; taps; whether there is a bias and silu.
#[derive(Clone, Copy, Debug)]
struct Shape {
    key_heads: usize,
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
    taps: usize,
    biased: bool,
}

/// One of each width of a lane, and such as no load of 16 bytes fits.
const SHAPES: [Shape; 5] = [
    Shape { key_heads: 2, value_heads: 4, key_dim: 128, value_dim: 128, taps: 4, biased: false },
    Shape { key_heads: 1, value_heads: 3, key_dim: 64, value_dim: 40, taps: 3, biased: true },
    Shape { key_heads: 2, value_heads: 2, key_dim: 12, value_dim: 7, taps: 2, biased: false },
    Shape { key_heads: 1, value_heads: 2, key_dim: 256, value_dim: 64, taps: 4, biased: false },
    Shape { key_heads: 3, value_heads: 3, key_dim: 100, value_dim: 33, taps: 8, biased: true },
];

impl Shape {
    fn delta(&self) -> DeltaSpec {
        let Shape { key_heads, value_heads, key_dim, value_dim, .. } = *self;
        DeltaSpec { key_heads, value_heads, key_dim, value_dim }
    }

    fn setup(&self) -> Setup {
        let state = StateShape {
            layers: 2,
            tail_rows: self.taps - 1,
            tail_width: self.delta().mixed_width(),
            heads: self.value_heads,
            rows: self.value_dim,
            columns: self.key_dim,
        };
        Setup { state, ..Setup::default() }
    }
}

/// What a layer has learned.
struct Layer<W> {
    convolution: W,
    bias: Option<W>,
    log_decay: W,
    rate_bias: W,
    norm: Norm<W>,
}

impl<W> Layer<W> {
    fn new<D: grader::Graded<Weight = W>>(b: &mut Bench<D>, shape: &Shape) -> Layer<W> {
        let width = shape.delta().mixed_width();
        Layer {
            convolution: b.vector(1, width * shape.taps),
            bias: shape.biased.then(|| b.vector(2, width)),
            log_decay: b.vector(3, shape.value_heads),
            rate_bias: b.vector(4, shape.value_heads),
            norm: Norm {
                kind: NormKind::Rms,
                eps: 1e-5,
                weight: b.vector(5, shape.value_dim),
                bias: None,
            },
        }
    }

    /// A step in which sequence n feeds `lengths[n]` tokens, and all ops of layer 1 over it.
    fn step<D: grader::Graded<Weight = W>>(
        &self,
        b: &mut Bench<D>,
        shape: &Shape,
        lengths: &[usize],
        seed: u64,
    ) -> Result<Results> {
        let rows = lengths.iter().sum();
        let inputs = Inputs::new(b, shape, rows, seed);
        b.feed(lengths);
        self.ops(b, shape, rows, &inputs)
    }

    /// All ops of layer 1 over the current batch, whose tokens are rows of the inputs.
    fn ops<D: grader::Graded<Weight = W>>(
        &self,
        b: &mut Bench<D>,
        shape: &Shape,
        rows: usize,
        inputs: &Inputs<W>,
    ) -> Result<Results> {
        let delta = shape.delta();
        let (width, values) = (delta.mixed_width(), delta.value_width());
        let mut x = b.tensor(rows, width + values);
        let mut rates = b.tensor(rows, 2 * delta.value_heads);
        b.dev.embed(&inputs.mixed, 1.0, &mut x)?;
        b.dev.embed(&inputs.rates, 1.0, &mut rates)?;

        let mut convolved = b.tensor(rows, width);
        let conv = ConvSpec { taps: shape.taps, width, silu: !shape.biased };
        let bias = self.bias.as_ref();
        b.dev.short_convolution(1, &conv, &self.convolution, bias, &x, &mut convolved)?;
        let mut y = b.tensor(rows, values);
        let weights = DeltaWeights { log_decay: &self.log_decay, rate_bias: &self.rate_bias };
        b.dev.delta_rule(1, &delta, weights, &convolved, &rates, &mut y)?;

        let plain = b.dev.read(&y, rows)?;
        let gate = if shape.biased { Gate::Sigmoid } else { Gate::Silu };
        let part = delta.value_dim;
        let gated = GatedNorm { gate, first: width, part, order: GateOrder::NormFirst };
        b.dev.norm_gated(&gated, Some(&self.norm), &x, &mut y)?;
        Ok(vec![
            ("short_convolution", b.dev.read(&convolved, rows)?),
            ("delta_rule", plain),
            ("norm_gated", b.dev.read(&y, rows)?),
        ])
    }
}

/// Tables of what tokens bring.
struct Inputs<W> {
    mixed: W,
    rates: W,
}

impl<W> Inputs<W> {
    fn new<D: grader::Graded<Weight = W>>(
        b: &mut Bench<D>,
        shape: &Shape,
        tokens: usize,
        seed: u64,
    ) -> Inputs<W> {
        let delta = shape.delta();
        let width = delta.mixed_width() + delta.value_width();
        let mixed = b.table(seed, tokens, width);
        Inputs { mixed, rates: b.table(seed + 1, tokens, 2 * delta.value_heads) }
    }
}

#[test]
fn states_move_on_with_chunks_and_single_tokens() {
    each_type(|dtype| {
        for shape in SHAPES {
            let case = format!("{shape:?}");
            // What is rounded between ops the later ones read.
            compare!(dtype, &shape.setup(), &case, 4.0, |b| {
                let layer = Layer::new(b, &shape);
                let mut all = Vec::new();
                for (n, lengths) in
                    [[5, 1, 0], [1, 1, 40], [3, 0, 1], [1, 1, 1], [1, 1, 1]].iter().enumerate()
                {
                    all.extend(layer.step(b, &shape, lengths, 10 + 2 * n as u64)?);
                }
                // Another sequence in a slot whose state is full.
                b.open(0, &[TokenId(0)], Default::default());
                all.extend(layer.step(b, &shape, &[2, 1, 7], 30)?);
                Ok(all)
            });
        }
    });
}

/// Long ones go 64 tokens at a time on the GPU, beside short ones that go token by token; states
/// are handed over between the two.
#[test]
fn prompts_go_by_chunks() {
    each_type(|dtype| {
        for shape in SHAPES {
            compare!(dtype, &shape.setup(), &format!("prompts, {shape:?}"), 4.0, |b| {
                let layer = Layer::new(b, &shape);
                let mut all = Vec::new();
                for (n, lengths) in
                    [[90, 3, 64], [1, 70, 1], [65, 64, 0], [1, 1, 1]].iter().enumerate()
                {
                    all.extend(layer.step(b, &shape, lengths, 10 + 2 * n as u64)?);
                }
                Ok(all)
            });
        }
    });
}

/// Behind each row of a chunk of drafts that may be the last to stay, beside sequences that feed
/// one token, two, and a prompt.
#[test]
fn states_go_back_behind_drafts() {
    each_type(|dtype| {
        for shape in SHAPES {
            let case = format!("drafts, {shape:?}");
            compare!(dtype, &shape.setup(), &case, 4.0, |b| {
                let layer = Layer::new(b, &shape);
                let mut all = layer.step(b, &shape, &[9, 1, 2, 5], 10)?;
                let mut length = 9;
                for (n, stay) in [1, 3, 2, 1].into_iter().enumerate() {
                    let seed = 20 + 2 * n as u64;
                    all.extend(layer.step(b, &shape, &[4, 1, 2, 70 * (n % 2)], seed)?);
                    length += stay;
                    b.truncate(0, length);
                }
                all.extend(layer.step(b, &shape, &[1, 2, 1], 40)?);
                all.extend(layer.step(b, &shape, &[2, 0, 4], 42)?);
                Ok(all)
            });
        }
    });
}

#[test]
fn copies_of_states_are_gone_on_from() {
    each_type(|dtype| {
        for shape in &SHAPES[..2] {
            compare!(dtype, &shape.setup(), &format!("copies, {shape:?}"), 4.0, |b| {
                let layer = Layer::new(b, shape);
                layer.step(b, shape, &[9, 4], 10)?;
                let snapshot = SnapshotId(1);
                b.changes.push(SlotChange::SaveState { slot: SlotId(0), snapshot });
                let mut all = layer.step(b, shape, &[3, 2], 12)?;
                b.changes.push(SlotChange::RestoreState { slot: SlotId(1), snapshot });
                all.extend(layer.step(b, shape, &[0, 3], 14)?);
                Ok(all)
            });
        }
    });
}

/// On the GPU alone: all at once, in chunks, token by token, and behind another's rows.
#[test]
fn chunks_and_company_change_no_bit_of_a_state() {
    const TOKENS: usize = 23;
    each_type(|dtype| {
        for shape in SHAPES {
            let run = |chunk: usize, others: usize| -> Vec<Vec<f32>> {
                let mut b = Bench::<Cuda>::new(dtype, &shape.setup());
                let layer = Layer::new(&mut b, &shape);
                let inputs = Inputs::new(&mut b, &shape, TOKENS, 10);
                (0..2).for_each(|slot| b.open(slot, &[TokenId(0)], Default::default()));

                let mut all = vec![Vec::new(); 3];
                for first in (0..TOKENS).step_by(chunk) {
                    let tokens = first..TOKENS.min(first + chunk);
                    let mut plan = StepPlan::default();
                    plan.chunk_tokens.extend((0..others as u32).map(TokenId));
                    if others > 0 {
                        plan.push(SlotId(1), Feed::Known(0..others), true);
                    }
                    plan.chunk_tokens.extend(tokens.clone().map(|token| TokenId(token as u32)));
                    let rows = plan.chunk_tokens.len();
                    plan.push(SlotId(0), Feed::Known(others..rows), true);
                    b.begin(plan);

                    let results = layer.ops(&mut b, &shape, rows, &inputs).unwrap();
                    for (all, (_, result)) in all.iter_mut().zip(results) {
                        let width = result.len() / rows;
                        all.extend_from_slice(&result[others * width..]);
                    }
                }
                all
            };
            let whole = run(TOKENS, 0);
            for (chunk, others) in [(1, 0), (7, 0), (TOKENS, 3), (1, 1), (4, 2)] {
                let same = run(chunk, others) == whole;
                assert!(same, "{dtype:?} {shape:?}: chunks of {chunk} beside {others}");
            }
        }
    });
}

#[test]
fn columns_are_multiplied() {
    each_type(|dtype| {
        for (rows, width) in [(1, 64), (7, 63), (33, 1000)] {
            let case = format!("multiply {rows} x {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let x = b.input(rows, 3 * width, 3);
                let y = b.input(rows, width + 1, 4);
                let mut out = b.tensor(rows, width);
                let columns = Columns { tensor: &x, first: 2 * width };
                b.dev.multiply(columns, Columns { tensor: &y, first: 1 }, &mut out)?;
                Ok(vec![("multiply", b.dev.read(&out, rows)?)])
            });
        }
    });
}

#[test]
fn outputs_of_attention_are_gated() {
    each_type(|dtype| {
        for (rows, width) in [(1, 64), (7, 63), (33, 4096)] {
            let case = format!("gate_output {rows} x {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let gate = b.input(rows, width, 3);
                let mut x = b.input(rows, width, 4);
                b.dev.gate_output(&gate, &mut x)?;
                Ok(vec![("gate_output", b.dev.read(&x, rows)?)])
            });
        }
    });
}
