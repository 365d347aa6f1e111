//! Every op on the GPU against the CPU device, over a table of shapes and element types: random
//! inputs, poisoned outputs, odd sizes; a failure names the case and its worst element. Without a
//! GPU the tests say so and pass; `TRITON_VLLM_REQUIRE_GPU=1` makes that a failure.
//!
//! Inputs reach a device as rows of a table that `embed` looks up, so no backdoor into its buffers
//! is needed and both devices see the same bits.
#![cfg(feature = "cuda")]

mod grader;

use triton_vllm::device::cuda::Cuda;
use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Activation, AttnSpec, DType, Join, KvScales, KvType, Norm, NormKind, QueryGrowth, Rope,
    RouteGroups, RouteScore, Routing, Source, WeightDesc, WeightKind, XIelu,
};

use triton_vllm::device::cpu::Cpu;
use triton_vllm::error::Result;

use grader::{each_type, judge, Bench, Results, Setup};

/// Run a body on both devices and compare what it returns; `slack` multiplies the type's tolerance.
macro_rules! compare {
    ($dtype:expr, $setup:expr, $case:expr, $slack:expr, |$b:ident| $body:block) => {{
        let on_cpu = |$b: &mut Bench<Cpu>| -> Result<Results> { $body };
        let on_gpu = |$b: &mut Bench<Cuda>| -> Result<Results> { $body };
        let want = on_cpu(&mut Bench::new($dtype, $setup)).unwrap();
        let got = on_gpu(&mut Bench::new($dtype, $setup)).unwrap();
        judge($dtype, $case, $slack, &want, &got);
    }};
}

#[path = "ops/cuda_latent.rs"]
mod latent;
#[path = "ops/cuda_adapters.rs"]
mod cuda_adapters;
#[path = "ops/cuda_attention.rs"]
mod cuda_attention;
#[path = "ops/cuda_drafts.rs"]
mod cuda_drafts;
#[path = "ops/cuda_encoders.rs"]
mod cuda_encoders;
#[path = "ops/cuda_further.rs"]
mod cuda_further;
#[path = "ops/cuda_gpt_oss.rs"]
mod cuda_gpt_oss;
#[path = "ops/cuda_layers.rs"]
mod cuda_layers;
#[path = "ops/cuda_quant.rs"]
mod cuda_quant;
#[path = "ops/cuda_rotation.rs"]
mod cuda_rotation;
#[path = "ops/cuda_rows.rs"]
mod cuda_rows;
#[path = "ops/cuda_scans.rs"]
mod cuda_scans;
#[path = "ops/cuda_states.rs"]
mod cuda_states;
#[path = "ops/cuda_vision.rs"]
mod cuda_vision;
#[allow(dead_code, reason = "the CPU's tests use more of it")]
#[path = "ops/quant_cases.rs"]
mod quant_cases;

/// Attention of `[heads, kv_heads, head_dim]` without anything special.
fn heads_of([heads, kv_heads, head_dim]: [usize; 3]) -> AttnSpec {
    AttnSpec {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        window: None,
        chunk: None,
        softcap: None,
        kv_scales: KvScales::ONE,
        q_only: false,
    }
}

/// Turns so many elements of a head, by the usual frequencies.
fn turns(rotary_dim: usize) -> Rope {
    let frequency = |i| 1e4f32.powf(-2.0 * i as f32 / rotary_dim as f32);
    let inv_freq = (0..rotary_dim / 2).map(frequency).collect();
    Rope { rotary_dim, inv_freq, magnitude: 1.25, growth: None, axes: None }
}

/// Rows of a step for the row-by-row ops: one, a few, odd, more than a tile.
const ROWS: [usize; 5] = [1, 2, 7, 33, 130];

