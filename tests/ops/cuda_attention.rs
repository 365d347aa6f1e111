//! Attention over pages on the GPU against the CPU device: chunks and single rows mixed, contexts
//! that are cut into parts, more sequences than blocks; over pages of the model's type and of eight
//! bits. Part of `cuda_ops`.

use std::sync::Arc;

use super::*;
use triton_vllm::plan::{BothWays, ImageSpan, PatchRows, PromptImages};

/// Of pages: the model's type, and those of eight bits.
const KV_TYPES: [Option<KvType>; 3] = [None, Some(KvType::E4m3), Some(KvType::E5m2)];

/// Scales that leave some of V beyond the largest E4M3, and K within.
fn scales(kv: Option<KvType>) -> KvScales {
    match kv {
        Some(KvType::E4m3) => KvScales { k: 0.013, v: 0.0021 },
        Some(_) => KvScales { k: 0.0007, v: 1.5 },
        None => KvScales::ONE,
    }
}

/// Attention of `[heads, kv_heads, dim]` without anything special, over such pages.
fn plain(shape: [usize; 3], kv: Option<KvType>) -> AttnSpec {
    AttnSpec { kv_scales: scales(kv), ..heads_of(shape) }
}

/// A k that was rotated with a last bit of its own may go to the other of two neighbours of eight
/// bits: in f32 one element in a million; one in some hundred where a half type was rotated twice.
fn slack(dtype: DType, kv: Option<KvType>, rotary: usize) -> f32 {
    match dtype {
        _ if kv.is_none() || rotary == 0 => 1.0,
        DType::F32 => 500.0,
        // A neighbour of E4M3 is up to an eighth away.
        DType::F16 => 32.0,
        DType::BF16 => 4.0,
    }
}

struct AttentionCase {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    page_size: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    rotary: usize,
    growth: Option<QueryGrowth>,
}

fn attention_cases() -> Vec<AttentionCase> {
    let case = |heads, kv_heads, dim, page_size| AttentionCase {
        heads,
        kv_heads,
        dim,
        page_size,
        window: None,
        softcap: None,
        rotary: dim / 2 * 2,
        growth: None,
    };
    let growth = Some(QueryGrowth { beta: 0.3, ahead: 0, length: 512 });
    let ahead = Some(QueryGrowth { beta: 0.5, ahead: 1, length: 8 });

    vec![
        case(4, 4, 16, 16),
        case(4, 2, 32, 16),
        case(12, 12, 64, 16),
        case(14, 2, 64, 48),
        case(8, 2, 80, 32),
        case(6, 1, 96, 16),
        case(32, 8, 128, 16),
        case(8, 1, 128, 64),
        case(8, 4, 256, 16),
        // More than eight q heads of a KV head, and more than sixteen.
        case(12, 1, 64, 48),
        case(32, 2, 128, 16),
        case(20, 1, 128, 80),
        case(11, 1, 256, 32),
        case(8, 2, 512, 16),
        case(2, 1, 300, 16),
        case(3, 1, 20, 16),
        case(2, 2, 5, 16),
        case(2, 1, 250, 16),
        AttentionCase { window: Some(1), ..case(4, 2, 64, 16) },
        AttentionCase { window: Some(9), ..case(4, 2, 64, 16) },
        AttentionCase { window: Some(100), softcap: Some(5.0), ..case(8, 4, 128, 32) },
        AttentionCase { softcap: Some(2.0), rotary: 32, ..case(8, 4, 128, 16) },
        AttentionCase { rotary: 0, ..case(12, 12, 64, 16) },
        AttentionCase { growth, ..case(8, 2, 128, 16) },
        AttentionCase { growth: ahead, rotary: 0, ..case(8, 2, 64, 16) },
        AttentionCase { growth, rotary: 32, ..case(4, 2, 64, 16) },
        AttentionCase { growth, rotary: 10, ..case(3, 1, 20, 16) },
    ]
}

