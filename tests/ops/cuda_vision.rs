//! The ops of vision towers on the GPU against the CPU device. Part of `cuda_ops`.

use std::sync::Arc;

use super::*;
use crate::grader::{small_shapes, Random};
use triton_vllm::device::{PatchOf, RowBlend, RowCopy, Seam, Span, TowerLimits, TowerRows};
use triton_vllm::plan::PatchRows;

const LIMITS: TowerLimits = TowerLimits {
    rows: 700,
    patch_width: 588,
    angles: 128,
    places: false,
    gate_up: 64,
    copies: 64,
    blends: 64,
};

/// An image of random bytes in patches of `width`.
fn image(seed: u64, rows: usize, columns: usize, width: usize) -> Arc<PatchRows> {
    let mut random = Random(seed);
    let bytes = (0..rows * columns * width).map(|_| random.next() as u8).collect();
    let number = |colour: usize, byte: usize| (byte as f32 - 100.0) / (50.0 + colour as f32);
    let numbers = std::array::from_fn(|colour| std::array::from_fn(|byte| number(colour, byte)));
    let hash = [seed as u8; 32];
    let (tiles, tokens, arranged, numbers) = (1, rows * columns, None, Arc::new(numbers));
    Arc::new(PatchRows { rows, columns, tiles, tokens, arranged, width, bytes, numbers, hash })
}

/// `rows` rows of one image, cut at these ends.
fn rows(width: usize, angles: usize, window_ends: &[usize], image_ends: &[usize]) -> TowerRows {
    let count = *image_ends.last().unwrap();
    let mut random = Random(5);
    TowerRows {
        images: vec![image(3, 1, count, width)],
        patches: (0..count).map(|patch| PatchOf { image: 0, patch }).collect(),
        angles: (0..count * angles).map(|_| 40.0 * random.signed()).collect(),
        corners: Vec::new(),
        window_ends: window_ends.to_vec(),
        image_ends: image_ends.to_vec(),
    }
}

fn heads(heads: usize, head_dim: usize) -> AttnSpec {
    let usual = heads_of([heads, heads, head_dim]);
    AttnSpec { scale: 3.0 * usual.scale, ..usual }
}

/// (window ends, image ends): single rows, parts of tiles, whole ones, and one more.
const SPANS: [(&[usize], &[usize]); 5] = [
    (&[1], &[1]),
    (&[4, 5, 9], &[9]),
    (&[64, 128, 129], &[1, 129]),
    (&[16, 80, 145], &[128, 145]),
    (&[63, 64, 130, 150], &[70, 150]),
];

#[test]
fn attention_within_spans() {
    each_type(|dtype| {
        // Every tile, those with a rest, and sizes that have none.
        for dim in [64, 80, 96, 128, 16, 72, 88, 104, 5, 20, 160] {
            let case = format!("attend_spans, heads of {dim}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let spec = heads(3, dim);
                let limits = TowerLimits { angles: dim / 2, patch_width: 6, ..LIMITS };
                b.dev.reserve_tower(&limits)?;
                let mut results = Vec::new();
                for (windows, images) in SPANS {
                    let count = *images.last().unwrap();
                    let qkv = b.input(count, spec.row_width(), 71);
                    let mut out = b.tensor(count, spec.q_width());
                    b.dev.begin_tower(rows(6, dim / 2, windows, images))?;
                    for span in [Span::Window, Span::Image] {
                        b.dev.attend_spans(&spec, span, &qkv, &mut out)?;
                        results.push(("attend_spans", b.dev.read(&out, count)?));
                    }
                    b.dev.end_rows();
                }
                Ok(results)
            });
        }
    });
}

/// Many keys, as of a picture.
#[test]
fn attention_over_an_image() {
    each_type(|dtype| {
        let count = if small_shapes() { 333 } else { 1333 };
        let setup = Setup { step_tokens: count, max_model_len: 2048, ..Setup::default() };
        compare!(dtype, &setup, "attend_spans over an image", 1.0, |b| {
            let spec = heads(2, 80);
            let limits = TowerLimits { rows: count, angles: 40, patch_width: 6, ..LIMITS };
            b.dev.reserve_tower(&limits)?;
            let qkv = b.input(count, spec.row_width(), 72);
            let mut out = b.tensor(count, spec.q_width());
            b.dev.begin_tower(rows(6, 40, &[count], &[count]))?;
            b.dev.attend_spans(&spec, Span::Image, &qkv, &mut out)?;
            Ok(vec![("attend_spans", b.dev.read(&out, count)?)])
        });
    });
}