#[test]
fn embed_and_positions() {
    each_type(|dtype| {
        for (rows, width) in [(1, 8), (5, 16), (33, 7), (130, 264), (3, 4096)] {
            let case = format!("embed {rows} x {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let table = b.table(1, rows + 3, width);
                let positions = b.table(2, 64 + 2, width);
                let mut x = b.tensor(rows, width);
                // Three sequences, so that positions are not row numbers.
                b.feed(&[rows / 3 + 1, rows / 3, rows - rows / 3 * 2 - 1]);
                b.dev.embed(&table, 1.5, &mut x)?;
                let embedded = b.dev.read(&x, rows)?;
                b.dev.add_positions(&positions, 2, &mut x)?;
                Ok(vec![("embed", embedded), ("add_positions", b.dev.read(&x, rows)?)])
            });
        }
    });
}

#[test]
fn norms() {
    let kinds = [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer];
    // Of 256 rows and more a thread has several parts of a row, where the row allows it.
    let few = [(1, 64), (7, 63), (33, 4096), (4, 8200), (130, 80)];
    let many = [(256, 4096), (300, 2888), (257, 63), (256, 8200), (259, 8)];
    let setup = Setup { step_tokens: 300, max_model_len: 512, ..Setup::default() };
    each_type(|dtype| {
        for (rows, width) in few.into_iter().chain(many) {
            for kind in kinds {
                for bias in [false, true] {
                    let case = format!("norm {kind:?} {rows} x {width} bias {bias}");
                    compare!(dtype, &setup, &case, 1.0, |b| {
                        let mut x = b.input(rows, width, 3);
                        let delta = b.input(rows, width, 4);
                        let mut out = b.tensor(rows, width);
                        let mut sum = b.tensor(rows, width);
                        let weight = b.vector(5, width);
                        let bias = bias.then(|| b.vector(6, width));
                        let norm = Norm { kind, eps: 1e-5, weight, bias };

                        b.dev.norm(&norm, &x, &mut out)?;
                        b.dev.add_norm(&norm, &delta, &mut x, &mut sum)?;
                        Ok(vec![
                            ("norm", b.dev.read(&out, rows)?),
                            ("residual", b.dev.read(&x, rows)?),
                            ("add_norm", b.dev.read(&sum, rows)?),
                        ])
                    });
                }
            }
        }
    });
}

/// In place, per head and over all heads; widths that no load of 16 bytes fits too.
#[test]
fn norms_of_heads_and_sums() {
    each_type(|dtype| {
        for (rows, heads, kv_heads, head_dim) in [(1, 4, 2, 64), (33, 8, 1, 128), (7, 3, 3, 12)] {
            for whole in [false, true] {
                let case = format!("{rows} x {heads}/{kv_heads} x {head_dim}, whole {whole}");
                compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                    let width = (heads + 2 * kv_heads) * head_dim;
                    let mut qkv = b.input(rows, width, 21);
                    let delta = b.input(rows, width, 22);
                    let [q_len, k_len] =
                        if whole { [heads * head_dim, kv_heads * head_dim] } else { [head_dim; 2] };

                    let norm = |weight, kind| Norm { kind, eps: 1e-6, weight, bias: None };
                    let q = norm(b.vector(23, q_len), NormKind::Rms);
                    let k = norm(b.vector(24, k_len), NormKind::RmsPlusOne);
                    let spec = AttnSpec {
                        heads,
                        kv_heads,
                        head_dim,
                        scale: 1.0,
                        window: None,
                        chunk: None,
                        softcap: None,
                        kv_scales: KvScales::ONE,
                        q_only: false,
                    };

                    b.dev.norm_heads(&spec, &q, &k, &mut qkv)?;
                    let normed = b.dev.read(&qkv, rows)?;
                    b.dev.add(&delta, &mut qkv)?;
                    let added = b.dev.read(&qkv, rows)?;
                    b.dev.clamp(0.75, &mut qkv)?;
                    let clamped = b.dev.read(&qkv, rows)?;
                    Ok(vec![("norm_heads", normed), ("add", added), ("clamp", clamped)])
                });
            }
        }
    });
}

