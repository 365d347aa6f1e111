//! The sum over ranks, the residual and its norm in one launch, of all rows or of a rank's share of
//! them, against the same ops one by one: the same bits, on all ranks. Part of `cuda_ranks`.

use std::thread;

use triton_vllm::device::cuda::weights::Weight;
use triton_vllm::device::cuda::{Cuda, Tensor};
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    CodeType, DType, InputQuant, Join, Norm, NormKind, QuantForm, RankGroup, Routing, ScaleOver,
    Seam, Sublayer, WeightKind,
};
use triton_vllm::error::Result;
use triton_vllm::internal;

use crate::grader::{gpu, Bench, Setup};

/// Rows of each step: one, a few, those that blocks have several of, more than one launch takes
/// where ranks share a GPU.
const ROWS: [usize; 8] = [1, 2, 3, 5, 16, 17, 33, 64];
/// Columns: less than a warp's, of no whole number of eights (never one launch), as wide as a block
/// and wider, as wide as it gets, and wider than that.
const WIDTHS: [usize; 10] = [8, 40, 63, 264, 2880, 4096, 4104, 5120, 8192, 8200];
const INPUTS: usize = 64;
const OUTPUTS: usize = 24;

/// What an op left, by name.
type Outcome = Vec<(&'static str, Vec<f32>)>;

fn setup() -> Setup {
    Setup { step_tokens: 520, max_model_len: 520, ..Setup::default() }
}

/// Nobody waits for a rank whose thread panics.
struct LostByPanic<'a>(&'a dyn RankGroup);

impl Drop for LostByPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(internal!("another rank's test failed"));
        }
    }
}

/// The outcomes of `run` on so many ranks, which must be the same bits on all.
fn by_ranks(
    ranks: usize,
    dtype: DType,
    run: impl Fn(&mut Bench<Cuda>, usize) -> Result<Outcome> + Sync,
) -> Outcome {
    let apart = Cuda::count().unwrap() >= ranks;
    let ordinals: Vec<usize> = (0..ranks).map(|rank| if apart { rank } else { 0 }).collect();
    let (devices, group) = Cuda::open_ranks(&ordinals, dtype, "test").unwrap();

    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let (run, group) = (&run, &group);
        let start = |(rank, device): (usize, Cuda)| {
            scope.spawn(move || {
                let mut bench = Bench::on(device, dtype, &setup());
                // Ends the others' waiting before its memory goes, which may wait for them.
                let _lost = LostByPanic(&**group);
                let outcome = run(&mut bench, rank);
                if let Err(error) = &outcome {
                    group.fail(error.clone());
                }
                outcome
            })
        };
        let running: Vec<_> = devices.into_iter().enumerate().map(start).collect();
        running.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    for (rank, outcome) in outcomes.iter().enumerate() {
        let what = format!("{dtype:?}, rank {rank} of {ranks}");
        same(&what, outcome, &outcomes[0]);
    }
    outcomes.into_iter().next().expect("a rank")
}

fn same(what: &str, got: &Outcome, want: &Outcome) {
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{what}, {name}");
        let bits = |x: &f32| x.to_bits();
        let apart = got.iter().zip(want).position(|(got, want)| bits(got) != bits(want));
        if let Some(at) = apart {
            panic!("{what}, {name}: element {at} is {}, not {}", got[at], want[at]);
        }
    }
}

/// What the norm follows, what it is, and what reads it.
struct Weights {
    linear: Weight,
    norm: Norm<Weight>,
    /// Its products round their inputs, which the op that writes them does beside.
    next: Option<Weight>,
}

/// Of so many columns.
fn weights(b: &mut Bench<Cuda>, rank: usize, kind: NormKind, width: usize) -> Weights {
    let linear = b.shared(seed_of(rank), WeightKind::Linear, &[width], INPUTS);
    let norm = Norm { kind, eps: 1e-5, weight: b.vector(5, width), bias: None };
    let inputs = Some(InputQuant::E4m3Row);
    let quant = QuantForm { codes: CodeType::E4m3, group: width, offsets: false, inputs };
    let next = (width >= 264)
        .then(|| b.quantised(6, WeightKind::Linear, &[OUTPUTS], width, quant, ScaleOver::Row));
    Weights { linear, norm, next }
}

fn seed_of(rank: usize) -> u64 {
    10 + rank as u64
}

