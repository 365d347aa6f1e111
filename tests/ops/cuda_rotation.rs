//! Rotation and store of single tokens as part of attention: steps that have nothing else, between
//! steps whose rotation is a launch of its own, which read what was stored. Against the CPU device.
//! Part of `cuda_ops`.

use super::*;

/// Heads, how much of them is rotated, and what else changes which keys are seen or how q grows.
struct Case {
    heads: [usize; 3],
    rotary: usize,
    window: Option<usize>,
    page_size: usize,
    growth: Option<QueryGrowth>,
}

fn cases() -> Vec<Case> {
    let case = |heads, rotary| Case { heads, rotary, window: None, page_size: 16, growth: None };
    let growth = Some(QueryGrowth { beta: 0.3, ahead: 1, length: 64 });
    vec![
        case([8, 2, 128], 128),
        case([4, 4, 64], 64),
        case([14, 2, 64], 64),
        case([8, 4, 256], 256),
        case([3, 1, 128], 0),
        // Parts of a head: eights of it, and others, which stay apart.
        case([4, 1, 128], 32),
        case([4, 1, 256], 96),
        case([4, 1, 128], 40),
        // More q heads of a KV head than are rotated on the way.
        case([12, 1, 64], 64),
        Case { window: Some(20), ..case([8, 2, 128], 128) },
        Case { page_size: 48, growth, ..case([8, 1, 128], 128) },
        Case { page_size: 32, growth, ..case([4, 2, 64], 32) },
    ]
}

#[test]
fn rotation_within_attention() {
    each_type(|dtype| {
        for case in cases() {
            // One sequence, some, and more than fit beside each other.
            for slots in [1, 3, 40] {
                if grader::small_shapes() && slots > 3 {
                    continue;
                }
                rotation(dtype, &case, slots);
            }
        }
    });
}

fn rotation(dtype: DType, case: &Case, slots: usize) {
    let Case { heads: [heads, kv_heads, dim], rotary, window, page_size, growth } = *case;
    // Of the first step, short of a page's end, which the next ones go over. A long one is cut
    // among many blocks; once is enough for the CPU.
    let longest = if heads == 3 { 1100 } else { 300 };
    let length = |n| if n == 2 { longest } else { n * 37 % 90 + page_size - 2 };
    let lengths: Vec<usize> = (0..slots).map(length).collect();
    let ones = vec![1; slots];
    let mut several = ones.clone();
    several[0] = 5;

    let name = format!(
        "{slots} sequences, {heads}/{kv_heads} x {dim}, rotary {rotary}, window {window:?}, \
         pages of {page_size}, {growth:?}"
    );
    let setup = Setup {
        slots,
        page_size,
        kv_heads,
        head_dim: dim,
        max_model_len: longest + 30,
        step_tokens: lengths.iter().sum(),
        ..Setup::default()
    };
    compare!(dtype, &setup, &name, 1.0, |b| {
        let width = (heads + 2 * kv_heads) * dim;
        let table = b.table(31, setup.step_tokens, width);
        let spec = AttnSpec { window, ..heads_of([heads, kv_heads, dim]) };
        let rope = Rope { growth, ..turns(rotary) };
        let rope = Some(&rope).filter(|_| rotary > 0 || growth.is_some());

        let mut results = Vec::new();
        let mut qkv = b.tensor(setup.step_tokens, width);
        let mut out = b.tensor(setup.step_tokens, heads * dim);
        let steps = [&lengths, &ones, &ones, &several, &ones, &ones, &ones];
        for (n, step) in steps.into_iter().enumerate() {
            let rows = step.iter().sum();
            b.feed(step);
            for layer in 0..2 {
                b.dev.embed(&table, 1.0, &mut qkv)?;
                b.dev.rope_store(layer, &spec, rope, &mut qkv)?;
                if n == 5 {
                    // Who reads it has it rotated.
                    results.push(("q, k after rope", b.dev.read(&qkv, rows)?));
                }
                b.dev.attend(layer, &spec, None, &qkv, &mut out)?;
                if n > 0 {
                    results.push(("attend", b.dev.read(&out, rows)?));
                }
            }
        }
        Ok(results)
    });
}