#[test]
fn patches_of_several_images() {
    each_type(|dtype| {
        for width in [6, 588, 300] {
            let case = format!("put_patches of {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let limits = TowerLimits { angles: 0, patch_width: width, ..LIMITS };
                b.dev.reserve_tower(&limits)?;
                b.feed(&[1]);
                let images = vec![image(1, 3, 5, width), image(2, 1, 2, width)];
                // Behind the last patch of an image: a row of zeros.
                let patch = |n: usize| PatchOf { image: n % 2, patch: n * 7 % [16, 3][n % 2] };
                let patches: Vec<PatchOf> = (0..33).map(patch).collect();

                let ends = vec![patches.len()];
                let mut out = b.tensor(patches.len(), width);
                let count = patches.len();
                b.dev.begin_tower(TowerRows {
                    images,
                    patches,
                    angles: Vec::new(),
                    corners: Vec::new(),
                    window_ends: ends.clone(),
                    image_ends: ends,
                })?;
                b.dev.put_patches(&mut out)?;
                let got = b.dev.read(&out, count)?;
                b.dev.end_rows();
                Ok(vec![("put_patches", got)])
            });
        }
    });
}

#[test]
fn turns_by_angles() {
    each_type(|dtype| {
        for dim in [2, 20, 64, 72, 80, 256] {
            let case = format!("turn_rows, heads of {dim}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let spec = heads(3, dim);
                b.dev.reserve_tower(&TowerLimits { angles: dim / 2, patch_width: 6, ..LIMITS })?;
                let mut results = Vec::new();
                let bias = b.vector(74, spec.row_width());
                for (count, bias) in [(1, None), (37, None), (1, Some(&bias)), (37, Some(&bias))] {
                    let mut qkv = b.input(count, spec.row_width(), 73);
                    b.dev.begin_tower(rows(6, dim / 2, &[count], &[count]))?;
                    b.dev.turn_rows(&spec, bias, &mut qkv)?;
                    results.push(("turn_rows", b.dev.read(&qkv, count)?));
                    b.dev.end_rows();
                }
                Ok(results)
            });
        }
    });
}

/// Of few rows the product has the bias, of many the norm; the residual has it once.
#[test]
fn products_with_a_bias_before_a_norm() {
    each_type(|dtype| {
        for (count, width) in [(5, 64), (100, 64), (100, 264), (70, 33), (100, 4104)] {
            for kind in [NormKind::Layer, NormKind::Rms] {
                let case = format!("linear_add_norm of {count} x {width}, {kind:?}");
                compare!(dtype, &Setup::default(), &case, 2.0, |b| {
                    b.dev.reserve_tower(&LIMITS)?;
                    let (weight, bias) = (b.linear(81, width, 40), b.vector(82, width));
                    let norm_bias = Some(b.vector(84, width));
                    let norm =
                        Norm { kind, eps: 1e-5, weight: b.vector(83, width), bias: norm_bias };
                    let x = b.input(count, 40, 85);
                    let mut residual = b.input(count, width, 86);
                    let mut delta = b.tensor(count, width);
                    let mut normed = b.tensor(count, width);

                    let (d, r, n) = (&mut delta, &mut residual, &mut normed);
                    let seam = Seam { norm: &norm, delta: d, residual: r, normed: n, next: None };
                    b.dev.begin_rows(count)?;
                    b.dev.linear_add_norm(&weight, Some(&bias), &x, seam)?;
                    let residual = b.dev.read(&residual, count)?;
                    let normed = b.dev.read(&normed, count)?;
                    b.dev.end_rows();
                    Ok(vec![("residual", residual), ("normed", normed)])
                });
            }
        }
    });
}

#[test]
fn places_between_corners() {
    each_type(|dtype| {
        for width in [8, 33, 260] {
            let case = format!("add_places of {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                b.dev.reserve_tower(&TowerLimits {
                    angles: 0,
                    places: true,
                    patch_width: 6,
                    ..LIMITS
                })?;
                let table = b.table(77, 25, width);
                let mut x = b.input(37, width, 76);
                let mut random = Random(9);
                let mut corner = |n: usize| ((n * 7 + random.next() as usize % 5) % 25, 0.3);
                let mut given = rows(6, 0, &[37], &[37]);
                given.corners =
                    (0..37).map(|n| [corner(n), (24, 0.5), corner(n + 1), (0, -0.1)]).collect();

                b.dev.begin_tower(given)?;
                b.dev.add_places(&table, &mut x)?;
                let got = b.dev.read(&x, 37)?;
                b.dev.end_rows();
                Ok(vec![("add_places", got)])
            });
        }
    });
}

