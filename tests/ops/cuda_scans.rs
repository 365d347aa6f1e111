//! The ops of Mamba 2 and experts without a gate, on the GPU and on the CPU: prompts, chunks and
//! single tokens in one step, sequences that begin anew in a slot, copies of states; and the same
//! bits however a sequence is cut.

use triton_vllm::device::{
    Activation, Columns, ConvSpec, Gate, GateOrder, GatedNorm, Routing, ScanSpec, ScanWeights,
    StateShape,
};
use triton_vllm::ids::{SlotId, SnapshotId, TokenId};
use triton_vllm::plan::{Feed, SlotChange, StepPlan};

use super::*;

/// A scan, its convolution's taps, and whether there is a norm.
#[derive(Clone, Copy, Debug)]
struct Shape {
    scan: ScanSpec,
    taps: usize,
    normed: bool,
}

const fn shape(heads: usize, head_dim: usize, groups: usize, state: usize, normed: bool) -> Shape {
    Shape { scan: ScanSpec { heads, head_dim, groups, state }, taps: 4, normed }
}

/// One of each width of a lane, and such as no load of 16 bytes fits.
const SHAPES: [Shape; 6] = [
    shape(8, 64, 1, 128, true),
    shape(4, 64, 2, 64, true),
    shape(6, 5, 2, 20, true),
    shape(2, 48, 1, 256, false),
    shape(3, 33, 3, 100, true),
    shape(4, 32, 4, 32, false),
];

impl Shape {
    fn setup(&self) -> Setup {
        let state = StateShape {
            layers: 2,
            tail_rows: self.taps - 1,
            tail_width: self.scan.mixed_width(),
            heads: self.scan.heads,
            rows: self.scan.head_dim,
            columns: self.scan.state,
        };
        Setup { state, ..Setup::default() }
    }

    /// Columns of what a token brings: x, B, C, gate and rates.
    fn width(&self) -> usize {
        self.scan.mixed_width() + self.scan.inner_width() + self.scan.heads
    }
}

/// What a layer has learned.
struct Layer<W> {
    convolution: W,
    bias: W,
    log_decay: W,
    rate_bias: W,
    skip: W,
    norm: Norm<W>,
}

impl<W> Layer<W> {
    fn new<D: grader::Graded<Weight = W>>(b: &mut Bench<D>, shape: &Shape) -> Layer<W> {
        let width = shape.scan.mixed_width();
        let heads = shape.scan.heads;
        Layer {
            convolution: b.vector(1, width * shape.taps),
            bias: b.vector(2, width),
            log_decay: b.vector(3, heads),
            rate_bias: b.vector(4, heads),
            skip: b.vector(5, heads),
            norm: Norm {
                kind: NormKind::Rms,
                eps: 1e-5,
                weight: b.vector(6, shape.scan.inner_width()),
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
        let inputs = b.table(seed, rows, shape.width());
        b.feed(lengths);
        self.ops(b, shape, rows, &inputs)
    }

    /// All ops of layer 1 over the current batch, whose tokens are rows of the inputs.
    fn ops<D: grader::Graded<Weight = W>>(
        &self,
        b: &mut Bench<D>,
        shape: &Shape,
        rows: usize,
        inputs: &W,
    ) -> Result<Results> {
        let scan = shape.scan;
        let (width, inner) = (scan.mixed_width(), scan.inner_width());
        let mut x = b.tensor(rows, shape.width());
        b.dev.embed(inputs, 1.0, &mut x)?;

        let mut convolved = b.tensor(rows, width);
        let conv = ConvSpec { taps: shape.taps, width, silu: true };
        let bias = Some(&self.bias);
        b.dev.short_convolution(1, &conv, &self.convolution, bias, &x, &mut convolved)?;
        let mut y = b.tensor(rows, inner);
        let Layer { log_decay, rate_bias, skip, .. } = self;
        let weights = ScanWeights { log_decay, rate_bias, skip };
        let rates = Columns { tensor: &x, first: width + inner };
        b.dev.selective_scan(1, &scan, weights, &convolved, rates, &mut y)?;

        let plain = b.dev.read(&y, rows)?;
        let part = inner / scan.groups;
        let gated = GatedNorm { gate: Gate::Silu, first: width, part, order: GateOrder::GateFirst };
        b.dev.norm_gated(&gated, shape.normed.then_some(&self.norm), &x, &mut y)?;
        Ok(vec![
            ("short_convolution", b.dev.read(&convolved, rows)?),
            ("selective_scan", plain),
            ("norm_gated", b.dev.read(&y, rows)?),
        ])
    }
}

#[test]
fn scans_move_on_with_chunks_and_single_tokens() {
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
                    all.extend(layer.step(b, &shape, lengths, 10 + n as u64)?);
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
                    all.extend(layer.step(b, &shape, lengths, 10 + n as u64)?);
                }
                Ok(all)
            });
        }
    });
}

/// Behind each row of a chunk of drafts that may be the last to stay, beside sequences that feed
/// one token, two, and a prompt.
#[test]
fn scans_go_back_behind_drafts() {
    each_type(|dtype| {
        for shape in SHAPES {
            let case = format!("drafts, {shape:?}");
            // Norms of 33 columns magnify what bfloat16 rounds in front of them.
            compare!(dtype, &shape.setup(), &case, 8.0, |b| {
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
fn copies_of_scans_are_gone_on_from() {
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
fn chunks_and_company_change_no_bit_of_a_scan() {
    const TOKENS: usize = 23;
    each_type(|dtype| {
        for shape in SHAPES {
            let run = |chunk: usize, others: usize| -> Vec<Vec<f32>> {
                let mut b = Bench::<Cuda>::new(dtype, &shape.setup());
                let layer = Layer::new(&mut b, &shape);
                let inputs = b.table(10, TOKENS, shape.width());
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

/// From rows to choices by relu squared, and back; plain kernels, tiles, and both widths of these.
#[test]
fn experts_without_a_gate() {
    each_type(|dtype| {
        for (rows, hidden, ffn, experts, top_k) in
            [(1, 64, 48, 4, 2), (7, 63, 33, 5, 3), (40, 256, 136, 8, 6), (150, 128, 192, 4, 2)]
        {
            let case = format!("{rows} rows, {hidden} x {ffn}, {top_k} of {experts}");
            compare!(dtype, &Setup::default(), &case, 2.0, |b| {
                let routing = Routing::softmax(experts, top_k, true);
                let x = b.input(rows, hidden, 31);
                let router = b.router(32, experts, hidden);
                let up = b.experts(33, experts, ffn, hidden, false);
                let down = b.experts(34, experts, hidden, ffn, false);

                let mut routes = b.dev.routes_tensor(rows, &routing)?;
                let mut middle = b.tensor(rows * top_k, ffn);
                let mut parts = b.tensor(rows * top_k, hidden);
                let mut out = b.tensor(rows, hidden);
                b.dev.route(&router, None, None, &routing, &x, &mut routes)?;
                let act = Activation::ReluSquared;
                b.dev.experts_act(&up, None, act, &routes, &x, &mut middle)?;
                b.dev.experts(&down, None, &routes, &middle, &mut parts)?;
                b.dev.combine(&down, &routes, &parts, &mut out)?;
                Ok(vec![("experts", b.dev.read(&out, rows)?)])
            });
        }
    });
}