#[test]
fn linears() {
    // (outputs, inputs); odd ones have no tensor-core algorithm in half types.
    let shapes = [(1, 1), (48, 16), (100, 63), (33, 80), (768, 256), (515, 1024), (1000, 4096)];
    // Up to eight rows have kernels of their own: every number of them, more tiles than blocks,
    // some inputs more and less than a stage's 512, or 1024 of few outputs.
    let few = [(9000, 520), (17, 504), (40, 2048), (41, 1032)]
        .map(|(outputs, inputs)| (outputs, inputs, 1..=9));
    let few = few.map(|(outputs, inputs, rows)| (outputs, inputs, rows.collect()));
    // Up to 64 on Hopper: more tiles than blocks, tiles whose inputs a cluster shares, inputs that
    // end within a stage.
    let some = [(36_000, 520), (17, 504), (300, 2056), (130, 8), (1024, 4096)];
    let some = some.map(|(outputs, inputs)| (outputs, inputs, vec![9, 16, 17, 32, 33, 63, 64, 65]));
    let usual = shapes.map(|(outputs, inputs)| (outputs, inputs, ROWS.to_vec()));
    each_type(|dtype| {
        for (outputs, inputs, rows) in usual.iter().chain(&few).chain(&some).cloned() {
            if grader::small_shapes() && outputs * inputs > 100_000 {
                continue;
            }
            // Kernels of this repository; more rows are the library's.
            let rows = rows.into_iter().filter(|&rows| rows <= 8 || !grader::small_shapes());
            for rows in rows {
                let case = format!("linear {rows} x {outputs} x {inputs}");
                compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                    let x = b.input(rows, inputs, 7);
                    let weight = b.linear(8, outputs, inputs);
                    let bias = b.vector(9, outputs);
                    let mut plain = b.tensor(rows, outputs);
                    let mut biased = b.tensor(rows, outputs);
                    b.dev.linear(&weight, None, &x, &mut plain)?;
                    b.dev.linear(&weight, Some(&bias), &x, &mut biased)?;
                    Ok(vec![
                        ("plain", b.dev.read(&plain, rows)?),
                        ("with bias", b.dev.read(&biased, rows)?),
                    ])
                });
            }
        }
    });
}

#[test]
fn activations() {
    let plain = [
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::XIelu(XIelu { positive: 0.7, negative: 1.2, linear: 0.5, limit: -1e-6 }),
    ];
    let gated = [Activation::SiluGated, Activation::GeluGated, Activation::GeluTanhGated];

    each_type(|dtype| {
        let sizes = [(1, 64, 64), (33, 136, 80), (5, 63, 128), (130, 1024, 256), (8, 3000, 1032)];
        let tiles = [(9, 200, 72), (17, 1000, 328), (64, 4104, 136), (20, 60, 64)];
        let sizes = sizes.into_iter().chain(tiles);
        for (rows, width, inputs) in sizes.clone() {
            if grader::small_shapes() && width * inputs > 100_000 {
                continue;
            }
            for act in plain.iter().chain(&gated).copied() {
                for bias in [false, true] {
                    let case = format!("{act:?} {rows} x {width} x {inputs} bias {bias}");
                    compare!(dtype, &Setup::default(), &case, 2.0, |b| {
                        let x = b.input(rows, inputs, 10);
                        let outputs = if act.is_gated() { 2 * width } else { width };
                        let weight = if act.is_gated() {
                            b.gate_up(11, width, inputs)
                        } else {
                            b.linear(11, outputs, inputs)
                        };
                        let bias = bias.then(|| b.vector(12, outputs));

                        let mut out = b.tensor(rows, width);
                        b.dev.linear_act(&weight, bias.as_ref(), act, &x, &mut out)?;
                        Ok(vec![("linear_act", b.dev.read(&out, rows)?)])
                    });
                }
            }
        }
    });
}

