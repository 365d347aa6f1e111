//! Attention over latent vectors on the GPU against the CPU device: products by the matrices of
//! heads, the store, attention. Widths with tiles and without, heads for both sizes of tiles, parts
//! of long sequences, more sequences than blocks.

use triton_vllm::device::LatentSpec;

use super::*;

/// (heads, rank, rotary, nope, value, page size)
const SHAPES: [(usize, usize, usize, usize, usize, usize); 6] = [
    (16, 512, 64, 128, 128, 16),
    (20, 512, 64, 192, 256, 16),
    (128, 512, 64, 128, 128, 48),
    (5, 512, 64, 40, 24, 16),
    (4, 20, 6, 10, 14, 16),
    (3, 72, 16, 24, 32, 32),
];

/// The rows of a step, and what attention makes of them.
struct Latent<D: Device> {
    spec: LatentSpec,
    value: usize,
    table_q: D::Weight,
    table_latent: D::Weight,
    keys: D::Weight,
    values: D::Weight,
    norm: Norm<D::Weight>,
    rope: Rope,
}

impl<D: grader::Graded> Latent<D> {
    fn new(
        b: &mut Bench<D>,
        (heads, rank, rotary, nope, value, _): (usize, usize, usize, usize, usize, usize),
        rows: usize,
    ) -> Latent<D> {
        let scale = ((nope + rotary) as f32).powf(-0.5);
        let spec = LatentSpec { heads, rank, rotary, nope, scale };
        let inv_freq = (0..rotary / 2).map(|i| 0.6f32.powi(i as i32)).collect();
        Latent {
            spec,
            value,
            table_q: b.table(51, rows, heads * spec.q_dim()),
            table_latent: b.table(52, rows, spec.width()),
            keys: b.heads(53, heads, rank, nope),
            values: b.heads(54, heads, value, rank),
            norm: Norm { kind: NormKind::Rms, eps: 1e-5, weight: b.vector(55, rank), bias: None },
            rope: Rope { rotary_dim: rotary, inv_freq, magnitude: 1.25, growth: None, axes: None },
        }
    }

    /// A step of these rows in a layer: queries, sums and the output.
    fn step(&self, b: &mut Bench<D>, layer: usize, lengths: &[usize]) -> Result<Results> {
        let spec = &self.spec;
        let rows = lengths.iter().sum();
        let mut q = b.tensor(rows, spec.heads * spec.q_dim());
        let mut latent = b.tensor(rows, spec.width());
        let mut queries = b.tensor(rows, spec.heads * spec.width());
        let mut sums = b.tensor(rows, spec.heads * spec.rank);
        let mut out = b.tensor(rows, spec.heads * self.value);

        b.feed(lengths);
        b.dev.embed(&self.table_q, 1.0, &mut q)?;
        b.dev.embed(&self.table_latent, 1.0, &mut latent)?;
        b.dev.multiply_heads(&self.keys, &q, &mut queries)?;
        b.dev.store_latent(layer, spec, &self.norm, &self.rope, &q, &latent, &mut queries)?;
        b.dev.attend_latent(layer, spec, &queries, &mut sums)?;
        b.dev.multiply_heads(&self.values, &sums, &mut out)?;
        Ok(vec![
            ("queries", b.dev.read(&queries, rows)?),
            ("sums", b.dev.read(&sums, rows)?),
            ("out", b.dev.read(&out, rows)?),
        ])
    }
}

#[test]
fn latent_attention_of_chunks_and_single_tokens() {
    each_type(|dtype| {
        for (n, shape) in SHAPES.into_iter().enumerate() {
            if grader::small_shapes() && shape.0 > 64 {
                continue;
            }
            let (heads, rank, rotary, _, _, page_size) = shape;
            let case = format!("latent {n}: {heads} heads, {rank} + {rotary}");
            let setup = Setup { page_size, latent: Some(rank + rotary), ..Setup::default() };
            compare!(dtype, &setup, &case, 2.0, |b| {
                let latent = Latent::new(b, shape, 128);
                let mut results = Vec::new();
                for step in [&[37, 1, 64][..], &[1, 20, 1], &[1, 1, 1], &[0, 70, 1], &[1, 1, 1]] {
                    for layer in 0..2 {
                        results.extend(latent.step(b, layer, step)?);
                    }
                }
                Ok(results)
            });
        }
    });
}

/// Contexts long enough that the keys of single tokens are cut into parts, ragged on purpose.
#[test]
fn latent_attention_over_long_contexts() {
    each_type(|dtype| {
        for shape in [(16, 512, 64, 64, 32, 16), (24, 512, 64, 64, 32, 16)] {
            let case = format!("long latent of {} heads", shape.0);
            let setup = Setup {
                latent: Some(576),
                max_model_len: 2100,
                step_tokens: 700,
                ..Setup::default()
            };

            compare!(dtype, &setup, &case, 2.0, |b| {
                let latent = Latent::new(b, shape, 700);
                let mut results = Vec::new();
                for (n, step) in
                    [&[1, 1][..], &[640, 60], &[600, 1], &[689, 1, 2], &[1, 1, 1], &[1, 1, 5, 300]]
                        .iter()
                        .enumerate()
                {
                    let got = latent.step(b, 0, step)?;
                    if n > 2 {
                        results.extend(got);
                    }
                }
                Ok(results)
            });
        }
    });
}

/// More sequences than blocks of the split kernel, so that a block has several.
#[test]
fn latent_attention_over_many_sequences() {
    each_type(|dtype| {
        for (heads, slots) in [(16, 300), (32, 150)] {
            if grader::small_shapes() {
                continue;
            }
            let lengths: Vec<usize> =
                (0..slots).map(|n| n * n * 29 % 37 + n % 50 / 49 * 900).collect();
            let setup = Setup {
                slots,
                latent: Some(576),
                max_model_len: 1100,
                step_tokens: lengths.iter().sum(),
                ..Setup::default()
            };
            let case = format!("{slots} latent sequences of {heads} heads");

            compare!(dtype, &setup, &case, 2.0, |b| {
                let latent = Latent::new(b, (heads, 512, 64, 16, 16, 16), setup.step_tokens);
                let mut results = Vec::new();
                for step in [lengths.clone(), vec![1; slots], vec![1; slots]] {
                    results.extend(latent.step(b, 0, &step)?);
                }
                Ok(results)
            });
        }
    });
}