/// What so many rows leave, by one launch or by several.
fn run(
    b: &mut Bench<Cuda>,
    weights: &Weights,
    x: &Tensor,
    rows: usize,
    joined: bool,
) -> Result<Outcome> {
    let Weights { linear, norm, next } = weights;
    let width = norm.weight.outputs;
    let (mut residual, mut delta) = (b.input(rows, width, 3), b.tensor(rows, width));
    let mut normed = b.tensor(rows, width);
    if let Some(next) = next {
        b.dev.feeds(&mut normed, next)?;
    }

    // Twice, so that slots of mailboxes are used again.
    for _ in 0..2 {
        if joined {
            let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
            b.dev.linear_add_norm(
                linear,
                None,
                x,
                Seam { norm, delta, residual, normed, next: None },
            )?;
        } else {
            b.dev.linear(linear, None, x, &mut delta)?;
            b.dev.add_norm(norm, &delta, &mut residual, &mut normed)?;
        }
    }

    let mut outcome =
        vec![("residual", b.dev.read(&residual, rows)?), ("norm", b.dev.read(&normed, rows)?)];
    if let Some(next) = next {
        let mut product = b.tensor(rows, OUTPUTS);
        b.dev.linear(next, None, &normed, &mut product)?;
        outcome.push(("product", b.dev.read(&product, rows)?));
    }
    Ok(outcome)
}

/// One launch and several must leave the same; returns what they leave.
fn joined_and_apart(b: &mut Bench<Cuda>, rank: usize, kind: NormKind) -> Result<Outcome> {
    let mut all = Vec::new();
    for width in WIDTHS {
        let weights = weights(b, rank, kind, width);
        for rows in ROWS {
            let x = b.input(rows, INPUTS, seed_of(rank));
            // The first chooses ways to multiply.
            run(b, &weights, &x, rows, false)?;
            let apart = run(b, &weights, &x, rows, false)?;
            let joined = run(b, &weights, &x, rows, true)?;
            let what = format!("{:?} {kind:?}, rank {rank}, {rows} x {width}", b.dtype);
            same(&what, &joined, &apart);
            // Ranks may have chosen other ways to multiply.
            all.extend(joined.into_iter().filter(|(name, _)| *name != "product"));
        }
    }
    Ok(all)
}

#[test]
fn one_launch_leaves_the_bits_of_several() {
    if !gpu() {
        return;
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for ranks in [2, 4] {
            for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
                let outcome = by_ranks(ranks, dtype, |b, rank| joined_and_apart(b, rank, kind));
                let finite = |x: &[f32]| x.iter().all(|x| x.is_finite());
                assert!(outcome.iter().all(|(_, x)| finite(x)), "{dtype:?} {kind:?} by {ranks}");
            }
        }
    }
}

/// A product's weight with inputs of its own on each rank: plain, or of codes by codes.
fn pushed_weights(
    b: &mut Bench<Cuda>,
    rank: usize,
    kind: NormKind,
    [width, inputs]: [usize; 2],
    codes: bool,
) -> Weights {
    let plain = weights(b, rank, kind, width);
    if !codes {
        let linear = b.shared(seed_of(rank), WeightKind::Linear, &[width], inputs);
        return Weights { linear, ..plain };
    }
    let rounded = Some(InputQuant::E4m3Row);
    let quant = QuantForm { codes: CodeType::E4m3, group: inputs, offsets: false, inputs: rounded };
    let (kind, form) = (WeightKind::Linear, (quant, ScaleOver::Row));
    let linear = b.quantised_joined(seed_of(rank), kind, &[width], inputs, form, Join::Sum);
    Weights { linear, ..plain }
}

/// Rows of one width, which products push as they make them, against the same op by op: single ones
/// one behind the other, and others between them.
#[test]
fn a_pushed_row_leaves_the_bits_of_several_launches() {
    if !gpu() {
        return;
    }
    let rms = [NormKind::Rms, NormKind::RmsPlusOne];
    for (n, width) in WIDTHS.into_iter().enumerate() {
        for (ranks, dtype, codes) in [
            (2, DType::BF16, false),
            (2, DType::F16, true),
            (3, DType::F16, false),
            (4, DType::BF16, true),
            (2, DType::F32, false),
        ] {
            let sizes = [width, if n % 2 == 0 { INPUTS } else { 1032 }];
            let run_all = |b: &mut Bench<Cuda>, rank: usize| {
                let mut all = Vec::new();
                let weights = pushed_weights(b, rank, rms[n % 2], sizes, codes);
                for rows in [1, 1, 2, 1, 1, 1] {
                    let x = b.input(rows, sizes[1], seed_of(rank));
                    // The first chooses ways to multiply.
                    run(b, &weights, &x, rows, false)?;
                    let apart = run(b, &weights, &x, rows, false)?;
                    let joined = run(b, &weights, &x, rows, true)?;
                    let what = format!("{dtype:?}, codes {codes}, rank {rank}, {rows} x {width}");
                    same(&what, &joined, &apart);
                    all.extend(joined.into_iter().filter(|(name, _)| *name != "product"));
                }
                Ok(all)
            };
            let outcome = by_ranks(ranks, dtype, run_all);
            assert!(outcome.iter().any(|(_, x)| x.iter().any(|x| *x != 0.0)), "{width}");
        }
    }
}