/// Choices, products and sums of a mixture: experts that many rows chose and such that nobody did,
/// one row, tiles of 16 and of 64, widths for tensor cores and odd ones.
#[test]
fn mixtures_of_experts() {
    // (rows, hidden, ffn, experts, top_k)
    let shapes = [
        (1, 64, 48, 8, 2),
        (7, 128, 96, 60, 4),
        (16, 72, 40, 16, 3),
        (13, 296, 24, 150, 8),
        (33, 72, 40, 16, 3),
        (150, 256, 200, 4, 2),
        (160, 64, 130, 2, 2),
        (50, 64, 33, 128, 8),
        (40, 63, 21, 5, 5),
    ];
    each_type(|dtype| {
        for (rows, hidden, ffn, experts, top_k) in shapes {
            if grader::small_shapes() && hidden * ffn * experts > 100_000 {
                continue;
            }
            for (renormalise, biased, grouped, near) in [
                (false, false, false, false),
                (true, false, false, false),
                (true, true, false, false),
                (false, false, true, false),
                (true, true, true, false),
                (false, false, false, true),
            ] {
                let case = format!("{rows} rows, {hidden} x {ffn}, {top_k} of {experts}");
                compare!(dtype, &Setup::default(), &case, 2.0, |b| {
                    let mut routing = Routing::softmax(experts, top_k, renormalise);
                    if grouped {
                        // Of the groups as many as hold the experts of a row.
                        let count = (2..=experts).find(|n| experts % n == 0).unwrap_or(1);
                        let top = top_k.div_ceil(experts / count);
                        routing.groups = Some(RouteGroups { count, top });
                        routing.score = RouteScore::Sigmoid;
                        routing.scale = 2.5;
                    }
                    if near {
                        routing.score = RouteScore::SparseMixer;
                    }
                    let x = b.input(rows, hidden, 31);
                    let router = b.router(32, experts, hidden);
                    let up = b.experts(33, experts, ffn, hidden, true);
                    let down = b.experts(34, experts, hidden, ffn, false);
                    let gate = b.vector(35, hidden);
                    let delta = b.input(rows, hidden, 36);
                    let mut routes = b.dev.routes_tensor(rows, &routing)?;
                    let mut middle = b.tensor(rows * top_k, ffn);
                    let mut parts = b.tensor(rows * top_k, hidden);
                    let mut out = b.tensor(rows, hidden);
                    let bias = biased.then(|| b.choice_bias(37, experts));
                    b.dev.route(&router, None, bias.as_ref(), &routing, &x, &mut routes)?;
                    b.dev.experts_act(
                        &up,
                        None,
                        Activation::SiluGated,
                        &routes,
                        &x,
                        &mut middle,
                    )?;
                    b.dev.experts(&down, None, &routes, &middle, &mut parts)?;
                    b.dev.combine(&down, &routes, &parts, &mut out)?;
                    let mixture = b.dev.read(&out, rows)?;
                    let inside_parts = b.dev.read(&parts, rows * top_k)?;
                    let mut sum = b.tensor(rows, hidden);
                    b.dev.experts_sum(&down, None, &routes, &middle, &mut parts, &mut sum)?;
                    b.dev.add_gated(&gate, &x, &delta, &mut out)?;
                    let routes = b.dev.read(&routes, rows)?;
                    let [numbers, weights] = [0, top_k].map(|from| {
                        let rows = routes.chunks_exact(2 * top_k);
                        rows.flat_map(|row| row[from..from + top_k].to_vec()).collect()
                    });
                    Ok(vec![
                        ("numbers of experts", numbers),
                        ("weights of experts", weights),
                        ("inside", b.dev.read(&middle, rows * top_k)?),
                        ("parts", inside_parts),
                        ("mixture", mixture),
                        ("mixture at once", b.dev.read(&sum, rows)?),
                        ("with the shared one", b.dev.read(&out, rows)?),
                    ])
                });
            }
        }
    });
}

