//! What gpt-oss asks of ops, on the GPU against the CPU device: sinks in attention, gates and ups
//! that are clamped, biases of the router and of experts, plain and as codes. Part of `cuda_ops`.

use super::quant_cases::{Case, Coded};
use super::*;
use triton_vllm::device::{CodeType, Seam};

/// gpt-oss's own heads, one KV head, all, a width that no tile fits.
const HEADS: [(usize, usize, usize); 4] = [(64, 8, 64), (8, 1, 128), (4, 4, 64), (3, 1, 20)];

fn with_sinks(dtype: DType, heads: (usize, usize, usize), window: Option<usize>, kv: KvType) {
    let (heads, kv_heads, dim) = heads;
    let case = format!("sinks {heads}/{kv_heads} x {dim}, window {window:?}, pages {kv:?}");
    let setup = Setup {
        kv_heads,
        head_dim: dim,
        max_model_len: 1300,
        step_tokens: 700,
        kv: Some(kv),
        ..Setup::default()
    };
    compare!(dtype, &setup, &case, 1.0, |b| {
        let width = (heads + 2 * kv_heads) * dim;
        let table = b.table(41, 700, width);
        let sinks = b.wide_vector(42, heads);
        let spec = AttnSpec { window, ..heads_of([heads, kv_heads, dim]) };

        let mut results = Vec::new();
        let mut qkv = b.tensor(700, width);
        let mut out = b.tensor(700, heads * dim);
        // Short prompts, contexts that are cut into parts, chunks and single rows.
        for step in [&[37, 1, 600][..], &[1, 20, 1], &[1, 1, 1], &[640, 1, 30], &[1, 1, 1]] {
            let rows = step.iter().sum();
            b.feed(step);
            b.dev.embed(&table, 1.0, &mut qkv)?;
            b.dev.rope_store(0, &spec, None, &mut qkv)?;
            b.dev.attend(0, &spec, Some(&sinks), &qkv, &mut out)?;
            results.push(("attend", b.dev.read(&out, rows)?));
        }
        Ok(results)
    });
}

#[test]
fn attention_with_sinks() {
    each_type(|dtype| {
        for heads in HEADS {
            for window in [None, Some(1), Some(128)] {
                with_sinks(dtype, heads, window, dtype.into());
            }
        }
        with_sinks(dtype, HEADS[0], None, KvType::E4m3);
    });
}

/// Biases reach beyond both clamps.
#[test]
fn clamped_gates() {
    each_type(|dtype| {
        for (rows, width, inputs) in [(1, 64, 64), (8, 96, 520), (33, 136, 80), (130, 1024, 256)] {
            if grader::small_shapes() && width * inputs > 100_000 {
                continue;
            }
            let case = format!("clamped gates {rows} x {width} x {inputs}");
            compare!(dtype, &Setup::default(), &case, 2.0, |b| {
                let x = b.input(rows, inputs, 43);
                let weight = b.gate_up(44, width, inputs);
                let bias = b.wide_vector(45, 2 * width);
                let mut out = b.tensor(rows, width);
                b.dev.linear_act(&weight, Some(&bias), Activation::SwigluOai, &x, &mut out)?;
                Ok(vec![("linear_act", b.dev.read(&out, rows)?)])
            });
        }
    });
}

/// (rows, hidden, ffn, experts, top_k)
type Mixture = (usize, usize, usize, usize, usize);

/// Few choices of an expert and many, experts that nobody chose, tiles of both heights.
const MIXTURES: [Mixture; 5] = [
    (1, 64, 96, 32, 4),
    (7, 128, 96, 60, 4),
    (33, 96, 160, 16, 3),
    (150, 256, 192, 4, 2),
    (160, 64, 128, 2, 2),
];