/// A row whose product is late on one rank, behind some milliseconds of other products, and on the
/// other one next time: each waits for what the other pushes, and takes no row for another.
#[test]
fn a_late_rank_is_waited_for() {
    const WIDTH: usize = 4096;
    const TURNS: usize = 6;
    /// Products of 268 MB each.
    const BEFORE: usize = 30;
    if !gpu() {
        return;
    }
    let turns = |b: &mut Bench<Cuda>, rank: usize, joined: bool| -> Result<Outcome> {
        let Weights { linear, norm, .. } = &weights(b, rank, NormKind::Rms, WIDTH);
        let long = b.dummy(4 * WIDTH, 2 * WIDTH);
        let (wide, mut longer) = (b.input(1, 2 * WIDTH, 1), b.tensor(1, 4 * WIDTH));
        let x = b.input(1, INPUTS, seed_of(rank));
        let (mut residual, mut delta) = (b.input(1, WIDTH, 3), b.tensor(1, WIDTH));
        let mut normed = b.tensor(1, WIDTH);

        for turn in 0..TURNS {
            for _ in 0..if turn % 2 == rank { BEFORE } else { 0 } {
                b.dev.linear(&long, None, &wide, &mut longer)?;
            }
            let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
            if joined {
                let seam = Seam { norm, delta, residual, normed, next: None };
                b.dev.linear_add_norm(linear, None, &x, seam)?;
            } else {
                b.dev.linear(linear, None, &x, delta)?;
                b.dev.add_norm(norm, delta, residual, normed)?;
            }
        }
        Ok(vec![("residual", b.dev.read(&residual, 1)?), ("norm", b.dev.read(&normed, 1)?)])
    };
    by_ranks(2, DType::BF16, |b, rank| {
        let apart = turns(b, rank, false)?;
        let joined = turns(b, rank, true)?;
        same(&format!("rank {rank}"), &joined, &apart);
        Ok(joined)
    });
}

/// What seams one behind the other leave, of which each rank makes a share of the rows, or all by
/// several launches: what a linear made of the norm in between, and what the last one leaves.
fn seams(
    b: &mut Bench<Cuda>,
    [outer, inner]: [&Weight; 2],
    (norm, first): (&Norm<Weight>, &Weight),
    x: &Tensor,
    rows: usize,
    shared: bool,
) -> Result<Outcome> {
    let width = norm.weight.outputs;
    let (mut residual, mut delta) = (b.input(rows, width, 3), b.tensor(rows, width));
    let (mut normed, mut product) = (b.tensor(rows, width), b.tensor(rows, first.outputs));
    b.dev.feeds(&mut normed, first)?;

    let mut outcome = Outcome::new();
    for (n, linear) in [outer, inner, outer].into_iter().enumerate() {
        let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
        let last = [Some(inner), Some(outer), None][n];
        if shared {
            let next = last.map(|last| Sublayer { first, last });
            b.dev.linear_add_norm(linear, None, x, Seam { norm, delta, residual, normed, next })?;
        } else {
            b.dev.linear(linear, None, x, delta)?;
            b.dev.add_norm(norm, delta, residual, normed)?;
        }
        b.dev.linear(first, None, normed, &mut product)?;
        outcome.push(("product", b.dev.read(&product, rows)?));
    }
    outcome.push(("residual", b.dev.read(&residual, rows)?));
    outcome.push(("norm", b.dev.read(&normed, rows)?));
    Ok(outcome)
}