/// Prefill, then chunks and single rows mixed, then single rows: q, k after rope, and the output,
/// each step.
#[test]
fn attention_over_mixed_steps() {
    each_type(|dtype| KV_TYPES.into_iter().for_each(|kv| mixed_steps(dtype, kv)));
}

fn mixed_steps(dtype: DType, kv: Option<KvType>) {
    for (n, c) in attention_cases().iter().enumerate() {
        let AttentionCase { heads, kv_heads, dim, page_size, window, softcap, rotary, growth } = *c;
        let case = format!(
            "attention {n}: {heads}/{kv_heads} x {dim}, pages of {page_size}, \
                 window {window:?}, cap {softcap:?}, rotary {rotary}, {growth:?}, pages {kv:?}"
        );
        let setup = Setup { page_size, kv_heads, head_dim: dim, kv, ..Setup::default() };
        compare!(dtype, &setup, &case, slack(dtype, kv, rotary), |b| {
            let width = (heads + 2 * kv_heads) * dim;
            let table = b.table(17, 300, width);
            let spec = AttnSpec { window, softcap, ..plain([heads, kv_heads, dim], kv) };
            let rope = Rope { growth, ..turns(rotary) };
            let rope = Some(&rope).filter(|_| rotary > 0 || growth.is_some());

            let mut results = Vec::new();
            for step in [&[37, 1, 64][..], &[1, 20, 1], &[1, 1, 1], &[0, 70, 1], &[1, 1, 1]] {
                let rows = step.iter().sum();
                let mut qkv = b.tensor(rows, width);
                let mut out = b.tensor(rows, heads * dim);

                b.feed(step);
                b.dev.embed(&table, 1.0, &mut qkv)?;
                for layer in 0..2 {
                    b.dev.rope_store(layer, &spec, rope, &mut qkv)?;
                    results.push(("q, k after rope", b.dev.read(&qkv, rows)?));
                    b.dev.attend(layer, &spec, None, &qkv, &mut out)?;
                    results.push(("attend", b.dev.read(&out, rows)?));
                }
            }
            Ok(results)
        });
    }
}

/// Contexts long enough that the keys of single tokens are cut into parts, ragged on purpose.
#[test]
fn attention_over_long_contexts() {
    each_type(|dtype| {
        let shapes =
            [(8, 2, 128, None), (4, 4, 64, Some(700)), (20, 1, 80, None), (8, 4, 256, Some(64))];
        let all = shapes.into_iter().flat_map(|shape| KV_TYPES.map(|kv| (shape, kv)));
        for ((heads, kv_heads, dim, window), kv) in all {
            let case = format!("long {heads}/{kv_heads} x {dim}, window {window:?}, pages {kv:?}");
            let setup = Setup {
                kv_heads,
                head_dim: dim,
                max_model_len: 2100,
                step_tokens: 700,
                kv,
                ..Setup::default()
            };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(26, 700, width);
                let spec = AttnSpec { window, ..plain([heads, kv_heads, dim], kv) };

                let mut results = Vec::new();
                let mut qkv = b.tensor(700, width);
                let mut out = b.tensor(700, heads * dim);
                for (n, step) in
                    [&[1, 1][..], &[640, 60], &[600, 1], &[689, 1, 2], &[1, 1, 1], &[1, 1, 5, 300]]
                        .iter()
                        .enumerate()
                {
                    let rows = step.iter().sum();
                    b.feed(step);
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.rope_store(0, &spec, None, &mut qkv)?;
                    b.dev.attend(0, &spec, None, &qkv, &mut out)?;

                    if n > 2 {
                        results.push(("attend", b.dev.read(&out, rows)?));
                    }
                }
                Ok(results)
            });
        }
    });
}

