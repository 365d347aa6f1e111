//! What layers that differ from the usual do, on the GPU and on the CPU: attention over wide heads,
//! over runs of positions, and over K and V of another layer; v made of k; norms of columns; scaled
//! residuals, routes and inputs. Part of `cuda_ops`.

use triton_vllm::device::Seam;

use super::*;

fn spec(heads: usize, kv_heads: usize, dim: usize, kv: Option<KvType>) -> AttnSpec {
    let kv_scales = if kv.is_some() { KvScales { k: 0.013, v: 0.02 } } else { KvScales::ONE };
    AttnSpec { kv_scales, ..heads_of([heads, kv_heads, dim]) }
}

/// One layer stores, the next reads what it stored by q alone.
#[test]
fn attention_over_keys_of_another_layer() {
    let kinds = [None, Some(KvType::E4m3)];
    each_type(|dtype| {
        for kv in kinds {
            for (heads, kv_heads, dim, chunk) in [
                (4, 1, 512, None),
                (6, 2, 300, None),
                (8, 2, 64, Some(24)),
                (8, 1, 128, Some(64)),
                (4, 2, 256, Some(7)),
                (2, 1, 512, Some(40)),
            ] {
                let case = format!("{heads}/{kv_heads} x {dim}, runs of {chunk:?}, pages {kv:?}");
                let setup = Setup { kv_heads, head_dim: dim, kv, ..Setup::default() };
                compare!(dtype, &setup, &case, 1.0, |b| {
                    let own = AttnSpec { chunk, ..spec(heads, kv_heads, dim, kv) };
                    let other = AttnSpec { q_only: true, ..own.clone() };
                    let table = b.table(17, 300, own.row_width());
                    let queries = b.table(18, 300, other.row_width());
                    let mut results = Vec::new();
                    for step in [&[37, 1, 64][..], &[1, 20, 1], &[1, 1, 1], &[1, 1, 1]] {
                        let rows = step.iter().sum();
                        let mut qkv = b.tensor(rows, own.row_width());
                        let mut q = b.tensor(rows, other.row_width());
                        let mut out = b.tensor(rows, own.q_width());
                        b.feed(step);
                        b.dev.embed(&table, 1.0, &mut qkv)?;
                        b.dev.embed(&queries, 1.0, &mut q)?;

                        b.dev.rope_store(0, &own, None, &mut qkv)?;
                        b.dev.attend(0, &own, None, &qkv, &mut out)?;
                        results.push(("attend", b.dev.read(&out, rows)?));
                        b.dev.rope_store(0, &other, None, &mut q)?;
                        b.dev.attend(0, &other, None, &q, &mut out)?;
                        results.push(("attend by q alone", b.dev.read(&out, rows)?));
                    }
                    Ok(results)
                });
            }
        }
    });
}

#[test]
fn rows_of_keys_norms_and_factors() {
    each_type(|dtype| {
        for (rows, heads, kv_heads, dim) in [(1, 4, 1, 16), (7, 3, 3, 12), (33, 8, 2, 64)] {
            let case = format!("{rows} x {heads}/{kv_heads} x {dim}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let spec = spec(heads, kv_heads, dim, None);
                let (q, kv) = (spec.q_width(), kv_heads * dim);
                let qk = b.input(rows, q + kv, 21);
                let mut qkv = b.tensor(rows, spec.row_width());
                let weight = b.vector(5, dim);
                let norm = Norm { kind: NormKind::Rms, eps: 1e-6, weight, bias: None };

                b.dev.values_of_keys(&spec, &qk, &mut qkv)?;
                let spread = b.dev.read(&qkv, rows)?;
                b.dev.norm_parts(&norm, q + kv..q + 2 * kv, &mut qkv)?;
                let normed = b.dev.read(&qkv, rows)?;
                b.dev.scale(0.37, &mut qkv)?;
                Ok(vec![
                    ("values_of_keys", spread),
                    ("norm_parts", normed),
                    ("scale", b.dev.read(&qkv, rows)?),
                ])
            });
        }
    });
}