/// Rows that ranks share evenly, and others; columns as wide as a block and wider, and others. All
/// are more than one launch pushes.
#[test]
fn shares_of_rows_leave_the_bits_of_several_launches() {
    const SHAPES: [[usize; 2]; 4] = [[401, 2880], [514, 4096], [259, 8192], [301, 4104]];
    if !gpu() {
        return;
    }
    let of = |b: &mut Bench<Cuda>, rank: usize, kind: NormKind| {
        let mut all = Vec::new();
        for [rows, width] in SHAPES {
            let outer = b.shared(seed_of(rank), WeightKind::Linear, &[width], INPUTS);
            let inner = b.shared(30 + rank as u64, WeightKind::Linear, &[width], INPUTS);
            let norm = Norm { kind, eps: 1e-5, weight: b.vector(5, width), bias: None };
            let inputs = Some(InputQuant::E4m3Row);
            let quant = QuantForm { codes: CodeType::E4m3, group: width, offsets: false, inputs };
            // Outputs of whole sixteens are multiplied by codes, others not.
            for outputs in [32, OUTPUTS] {
                let kind = WeightKind::Linear;
                let first = b.quantised(6, kind, &[outputs], width, quant, ScaleOver::Row);
                let x = b.input(rows, INPUTS, seed_of(rank));
                let (linears, between) = ([&outer, &inner], (&norm, &first));
                // The first chooses ways to multiply.
                seams(b, linears, between, &x, rows, false)?;
                let apart = seams(b, linears, between, &x, rows, false)?;
                let shared = seams(b, linears, between, &x, rows, true)?;
                let what = format!("{:?} {:?}, rank {rank}, {rows} x {width}", b.dtype, norm.kind);
                same(&what, &shared, &apart);
                all.extend(shared.into_iter().filter(|(name, _)| *name != "product"));
            }
        }
        Ok(all)
    };
    for (dtype, ranks, kind) in [
        (DType::F32, 2, NormKind::Rms),
        (DType::F16, 3, NormKind::RmsPlusOne),
        (DType::BF16, 2, NormKind::Rms),
        (DType::BF16, 4, NormKind::RmsPlusOne),
        // Whose seams are several launches.
        (DType::BF16, 2, NormKind::Layer),
    ] {
        let outcome = by_ranks(ranks, dtype, |b, rank| of(b, rank, kind));
        let finite = |x: &[f32]| x.iter().all(|x| x.is_finite());
        assert!(outcome.iter().all(|(_, x)| finite(x)), "{dtype:?} {kind:?} by {ranks}");
    }
}

/// Behind experts: their outputs are combined, then summed over ranks.
#[test]
fn experts_end_with_one_launch_too() {
    const EXPERTS: usize = 4;
    const FFN: usize = 32;
    if !gpu() {
        return;
    }
    let run = |b: &mut Bench<Cuda>, rank: usize| {
        let mut all = Vec::new();
        for (rows, width) in [(1, 64), (5, 2880), (16, 4104), (33, 8192)] {
            let kind = WeightKind::Experts { count: EXPERTS, gated: false };
            let down = b.shared(7 + rank as u64, kind, &[width; EXPERTS], FFN);
            let (kind, weight) = (NormKind::Rms, b.vector(5, width));
            let norm = Norm { kind, eps: 1e-5, weight, bias: None };
            let routing = Routing::softmax(EXPERTS, 2, true);
            let router = b.router(8, EXPERTS, width);
            let mut routes = b.dev.routes_tensor(rows, &routing)?;
            let x = b.input(rows, width, 3);
            let chosen = b.input(2 * rows, FFN, 20 + rank as u64);
            let mut parts = b.tensor(2 * rows, width);
            b.feed(&[rows]);
            b.dev.route(&router, None, None, &routing, &x, &mut routes)?;

            let [apart, joined]: [Result<Outcome>; 2] = [false, true].map(|joined| {
                let (mut residual, mut delta) = (b.input(rows, width, 4), b.tensor(rows, width));
                let mut normed = b.tensor(rows, width);
                if joined {
                    let (delta, residual, normed) = (&mut delta, &mut residual, &mut normed);
                    let seam = Seam { norm: &norm, delta, residual, normed, next: None };
                    let parts = &mut parts;
                    b.dev.experts_sum_add_norm(&down, None, &routes, &chosen, parts, seam)?;
                } else {
                    let parts = &mut parts;
                    b.dev.experts_sum(&down, None, &routes, &chosen, parts, &mut delta)?;
                    b.dev.add_norm(&norm, &delta, &mut residual, &mut normed)?;
                }
                let (residual, normed) = (b.dev.read(&residual, rows)?, b.dev.read(&normed, rows)?);
                Ok(vec![("residual", residual), ("norm", normed)])
            });
            let (apart, joined) = (apart?, joined?);
            same(&format!("rank {rank}, {rows} x {width}"), &joined, &apart);
            all.extend(joined);
        }
        Ok(all)
    };
    for ranks in [2, 4] {
        by_ranks(ranks, DType::BF16, run);
    }
}