/// Many sequences that begin with the same pages, so many that their keys are read once for all of
/// them: of several tiles of rows, some with a beginning of their own, beside prompts, windows that
/// reach into what is shared, cut it or begin behind it.
#[test]
fn attention_over_keys_that_sequences_share() {
    // Heads, a window, a cap; sequences, pages of 16 in common.
    let cases = [
        ([32, 8, 128], None, None, 19, 35),
        ([32, 8, 128], Some(300), Some(5.0), 19, 35),
        ([32, 8, 128], Some(20), None, 19, 35),
        ([14, 2, 64], None, None, 37, 130),
        ([16, 2, 128], None, Some(2.0), 35, 70),
        ([4, 4, 128], Some(600), None, 70, 40),
    ];
    each_type(|dtype| {
        for (heads, window, softcap, slots, pages) in cases {
            // On the CPU all keys are read anyway.
            if grader::small_shapes() && (window.is_some() || pages > 40) {
                continue;
            }
            let case = format!("{slots} of {heads:?} share {pages} pages, window {window:?}");
            let [q_heads, kv_heads, dim] = heads;
            let setup = Setup {
                slots: slots + 1,
                kv_heads,
                head_dim: dim,
                max_model_len: 16 * pages + 300,
                step_tokens: 16 * pages + 4096,
                ..Setup::default()
            };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (q_heads + 2 * kv_heads) * dim;
                let table = b.table(31, setup.step_tokens, width);
                let spec = AttnSpec { window, softcap, ..plain(heads, None) };
                let mut qkv = b.tensor(setup.step_tokens, width);
                let mut out = b.tensor(setup.step_tokens, q_heads * dim);

                // The last sequence has a beginning of its own.
                let own = |n: usize| if n == slots { 90 } else { 1 + n * n * 7 % 101 };
                let mut first = vec![0; slots + 1];
                first[0] = 16 * pages + own(0);
                let rest = (0..=slots).map(|n| if n > 0 { own(n) } else { 1 }).collect();
                let mut beside = vec![1; slots + 1];
                (beside[3], beside[slots]) = (40, 0);
                let single = vec![1; slots + 1];
                let mut results = Vec::new();
                for (n, step) in
                    [first, rest, single.clone(), beside, single.clone(), single].iter().enumerate()
                {
                    if n == 1 {
                        (1..slots).for_each(|slot| b.open_behind(slot, 0, pages));
                    }
                    b.feed(step);
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.rope_store(0, &spec, Some(&turns(dim)), &mut qkv)?;
                    b.dev.attend(0, &spec, None, &qkv, &mut out)?;
                    if n > 0 {
                        results.push(("attend", b.dev.read(&out, step.iter().sum())?));
                    }
                }
                Ok(results)
            });
        }
    });
}

/// Recorded steps read shared keys once where their sequences share any, and go back and forth
/// between both: what comes of it is what launches leave that read all keys for each sequence.
#[test]
fn steps_that_share_keys_are_replayed() {
    if !grader::gpu() {
        return;
    }
    const SLOTS: usize = 6;
    let run = |least_bytes: usize, replays: bool| {
        let setup = Setup {
            slots: SLOTS,
            kv_heads: 2,
            head_dim: 128,
            max_model_len: 400,
            step_tokens: 700,
            ..Setup::default()
        };
        let mut b = Bench::<Cuda>::new(DType::BF16, &setup);
        b.dev.share_keys_from(least_bytes);
        let spec = plain([8, 2, 128], None);
        let width = (8 + 2 * 2) * 128;
        let table = b.table(33, setup.step_tokens, width);
        let mut qkv = b.tensor(setup.step_tokens, width);
        let mut out = b.tensor(setup.step_tokens, 8 * 128);
        let mut step = |b: &mut Bench<Cuda>, step: &[usize]| {
            b.feed(step);
            b.dev.embed(&table, 1.0, &mut qkv).unwrap();
            b.dev.rope_store(0, &spec, Some(&turns(128)), &mut qkv).unwrap();
            b.dev.attend(0, &spec, None, &qkv, &mut out).unwrap();
            b.dev.forwarded().unwrap();
            b.dev.read(&out, step.iter().sum()).unwrap()
        };

        step(&mut b, &[170, 1, 1, 1, 1, 1]);
        if replays {
            b.dev.steady();
        }
        let mut results = Vec::new();
        for pages in [10, 0, 5] {
            for slot in 1..SLOTS {
                match pages {
                    0 => b.open(slot, &[], Arc::default()),
                    _ => b.open_behind(slot, 0, pages),
                }
            }
            step(&mut b, &[0, 1, 30, 7, 70, 12]);
            // Their pages end at different steps.
            (0..20).for_each(|_| results.push(step(&mut b, &[1; SLOTS])));
        }
        (results, [b.dev.sharing_steps(), b.dev.replayed_steps()], b.dev.info().name)
    };

    let (apart, counts, name) = run(usize::MAX, false);
    assert_eq!(counts, [0, 0]);
    let (shared, counts, _) = run(1, true);
    // Of each kind the first step is launched, the second recorded.
    let expected = if name.contains("sm_90") { [40, 60 - 2 * 2] } else { [0, 60 - 2] };
    assert_eq!(counts, expected, "{name}");
    for (n, (a, b)) in apart.iter().zip(&shared).enumerate() {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 0.01, "step {n}: {apart}");
    }
}