/// The mixture's inside, its sum, and what follows that. `stacks`: of gates and ups, and of downs.
/// With `normed` the router reads a norm of its input, whose rounding may choose other experts.
fn mixture<D: grader::Graded>(
    b: &mut Bench<D>,
    shape: Mixture,
    stacks: [D::Weight; 2],
    normed: bool,
) -> Result<Results> {
    let (rows, hidden, ffn, experts, top_k) = shape;
    let [up, down] = stacks;
    let routing = Routing::softmax(experts, top_k, true);
    let [weight, before] = [57, 58].map(|seed| b.vector(seed, hidden));
    let [norm, input_norm] =
        [weight, before].map(|weight| Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5 });
    let (input, mut x) = (b.input(rows, hidden, 46), b.tensor(rows, hidden));
    let router = b.router(47, experts, hidden);
    let router_bias = b.vector(48, experts);
    let up_bias = b.wide_vector(49, experts * 2 * ffn);
    let down_bias = b.wide_vector(50, experts * hidden);

    let mut routes = b.dev.routes_tensor(rows, &routing)?;
    let mut middle = b.tensor(rows * top_k, ffn);
    let mut parts = b.tensor(rows * top_k, hidden);
    let mut out = b.tensor(rows, hidden);
    if normed {
        // Of a single row the router may make it.
        b.dev.norm(&input_norm, &input, &mut x)?;
    } else {
        x = input;
    }
    b.dev.route(&router, Some(&router_bias), None, &routing, &x, &mut routes)?;
    b.dev.experts_act(&up, Some(&up_bias), Activation::SwigluOai, &routes, &x, &mut middle)?;
    b.dev.experts(&down, Some(&down_bias), &routes, &middle, &mut parts)?;
    b.dev.combine(&down, &routes, &parts, &mut out)?;
    let each = b.dev.read(&parts, rows * top_k)?;
    let mut sum = b.tensor(rows, hidden);
    b.dev.experts_sum(&down, Some(&down_bias), &routes, &middle, &mut parts, &mut sum)?;

    let (mut residual, mut delta) = (b.input(rows, hidden, 59), b.tensor(rows, hidden));
    let mut normed = b.tensor(rows, hidden);
    let (delta, residual_to, normed_to) = (&mut delta, &mut residual, &mut normed);
    let seam = Seam { norm: &norm, delta, residual: residual_to, normed: normed_to, next: None };
    let bias = Some(&down_bias);
    b.dev.experts_sum_add_norm(&down, bias, &routes, &middle, &mut parts, seam)?;

    let routes = b.dev.read(&routes, rows)?;
    let [numbers, weights] = [0, top_k].map(|from| {
        let rows = routes.chunks_exact(2 * top_k);
        rows.flat_map(|row| row[from..from + top_k].to_vec()).collect()
    });
    Ok(vec![
        ("numbers of experts", numbers),
        ("weights of experts", weights),
        ("inside", b.dev.read(&middle, rows * top_k)?),
        ("parts", each),
        ("mixture", b.dev.read(&out, rows)?),
        ("mixture at once", b.dev.read(&sum, rows)?),
        ("mixture and residual", b.dev.read(&residual, rows)?),
        ("norm of both", b.dev.read(&normed, rows)?),
    ])
}

#[test]
fn experts_with_biases() {
    each_type(|dtype| {
        for shape in MIXTURES {
            let (_, hidden, ffn, experts, _) = shape;
            if grader::small_shapes() && hidden * ffn * experts > 100_000 {
                continue;
            }
            compare!(dtype, &Setup::default(), &format!("biased {shape:?}"), 2.0, |b| {
                let up = b.experts(51, experts, ffn, hidden, true);
                let down = b.experts(52, experts, hidden, ffn, false);
                mixture(b, shape, [up, down], shape.0 == 1)
            });
        }
    });
}

/// Rows alone, and with others that meet the same experts: as many as go the way of one or two, and
/// as fill a tile, where one kernel makes the router's product.
#[test]
fn company_changes_no_bit_of_a_mixture() {
    const SIZES: [&[usize]; 3] = [&[2, 1], &[8, 3, 5], &[16, 9]];
    each_type(|dtype| {
        let run = |rows: usize| {
            let shape = (rows, 136, 72, 6, 3);
            let (_, hidden, ffn, experts, _) = shape;
            let mut b = Bench::<Cuda>::new(dtype, &Setup::default());
            let up = b.experts(51, experts, ffn, hidden, true);
            let down = b.experts(52, experts, hidden, ffn, false);
            mixture(&mut b, shape, [up, down], true).unwrap()
        };
        for sizes in SIZES {
            let whole = run(sizes[0]);
            for &rows in &sizes[1..] {
                for ((name, whole), (_, part)) in whole.iter().zip(run(rows)) {
                    // f32 goes to cuBLASLt for its router.
                    let same = dtype == DType::F32 || whole[..part.len()] == part;
                    assert!(same, "{dtype:?}: {name} of {rows} rows");
                }
            }
        }
    });
}

/// As MXFP4 holds them: fours with a scale for each 32 inputs.
#[test]
fn experts_of_codes_with_biases() {
    each_type(|dtype| {
        for shape in MIXTURES {
            let (rows, hidden, ffn, experts, _) = shape;
            let up = Case {
                codes: CodeType::E2m1,
                group: 32,
                offsets: false,
                ordered: false,
                inputs: None,
                rows,
                outputs: 2 * ffn * experts,
                k: hidden,
            };
            let down = Case { outputs: hidden * experts, k: ffn, ..up };

            compare!(dtype, &Setup::default(), &format!("codes {shape:?}"), 3.0, |b| {
                let stack = |gated| WeightKind::Experts { count: experts, gated };
                let up = Coded::new(&up, &vec![ffn; 2 * experts], 53);
                let up = up.upload(&mut b.dev, stack(true), b.dtype);
                let down = Coded::new(&down, &vec![hidden; experts], 54);
                let down = down.upload(&mut b.dev, stack(false), b.dtype);
                mixture(b, shape, [up, down], shape.0 == 1)
            });
        }
    });
}
