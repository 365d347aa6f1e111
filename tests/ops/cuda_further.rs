//! Ops that single families need, on the GPU against the CPU device: scores that fall with distance
//! (ALiBi), layer norms of heads with weights of each, the scan of Mamba 1. Part of `cuda_ops`.

use triton_vllm::device::{ChannelScanSpec, Columns, ConvSpec, ScanWeights, StateShape};
use triton_vllm::ids::TokenId;

use super::*;

fn with_slopes(dtype: DType, spec: &AttnSpec, kv: KvType) {
    let AttnSpec { heads, kv_heads, head_dim, .. } = *spec;
    let setup = Setup {
        kv_heads,
        head_dim,
        max_model_len: 700,
        step_tokens: 300,
        kv: Some(kv),
        ..Setup::default()
    };
    let case = format!("slopes {heads}/{kv_heads} x {head_dim}, pages {kv:?}");
    compare!(dtype, &setup, &case, 1.0, |b| {
        let table = b.table(41, 300, spec.row_width());
        let slopes = b.vector(42, heads);
        let mut results = Vec::new();
        let mut qkv = b.tensor(300, spec.row_width());
        let mut out = b.tensor(300, spec.q_width());

        for step in [&[37, 1, 200][..], &[1, 20, 1], &[1, 1, 1], &[240, 1, 30], &[1, 1, 1]] {
            let rows = step.iter().sum();
            b.feed(step);
            b.dev.embed(&table, 1.0, &mut qkv)?;
            b.dev.rope_store(0, spec, None, &mut qkv)?;
            b.dev.attend_alibi(0, spec, &slopes, &qkv, &mut out)?;
            results.push(("attend_alibi", b.dev.read(&out, rows)?));
        }
        Ok(results)
    });
}

#[test]
fn scores_fall_with_distance() {
    each_type(|dtype| {
        for spec in [heads_of([8, 8, 64]), heads_of([6, 2, 128]), heads_of([3, 3, 20])] {
            with_slopes(dtype, &spec, dtype.into());
        }
        with_slopes(dtype, &heads_of([4, 4, 64]), KvType::E4m3);
    });
}

#[test]
fn heads_are_normed_by_weights_of_each() {
    each_type(|dtype| {
        for spec in [heads_of([6, 2, 64]), heads_of([4, 4, 20])] {
            let case = format!("norms of {} heads of {}", spec.heads, spec.head_dim);
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let table = b.table(7, 9, spec.row_width());
                let mut norm = |seed, heads: usize| Norm {
                    kind: NormKind::Layer,
                    eps: 1e-3,
                    weight: b.vector(seed, heads * spec.head_dim),
                    bias: None,
                };
                let (q, k) = (norm(8, spec.heads), norm(9, spec.kv_heads));
                let mut qkv = b.tensor(9, spec.row_width());
                b.feed(&[9]);
                b.dev.embed(&table, 1.0, &mut qkv)?;
                b.dev.norm_heads(&spec, &q, &k, &mut qkv)?;
                Ok(vec![("norm_heads", b.dev.read(&qkv, 9)?)])
            });
        }
    });
}

#[test]
fn channels_are_scanned_in_chunks_and_token_by_token() {
    const TAPS: usize = 4;
    let shapes = [(128, 16), (300, 16), (40, 6), (64, 64)];
    each_type(|dtype| {
        for (width, state) in shapes {
            let scan = ChannelScanSpec { width, state };
            let shape = StateShape {
                layers: 2,
                tail_rows: TAPS - 1,
                tail_width: width,
                heads: 1,
                rows: width,
                columns: state,
            };
            let setup = Setup { state: shape, ..Setup::default() };
            // What is rounded between ops the later ones read.
            compare!(dtype, &setup, &format!("{scan:?}"), 4.0, |b| {
                let convolution = b.vector(1, width * TAPS);
                let log_decay = b.vector(3, width * state);
                let rate_bias = b.vector(4, width);
                let skip = b.vector(5, width);
                let mut all = Vec::new();
                let steps = [[5, 1, 0], [1, 1, 40], [3, 0, 1], [1, 1, 1], [2, 1, 7], [1, 1, 1]];
                for (n, lengths) in steps.iter().enumerate() {
                    let rows = lengths.iter().sum();
                    let inputs = b.table(10 + n as u64, rows, 2 * width + 2 * state);
                    if n == 4 {
                        // Another sequence in a slot whose state is full.
                        b.open(0, &[TokenId(0)], Default::default());
                    }
                    if n == 3 || n == 5 {
                        // Behind drafts of which one stays.
                        b.truncate(0, if n == 3 { 7 } else { 1 });
                    }
                    b.feed(lengths);

                    let mut whole = b.tensor(rows, 2 * width + 2 * state);
                    b.dev.embed(&inputs, 1.0, &mut whole)?;
                    let mut x = b.tensor(rows, width);
                    let conv = ConvSpec { taps: TAPS, width, silu: true };
                    b.dev.short_convolution(1, &conv, &convolution, None, &whole, &mut x)?;
                    // Products of two columns, for want of an op that cuts.
                    let columns = |first| Columns { tensor: &whole, first };
                    let mut rates = b.tensor(rows, width);
                    b.dev.multiply(columns(width), columns(0), &mut rates)?;
                    let mut bc = b.tensor(rows, 2 * state);
                    b.dev.multiply(columns(2 * width), columns(2 * width), &mut bc)?;

                    let mut y = b.tensor(rows, width);
                    let weights =
                        ScanWeights { log_decay: &log_decay, rate_bias: &rate_bias, skip: &skip };
                    b.dev.channel_scan(1, &scan, weights, &x, &rates, &bc, &mut y)?;
                    all.push(("channel_scan", b.dev.read(&y, rows)?));
                }
                Ok(all)
            });
        }
    });
}