/// Images whose tokens see each other: shorter than a tile and longer, than the window too, at the
/// edges of chunks, alone in one, and among single tokens.
#[test]
fn attention_over_images_that_are_seen_both_ways() {
    let spans = [(5, 6, 7), (60, 16, 16), (410, 1, 1), (411, 1, 2), (420, 10, 30)];
    let images = |spans: &[(usize, usize, usize)]| {
        let span = |&(start, rows, columns): &(usize, usize, usize)| ImageSpan {
            start,
            rows,
            columns,
            first: 0,
            patches: Arc::new(PatchRows {
                rows,
                columns,
                tokens: rows * columns,
                tiles: 1,
                arranged: None,
                width: 0,
                bytes: Vec::new(),
                numbers: Arc::new([[0.0; 256]; 3]),
                hash: [start as u8; 32],
            }),
        };
        Arc::new(PromptImages {
            spans: spans.iter().map(span).collect(),
            both_ways: BothWays::Always,
        })
    };
    each_type(|dtype| {
        let shapes = [
            (8, 2, 128, None),
            (8, 4, 256, Some(24)),
            (3, 3, 64, Some(100)),
            (6, 2, 80, None),
            (2, 1, 32, Some(40)),
            (2, 1, 128, Some(40)),
        ];
        let all = shapes.into_iter().flat_map(|shape| KV_TYPES.map(|kv| (shape, kv)));
        for ((heads, kv_heads, dim, window), kv) in all {
            if grader::small_shapes() && heads > 3 {
                continue;
            }
            let case = format!("images {heads}/{kv_heads} x {dim}, window {window:?}, {kv:?}");
            let setup = Setup {
                kv_heads,
                head_dim: dim,
                max_model_len: 1100,
                step_tokens: 480,
                kv,
                ..Setup::default()
            };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(27, 480, width);
                let spec = AttnSpec { window, ..plain([heads, kv_heads, dim], kv) };

                let mut results = Vec::new();
                let mut qkv = b.tensor(480, width);
                let mut out = b.tensor(480, heads * dim);
                let steps: [&[usize]; 7] =
                    [&[3, 2], &[400, 1, 60], &[1, 1, 1], &[7, 1, 1], &[2, 1, 1], &[7], &[301, 90]];
                for (n, step) in steps.into_iter().enumerate() {
                    let rows = step.iter().sum();
                    match n {
                        1 => b.feed_images(step, images(&spans)),
                        _ => b.feed(step),
                    }
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.rope_store(0, &spec, None, &mut qkv)?;
                    b.dev.attend(0, &spec, None, &qkv, &mut out)?;
                    results.push(("attend", b.dev.read(&out, rows)?));
                }
                Ok(results)
            });
        }
    });
}