/// Checkpoints hold any of three types, either orientation, one tensor or several.
#[test]
fn weights_from_any_source() {
    each_type(|dtype| {
        for stored in [DType::F32, DType::F16, DType::BF16] {
            for transposed in [false, true] {
                let case = format!("stored {stored:?} transposed {transposed}");
                compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                    let (rows, inputs) = (9, 40);
                    let x = b.input(rows, inputs, 13);
                    let weight = b.stored(14, &[24, 8, 8], inputs, stored, transposed);
                    let mut out = b.tensor(rows, 40);
                    b.dev.linear(&weight, None, &x, &mut out)?;
                    Ok(vec![("linear", b.dev.read(&out, rows)?)])
                });
            }
        }

        for (name, source) in [
            ("dummy", Source::Dummy { seed: 77, scale: 0.3 }),
            ("constant", Source::Constant(0.25)),
        ] {
            compare!(dtype, &Setup::default(), name, 1.0, |b| {
                let (rows, width) = (50, 33);
                let source = match &source {
                    Source::Dummy { seed, scale } => Source::Dummy { seed: *seed, scale: *scale },
                    _ => Source::Constant(0.25),
                };
                let kind = WeightKind::Table;
                let desc = WeightDesc {
                    name,
                    kind,
                    outputs: rows,
                    inputs: width,
                    dtype,
                    quant: None,
                    transposed: false,
                    join: Join::None,
                    source,
                };
                let table = b.dev.upload(desc)?;

                let mut x = b.tensor(rows, width);
                b.feed(&[rows]);
                b.dev.embed(&table, 1.0, &mut x)?;
                Ok(vec![("values", b.dev.read(&x, rows)?)])
            });
        }
    });
}

/// More than one pinned buffer, in pieces.
#[test]
fn weights_larger_than_a_staging_buffer() {
    each_type(|dtype| {
        for transposed in [false, true] {
            compare!(
                dtype,
                &Setup::default(),
                &format!("9000 x 700 transposed {transposed}"),
                1.0,
                |b| {
                    let (rows, outputs, inputs) = (2, 9000, 700);
                    let x = b.input(rows, inputs, 15);
                    let weight = b.stored(16, &[outputs], inputs, DType::F32, transposed);
                    let mut out = b.tensor(rows, outputs);
                    b.dev.linear(&weight, None, &x, &mut out)?;
                    Ok(vec![("linear", b.dev.read(&out, rows)?)])
                }
            );
        }
    });
}

#[test]
fn gather_and_logits() {
    // Lengths, and which of the sequences sample: of the first the rows 4, 5 and 39.
    let few = (vec![5, 1, 20, 14], vec![true, true, false, true]);
    let many = (vec![1; 13], vec![true; 13]);
    each_type(|dtype| {
        let sizes = [(50, 16, None), (1003, 264, Some(3.0)), (4096, 65, None)];
        for ((vocab, width, softcap), (lengths, samples)) in
            sizes.into_iter().flat_map(|size| [(size, &few), (size, &many)])
        {
            let slots = lengths.len();
            let count = samples.iter().filter(|&&sample| sample).count();
            let case = format!("{count} logits {vocab} x {width} cap {softcap:?}");
            compare!(dtype, &Setup { slots, ..Setup::default() }, &case, 1.0, |b| {
                let x = b.input(40, width, 18);
                b.feed_some(lengths, samples);
                let mut picked = b.tensor(slots, width);
                let mut projected = b.tensor(slots, 24);
                let mut logits = b.dev.logits_tensor(slots, vocab)?;
                let head = b.linear(19, vocab, width);
                let project = b.linear(20, 24, width);
                b.dev.gather(&x, &mut picked)?;
                b.dev.linear_gathered(&project, &picked, &mut projected)?;
                b.dev.logits(&head, softcap, &picked, &mut logits)?;
                let plain = b.dev.read(&logits, count)?;
                let bias = b.vector(25, vocab);
                b.dev.bias_logits(&bias, &mut logits)?;
                Ok(vec![
                    ("gather", b.dev.read(&picked, count)?),
                    ("linear_gathered", b.dev.read(&projected, count)?),
                    ("logits", plain),
                    ("bias_logits", b.dev.read(&logits, count)?),
                ])
            });
        }
    });
}