/// Rows that nobody copies stay, and ops over fewer rows touch no others.
#[test]
fn copies_and_joins() {
    each_type(|dtype| {
        for width in [8, 24, 5, 1030] {
            let case = format!("copy_rows and join_rows of {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                b.dev.reserve_tower(&LIMITS)?;
                let mut means = b.input(13, width, 76);
                let x = b.input(36, width, 74);
                let mut out = b.input(40, width, 75);
                let copies: Vec<RowCopy> =
                    (0..30).map(|n| RowCopy { from: n * 5 % 36, to: n + 7 }).collect();
                b.dev.copy_rows(&x, &copies, &mut out)?;
                b.dev.copy_rows(&x, &[], &mut out)?;
                b.dev.copy_rows(&x, &[RowCopy { from: 35, to: 0 }], &mut out)?;
                let copied = b.dev.read(&out, 40)?;
                b.dev.add_rows(&x, &copies, &mut out)?;
                let added = b.dev.read(&out, 40)?;

                let mut joined = b.tensor(9, 4 * width);
                b.dev.begin_rows(36)?;
                b.dev.join_rows(4, &x, &mut joined)?;
                let joined = b.dev.read(&joined, 9)?;
                b.dev.mean_rows(3, &x, &mut means)?;
                // The last one is none.
                let read = b.dev.read(&means, 13)?;
                let (bias, scale) = (b.vector(77, width), b.vector(78, width));
                b.dev.begin_rows(12)?;
                b.dev.standardise(3.5, &bias, &scale, &mut means)?;
                let standard = b.dev.read(&means, 13)?;
                b.dev.end_rows();
                Ok(vec![
                    ("copy_rows", copied),
                    ("add_rows", added),
                    ("join_rows", joined),
                    ("mean_rows", read),
                    ("standardise", standard),
                ])
            });
        }
    });
}

/// Copies of rows, of a table's rows behind them, and shares of four. What counts 0 is not read.
#[test]
fn rows_made_of_others() {
    each_type(|dtype| {
        for width in [8, 33, 260, 1030] {
            let case = format!("blend_rows of {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                b.dev.reserve_tower(&LIMITS)?;
                let table = b.table(78, 2, width);
                let x = b.input(36, width, 74);
                let mut out = b.input(40, width, 75);
                let nothing = (usize::from(u16::MAX), 0.0);
                let blend = |n: usize| RowBlend {
                    of: match n % 3 {
                        0 => [(n * 5 % 30, 1.0), nothing, nothing, nothing],
                        1 => [(30 + n % 2, 1.0), nothing, nothing, nothing],
                        _ => [(n, 0.25), (n * 7 % 30, 0.5), (3, 0.125), (29, 0.0)],
                    },
                    to: n + 7,
                };
                let blends: Vec<RowBlend> = (0..30).map(blend).collect();
                // The table's rows stand behind the first thirty.
                b.dev.blend_rows(&x, 30, &table, &blends, &mut out)?;
                let got = b.dev.read(&out, 40)?;
                Ok(vec![("blend_rows", got)])
            });
        }
    });
}

/// Beyond what was reserved, and rows that do not fit each other.
#[test]
fn what_does_not_fit_is_refused() {
    each_type(|dtype| {
        let mut b = Bench::<Cuda>::new(dtype, &Setup::default());
        let mut refuses = |rows: TowerRows| assert!(b.dev.begin_tower(rows).is_err());
        refuses(rows(6, 2, &[4], &[4]));
        b.dev.reserve_tower(&TowerLimits { rows: 8, angles: 2, patch_width: 6, ..LIMITS }).unwrap();
        let mut refuses = |rows: TowerRows| assert!(b.dev.begin_tower(rows).is_err());
        refuses(rows(6, 2, &[9], &[9]));
        refuses(rows(6, 3, &[4], &[4]));
        refuses(rows(9, 2, &[4], &[4]));
        refuses(rows(6, 2, &[3], &[4]));
        refuses(TowerRows::default());
        b.dev.begin_tower(rows(6, 2, &[4], &[4])).unwrap();
    });
}