/// More sequences than blocks of the split kernel, so that a block has several: some whole, some in
/// part.
#[test]
fn attention_over_many_sequences() {
    each_type(|dtype| {
        let shapes = [(8, 8, 64, 160), (20, 4, 128, 260)];
        let all = shapes.into_iter().flat_map(|shape| KV_TYPES.map(|kv| (shape, kv)));
        for ((heads, kv_heads, dim, slots), kv) in all {
            if grader::small_shapes() && slots > 200 {
                continue;
            }

            let case = format!("{slots} sequences, {heads}/{kv_heads} x {dim}, pages {kv:?}");
            let lengths: Vec<usize> =
                (0..slots).map(|n| n * n * 29 % 97 + n % 50 / 49 * 900).collect();
            let setup = Setup {
                slots,
                kv_heads,
                head_dim: dim,
                max_model_len: 1100,
                step_tokens: lengths.iter().sum(),
                kv,
                ..Setup::default()
            };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(27, setup.step_tokens, width);
                let spec = plain([heads, kv_heads, dim], kv);

                let mut results = Vec::new();
                let mut qkv = b.tensor(setup.step_tokens, width);
                let mut out = b.tensor(setup.step_tokens, heads * dim);
                for step in [lengths.clone(), vec![1; slots], vec![1; slots]] {
                    let rows = step.iter().sum();
                    b.feed(&step);
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.rope_store(0, &spec, None, &mut qkv)?;
                    b.dev.attend(0, &spec, None, &qkv, &mut out)?;
                    results.push(("attend", b.dev.read(&out, rows)?));
                }
                Ok(results)
            });
        }
    });
}

/// Pages hold NaN behind the last position, of tokens that were taken back.
#[test]
fn attention_ignores_what_lies_behind_the_end() {
    each_type(|dtype| {
        let shapes = [
            (8, 2, 128, None),
            (16, 1, 128, None),
            (4, 4, 64, Some(20)),
            (8, 4, 256, None),
            (8, 2, 80, None),
        ];
        let all = shapes.into_iter().flat_map(|shape| KV_TYPES.map(|kv| (shape, kv)));
        for ((heads, kv_heads, dim, window), kv) in all {
            let case = format!("behind {heads}/{kv_heads} x {dim}, window {window:?}, {kv:?}");
            let setup = Setup { page_size: 32, kv_heads, head_dim: dim, kv, ..Setup::default() };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(28, 120, width);
                let nothing = b.given(WeightKind::Table, &vec![f32::NAN; 120 * width], width);
                let spec = AttnSpec { window, ..plain([heads, kv_heads, dim], kv) };

                let mut results = Vec::new();
                let mut qkv = b.tensor(120, width);
                let mut out = b.tensor(120, heads * dim);
                let steps: [&[usize]; 6] =
                    [&[3, 2], &[75, 40], &[37, 5], &[1, 1], &[20, 1], &[1, 1]];
                for (n, step) in steps.into_iter().enumerate() {
                    if n == 2 {
                        b.truncate(0, 3);
                        b.truncate(1, 2);
                    }
                    b.feed(step);
                    b.dev.embed(if n == 1 { &nothing } else { &table }, 1.0, &mut qkv)?;
                    b.dev.rope_store(0, &spec, None, &mut qkv)?;
                    b.dev.attend(0, &spec, None, &qkv, &mut out)?;
                    if n != 1 {
                        results.push(("attend", b.dev.read(&out, step.iter().sum())?));
                    }
                }
                Ok(results)
            });
        }
    });
}

/// `[heads, kv_heads, dim]`, a window, a chunk.
type Reach = ([usize; 3], Option<usize>, Option<usize>);

