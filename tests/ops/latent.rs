//! Attention over latent vectors on the CPU device, in the form that multiplies the matrices of K
//! and V into q and the sums: against loops in f64 that make K and V of each head, and bit for bit
//! between instruction sets and numbers of threads and rows. Part of `ops`.

use super::*;
use triton_vllm::device::{KvRow, LatentSpec};

const EPS: f32 = 1e-3;

struct Case {
    spec: LatentSpec,
    value: usize,
    rope: Rope,
    rows: usize,
    q: Vec<f32>,
    latent: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    norm: Vec<f32>,
}

impl Case {
    /// (heads, rank, rotary, nope, value)
    fn new((heads, rank, rotary, nope, value): (usize, usize, usize, usize, usize)) -> Case {
        let rows = 53;
        let mut noise = Noise((heads * rank) as u64);
        let spec = LatentSpec { heads, rank, rotary, nope, scale: 0.4 };
        Case {
            spec,
            value,
            rope: Rope {
                rotary_dim: rotary,
                inv_freq: inverse(rotary),
                magnitude: 1.25,
                growth: None,
                axes: None,
            },
            rows,
            q: noise.values(rows * heads * spec.q_dim()),
            latent: noise.values(rows * spec.width()),
            keys: noise.values(heads * rank * nope),
            values: noise.values(heads * value * rank),
            norm: noise.values(rank),
        }
    }

    /// Rows from `from` on, behind the others, which another step has fed.
    fn run(&self, isa: Isa, threads: usize, dtype: DType, from: usize) -> Vec<f32> {
        let LatentSpec { heads, rank, nope, .. } = self.spec;
        let width = self.spec.width();
        let row = KvRow::Latent { width };
        let kv = KvShape { rows: vec![row; 2], dtype: dtype.into() };
        let mut dev = device(isa, threads, self.rows, 0, kv);
        let kind = WeightKind::Heads { count: heads };
        let keys = upload(&mut dev, kind, DType::F32, (heads * rank, nope), &self.keys);
        let values = upload(&mut dev, kind, DType::F32, (heads * self.value, rank), &self.values);
        let norm = upload(&mut dev, WeightKind::Vector, DType::F32, (rank, 1), &self.norm);
        let norm = Norm { kind: NormKind::Rms, eps: EPS, weight: norm, bias: None };

        let mut last = Vec::new();
        for (first, end) in [(0, from), (from, self.rows)] {
            let rows = end - first;
            if rows == 0 {
                continue;
            }
            dev.begin(&plan(rows, first, self.rows.div_ceil(16))).unwrap();
            let q_width = heads * self.spec.q_dim();
            let q = tensor(&mut dev, rows, q_width, &self.q[first * q_width..end * q_width]);
            let latent = tensor(&mut dev, rows, width, &self.latent[first * width..end * width]);
            let mut queries = dev.tensor(rows, heads * width).unwrap();
            let mut sums = dev.tensor(rows, heads * rank).unwrap();
            let mut out = dev.tensor(rows, heads * self.value).unwrap();

            let spec = &self.spec;
            dev.multiply_heads(&keys, &q, &mut queries).unwrap();
            dev.store_latent(1, spec, &norm, &self.rope, &q, &latent, &mut queries).unwrap();
            dev.attend_latent(1, spec, &queries, &mut sums).unwrap();
            dev.multiply_heads(&values, &sums, &mut out).unwrap();
            last = dev.read(&out, rows).unwrap();
        }
        last
    }

    fn rotated(&self, row: usize, end: &[f32]) -> Vec<f64> {
        let half = self.spec.rotary / 2;
        let magnitude = f64::from(self.rope.magnitude);
        let mut out: Vec<f64> = end.iter().map(|&x| f64::from(x)).collect();
        for i in 0..half {
            let (sin, cos) = (row as f64 * f64::from(self.rope.inv_freq[i])).sin_cos();
            let (a, b) = (out[i], out[i + half]);
            out[i] = (a * cos - b * sin) * magnitude;
            out[i + half] = (b * cos + a * sin) * magnitude;
        }
        out
    }

    /// The normed front of a row's latent vector.
    fn front(&self, row: usize) -> Vec<f64> {
        let rank = self.spec.rank;
        let start = row * self.spec.width();
        let x = &self.latent[start..start + rank];
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / rank as f64;
        let scale = (mean + f64::from(EPS)).sqrt().recip();
        x.iter().zip(&self.norm).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)).collect()
    }

    /// With K and V of each head.
    fn want(&self) -> Vec<f64> {
        let LatentSpec { heads, rank, rotary, nope, scale } = self.spec;
        let value = self.value;
        let fronts: Vec<Vec<f64>> = (0..self.rows).map(|row| self.front(row)).collect();
        let ends: Vec<Vec<f64>> = (0..self.rows)
            .map(|row| {
                let end = (row + 1) * self.spec.width();
                self.rotated(row, &self.latent[end - rotary..end])
            })
            .collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();

        let mut want = Vec::new();
        for (row, head) in (0..self.rows).flat_map(|row| (0..heads).map(move |h| (row, h))) {
            let start = (row * heads + head) * self.spec.q_dim();
            let q = &self.q[start..start + self.spec.q_dim()];
            let turned = self.rotated(row, &q[nope..]);
            let matrix = &self.keys[head * rank * nope..(head + 1) * rank * nope];
            let weight = |j: usize| {
                // k[i] = sum over the rank of matrix[., i] * front.
                let k = |i: usize| -> f64 {
                    (0..rank).map(|r| f64::from(matrix[r * nope + i]) * fronts[j][r]).sum()
                };
                let plain: f64 = (0..nope).map(|i| f64::from(q[i]) * k(i)).sum();
                ((plain + dot(&turned, &ends[j])) * f64::from(scale)).exp()
            };
            let weights: Vec<f64> = (0..=row).map(weight).collect();
            let total: f64 = weights.iter().sum();

            let matrix = &self.values[head * value * rank..(head + 1) * value * rank];
            for line in matrix.chunks_exact(rank) {
                let line: Vec<f64> = line.iter().map(|&x| f64::from(x)).collect();
                let parts = weights.iter().zip(&fronts).map(|(p, front)| p * dot(&line, front));
                want.push(parts.sum::<f64>() / total);
            }
        }
        want
    }
}

const CASES: [(usize, usize, usize, usize, usize); 3] =
    [(4, 20, 6, 10, 14), (3, 40, 8, 5, 33), (1, 64, 16, 32, 8)];

#[test]
fn latent_attention_equals_f64() {
    for shape in CASES {
        let case = Case::new(shape);
        let want = case.want();
        for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::BF16, 2e-2)] {
            let got = case.run(Isa::detect(), 2, dtype, 0);
            close(&format!("{shape:?} {dtype:?}"), &got, &want, tolerance);
        }
    }
}

/// Neither the cut of a prompt, nor the instruction set, nor threads change a bit.
#[test]
fn latent_attention_is_row_invariant() {
    for shape in [CASES[0], CASES[1], (16, 72, 16, 32, 8)] {
        let case = Case::new(shape);
        let want = case.run(Isa::all()[0], 1, DType::F32, 0);
        for isa in Isa::all() {
            for (threads, from) in [(2, 0), (1, 7), (1, 32), (2, 52)] {
                let got = case.run(isa, threads, DType::F32, from);
                let rest = &want[want.len() - got.len()..];
                assert!(got == rest, "{shape:?} {} from {from}", isa.name());
            }
        }
    }
}
