//! The ops of models that embed on the GPU against the CPU device. Part of `cuda_ops`.

use super::*;
use crate::grader::Graded;
use triton_vllm::device::Pooling;

/// (heads, kv_heads, head_dim, softcap); head sizes that no load of 16 bytes fits too.
const SHAPES: [(usize, usize, usize, Option<f32>); 8] = [
    (4, 4, 16, None),
    (12, 12, 32, None),
    (12, 12, 64, Some(3.0)),
    (4, 2, 128, None),
    (2, 1, 256, None),
    (3, 1, 20, None),
    (2, 2, 5, None),
    (2, 2, 250, Some(2.0)),
];

/// To both sides; the first leaves a row alone, the last sees whole texts.
const WINDOWS: [Option<usize>; 6] = [None, Some(1), Some(2), Some(17), Some(64), Some(1000)];

/// Lengths around the rounds of the kernel's loop, and single tokens.
const TEXTS: [&[usize]; 5] = [&[1], &[16, 17, 1, 33], &[1, 1, 1], &[150], &[64, 1, 63]];

#[test]
fn attention_over_whole_sequences() {
    each_type(|dtype| {
        let windows = WINDOWS.into_iter().cycle();
        for ((heads, kv_heads, dim, softcap), window) in
            SHAPES.into_iter().cycle().zip(windows).take(3 * SHAPES.len())
        {
            let case = format!(
                "attend_all {heads}/{kv_heads} x {dim}, window {window:?}, cap {softcap:?}"
            );
            let setup = Setup { kv_heads, head_dim: dim, ..Setup::default() };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(41, 170, width);
                let spec = AttnSpec { window, softcap, ..heads_of([heads, kv_heads, dim]) };

                let mut results = Vec::new();
                for lengths in TEXTS {
                    let rows = lengths.iter().sum();
                    let mut qkv = b.tensor(rows, width);
                    let mut out = b.tensor(rows, heads * dim);
                    b.feed_new(lengths);
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.attend_all(&spec, &qkv, &mut out)?;
                    results.push(("attend_all", b.dev.read(&out, rows)?));
                }
                Ok(results)
            });
        }
    });
}

/// Rotation without pages: what `attend_all` reads then.
#[test]
fn rotation_without_pages() {
    each_type(|dtype| {
        for (heads, kv_heads, dim, rotary) in
            [(4, 4, 16, 16), (12, 12, 64, 64), (3, 1, 256, 256), (4, 2, 80, 32), (3, 1, 20, 10)]
        {
            let case = format!("rotate {heads}/{kv_heads} x {dim}, {rotary} of them");
            let setup = Setup { kv_heads, head_dim: dim, ..Setup::default() };
            compare!(dtype, &setup, &case, 1.0, |b| {
                let width = (heads + 2 * kv_heads) * dim;
                let table = b.table(44, 170, width);
                let (spec, rope) = (heads_of([heads, kv_heads, dim]), turns(rotary));

                let mut results = Vec::new();
                for lengths in TEXTS {
                    let rows = lengths.iter().sum();
                    let mut qkv = b.tensor(rows, width);
                    b.feed_new(lengths);
                    b.dev.embed(&table, 1.0, &mut qkv)?;
                    b.dev.rotate(&spec, &rope, &mut qkv)?;
                    results.push(("rotate", b.dev.read(&qkv, rows)?));
                }
                Ok(results)
            });
        }
    });
}

/// Vectors as they lie on the device and as a step hands them over, two steps in flight.
#[test]
fn pooling_and_handing_over() {
    each_type(|dtype| {
        for (width, kind) in [8, 63, 384]
            .into_iter()
            .flat_map(|w| [Pooling::First, Pooling::Last, Pooling::Mean].map(|kind| (w, kind)))
        {
            let case = format!("pool {kind:?} x {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let table = b.table(42, 170, width);
                let mut results = Vec::new();
                for pair in TEXTS.windows(2) {
                    let mut lying = Vec::new();
                    for lengths in pair {
                        let rows = lengths.iter().sum();
                        let mut x = b.tensor(rows, width);
                        let mut pooled = b.dev.logits_tensor(lengths.len(), width)?;
                        b.dev.poison(&mut pooled);

                        b.feed_new(lengths);
                        b.dev.embed(&table, 1.0, &mut x)?;
                        b.dev.pool(kind, &x, &mut pooled)?;
                        b.dev.hand_over(&pooled)?;
                        lying.push(b.dev.read(&pooled, lengths.len())?);
                    }

                    for (lengths, lying) in pair.iter().zip(lying) {
                        let result = b.dev.collect()?;
                        let slots = result.samples.iter().map(|s| s.slot.index());
                        assert!(slots.eq(0..lengths.len()), "{case}");
                        assert_eq!(result.vectors.concat(), lying, "{case}");
                        results.push(("vectors", lying));
                    }
                }
                Ok(results)
            });
        }
    });
}

/// A text that began in an earlier step has its last row, and nothing else.
#[test]
fn texts_in_pieces_are_refused() {
    each_type(|dtype| {
        let mut b: Bench<Cuda> = Bench::new(dtype, &Setup::default());
        let table = b.table(43, 170, 16);
        let mut x = b.tensor(9, 16);
        let mut pooled = b.dev.logits_tensor(1, 16).unwrap();
        b.feed(&[3]);
        b.feed(&[4]);
        b.dev.embed(&table, 1.0, &mut x).unwrap();
        b.dev.pool(Pooling::Last, &x, &mut pooled).unwrap();
        let last = b.dev.read(&x, 4).unwrap()[48..].to_vec();
        assert_eq!(b.dev.read(&pooled, 1).unwrap(), last);
        let error = b.dev.pool(Pooling::Mean, &x, &mut pooled).unwrap_err().to_string();
        assert!(error.contains("slot 0 feeds 4 of its 7 tokens"), "{error}");
    });
}