#[test]
fn weights_of_routes() {
    each_type(|dtype| {
        for (rows, experts, top_k, width) in [(1, 4, 1, 32), (7, 8, 3, 24), (130, 16, 1, 40)] {
            let case = format!("routes of {rows} rows, {top_k} of {experts}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let score =
                    if top_k == 1 { RouteScore::SigmoidOfChosen } else { RouteScore::Sigmoid };
                let routing = Routing { score, ..Routing::softmax(experts, top_k, false) };
                let x = b.input(rows, width, 11);
                let router = b.linear(12, experts, width);
                let scales = b.vector(13, experts);
                let mut routes = b.dev.routes_tensor(rows, &routing)?;

                b.dev.route(&router, None, None, &routing, &x, &mut routes)?;
                b.dev.scale_routes(&scales, &routing, &mut routes)?;

                let mut results = vec![("scale_routes", b.dev.read(&routes, rows)?)];
                if top_k == 1 {
                    let mut out = b.tensor(rows, width);
                    b.dev.weigh_inputs(&mut routes, &x, &mut out)?;
                    results.push(("weigh_inputs", b.dev.read(&out, rows)?));
                    results.push(("weights", b.dev.read(&routes, rows)?));
                }
                Ok(results)
            });
        }
    });
}

/// The output of a sublayer goes to the residual, and its norm to products, to a reader that is
/// none, or nowhere. One row goes another way than two.
#[test]
fn norms_between_products() {
    let shapes = [(1, 896, 200, 48), (1, 4096, 136, 64), (1, 8192, 64, 40), (1, 8200, 64, 24)];
    let more_rows = [(2, 896, 200, 48), (33, 264, 72, 40), (70, 262, 71, 40), (140, 264, 72, 40)];
    each_type(|dtype| {
        for (rows, width, inputs, outputs) in shapes.into_iter().chain(more_rows) {
            for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
                let case = format!("{kind:?} {rows} x {inputs} to {width} to {outputs}");
                compare!(dtype, &Setup::default(), &case, 4.0, |b| {
                    let x = b.input(rows, inputs, 3);
                    let mut residual = b.input(rows, width, 4);
                    let (mut delta, mut normed) = (b.tensor(rows, width), b.tensor(rows, width));
                    let weight = b.vector(5, width);
                    let norm = Norm { kind, eps: 1e-5, weight, bias: None };
                    let (first, bias) = (b.linear(6, width, inputs), b.vector(7, width));
                    let (next, gated) = (b.linear(8, outputs, width), b.gate_up(9, outputs, width));
                    let mut results = Vec::new();

                    for bias in [None, Some(&bias)] {
                        let (delta, residual) = (&mut delta, &mut residual);
                        let seam =
                            Seam { norm: &norm, delta, residual, normed: &mut normed, next: None };
                        b.dev.linear_add_norm(&first, bias, &x, seam)?;
                        // The first reader may be the one that makes it.
                        let mut product = b.tensor(rows, outputs);
                        let mut activated = b.tensor(rows, outputs);
                        if bias.is_some() {
                            b.dev.linear(&next, None, &normed, &mut product)?;
                        }
                        let act = Activation::SiluGated;
                        b.dev.linear_act(&gated, None, act, &normed, &mut activated)?;
                        if bias.is_none() {
                            b.dev.linear(&next, None, &normed, &mut product)?;
                        }
                        results.push(("product", b.dev.read(&product, rows)?));
                        results.push(("gated product", b.dev.read(&activated, rows)?));
                        results.push(("residual", b.dev.read(residual, rows)?));
                        results.push(("norm", b.dev.read(&normed, rows)?));
                    }

                    // Nothing reads it but the test.
                    let (delta, residual) = (&mut delta, &mut residual);
                    let seam =
                        Seam { norm: &norm, delta, residual, normed: &mut normed, next: None };
                    b.dev.linear_add_norm(&first, None, &x, seam)?;
                    results.push(("norm", b.dev.read(&normed, rows)?));

                    // A product of other rows comes between, and a copy reads it.
                    let mut product = b.tensor(rows, width);
                    let mut sum = b.tensor(rows, width);
                    let seam =
                        Seam { norm: &norm, delta, residual, normed: &mut normed, next: None };
                    b.dev.linear_add_norm(&first, None, &x, seam)?;
                    b.dev.linear(&first, None, &x, &mut product)?;
                    b.dev.norm(&norm, &normed, &mut sum)?;
                    results.push(("norm of the norm", b.dev.read(&sum, rows)?));
                    results.push(("residual", b.dev.read(residual, rows)?));
                    Ok(results)
                });
            }
        }
    });
}