/// Pages of other sizes, all of which held NaN before. Prompts end at every place within a page and
/// a tile, after what is in pages.
#[test]
fn attention_over_pages_that_held_nan() {
    let cases: [(Reach, &[usize]); 5] = [
        (([4, 1, 128], None, None), &[8, 16, 24, 32, 48, 64, 128]),
        (([7, 1, 64], Some(50), None), &[16, 24, 128]),
        (([4, 2, 256], None, None), &[16, 24, 64]),
        (([4, 2, 128], None, Some(96)), &[16, 64]),
        (([2, 2, 64], None, Some(32)), &[8, 48]),
    ];
    let steps = [[37, 200, 65, 128], [90, 19, 180, 1], [128, 100, 17, 190], [1; 4]];
    each_type(|dtype| {
        let all = cases.iter().flat_map(|&(shape, sizes)| sizes.iter().map(move |&n| (shape, n)));
        for (reach, page_size) in all {
            let [.., dim] = reach.0;
            if grader::small_shapes() && !matches!((dim, page_size), (128, 24) | (64, 48)) {
                continue;
            }
            after_nan(dtype, reach, page_size, &steps);
        }
    });
}

/// Prompts that all have an even number of tiles of rows, 128 or 192 at head size 64: on Hopper
/// clusters of two blocks take them, of which the second one's rows may end anywhere.
#[test]
fn attention_by_pairs_of_blocks() {
    let fours = [[64, 33, 120, 185], [40, 128, 60, 97], [128, 64, 122, 33], [1; 4]];
    let twos = [[65, 128, 200, 90], [100, 70, 120, 128], [128, 127, 1, 66], [1; 4]];
    let sevens = [[54, 28, 109, 83], [40, 100, 30, 90], [28, 29, 30, 1], [1; 4]];
    let cases: [(Reach, &[usize], _); 5] = [
        (([4, 1, 128], None, None), &[8, 16, 128], fours),
        (([8, 2, 128], Some(70), None), &[24, 64], fours),
        (([4, 2, 128], None, Some(96)), &[16], twos),
        (([4, 2, 256], None, None), &[16, 48], twos),
        (([7, 1, 64], None, None), &[16, 32], sevens),
    ];
    each_type(|dtype| {
        for (reach, sizes, steps) in &cases {
            for &page_size in sizes.iter() {
                if !grader::small_shapes() || page_size == 16 {
                    after_nan(dtype, *reach, page_size, steps);
                }
            }
        }
    });
}

/// Such steps of four sequences over a pool all of whose pages held NaN.
fn after_nan(dtype: DType, reach: Reach, page_size: usize, steps: &[[usize; 4]]) {
    let ([heads, kv_heads, dim], window, chunk) = reach;
    let case =
        format!("{heads}/{kv_heads} x {dim}, pages of {page_size}, window {window:?}, {chunk:?}");
    let setup = Setup {
        page_size,
        kv_heads,
        head_dim: dim,
        max_model_len: 384,
        step_tokens: 4 * 384,
        ..Setup::default()
    };
    compare!(dtype, &setup, &case, 1.0, |b| {
        let width = (heads + 2 * kv_heads) * dim;
        let table = b.table(29, setup.step_tokens, width);
        let spec = AttnSpec { window, chunk, ..plain([heads, kv_heads, dim], None) };

        // Two rounds of the longest sequences go through all pages of the pool.
        let mut qkv = b.tensor(setup.step_tokens, width);
        let mut out = b.tensor(setup.step_tokens, heads * dim);
        for _ in 0..2 {
            b.feed_new(&[setup.max_model_len; 4]);
            b.dev.rope_store(0, &spec, None, &mut qkv)?;
        }

        let mut results = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            let rows = step.iter().sum();
            match n {
                0 => b.feed_new(step),
                _ => b.feed(step),
            }
            b.dev.embed(&table, 1.0, &mut qkv)?;
            b.dev.rope_store(0, &spec, None, &mut qkv)?;
            b.dev.attend(0, &spec, None, &qkv, &mut out)?;
            results.push(("attend", b.dev.read(&out, rows)?));
        }
        Ok(results)
    });
}
