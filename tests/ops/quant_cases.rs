//! Weights of codes for tests of any device: a table of forms and shapes, random codes, and what
//! their products are, in f64 from the written rules (`src/device/quant.rs`) and nothing else of
//! the code under test.

use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Bytes, CodeType, DType, InputQuant, Join, QuantForm, QuantPart, Source, WeightDesc, WeightKind,
};

/// Of `IQ4_NL`, over 100.
pub const TABLE: [f32; 16] = [
    -1.27, -1.04, -0.83, -0.65, -0.49, -0.35, -0.22, -0.1, 0.01, 0.13, 0.25, 0.38, 0.53, 0.69,
    0.89, 1.13,
];

pub const CODE_TYPES: [CodeType; 5] =
    [CodeType::E4m3, CodeType::Int8, CodeType::Int4, CodeType::E2m1, CodeType::Table(TABLE)];

pub const ROUNDINGS: [Option<InputQuant>; 8] = [
    None,
    Some(InputQuant::E4m3Tensor { step: 0.0021 }),
    Some(InputQuant::E4m3Row),
    Some(InputQuant::E4m3Block),
    Some(InputQuant::Int8Tensor { step: 0.0123, zero: None }),
    Some(InputQuant::Int8Tensor { step: 0.0053, zero: Some(-31) }),
    Some(InputQuant::Int8Row),
    Some(InputQuant::Int8RowWithZero),
];

/// A weight to make, and how many rows go over it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub codes: CodeType,
    /// 0: all inputs of a row.
    pub group: usize,
    pub offsets: bool,
    pub ordered: bool,
    pub inputs: Option<InputQuant>,
    pub rows: usize,
    pub outputs: usize,
    pub k: usize,
}

impl Case {
    pub fn form(&self) -> QuantForm {
        let group = if self.group == 0 { self.k } else { self.group };
        QuantForm { codes: self.codes, group, offsets: self.offsets, inputs: self.inputs }
    }

    pub fn name(&self) -> String {
        let Case { codes, group, offsets, ordered, inputs, rows, outputs, k } = self;
        format!(
            "{codes:?} group {group} offsets {offsets} ordered {ordered} {inputs:?}: {rows} x \
             {outputs} x {k}"
        )
    }
}

/// Every type, group, and kind of offsets, order and rounding, each with some shape; odd ones, and
/// rows whose last group is shorter.
pub fn table() -> Vec<Case> {
    // (rows, outputs, inputs)
    let shapes = [(7, 70, 96), (1, 64, 64), (13, 130, 200), (3, 33, 129), (2, 5, 1), (6, 200, 320)];
    let mut cases = Vec::new();
    for codes in CODE_TYPES {
        for group in [16, 32, 64, 128, 0] {
            for (offsets, ordered) in [(false, false), (true, false), (false, true), (true, true)] {
                for inputs in ROUNDINGS {
                    let (rows, outputs, k) = shapes[cases.len() % shapes.len()];
                    cases.push(Case { codes, group, offsets, ordered, inputs, rows, outputs, k });
                }
            }
        }
    }
    cases
}

/// Numbers of a linear congruential generator.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 7) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Random codes of a weight with everything that belongs to them.
pub struct Coded {
    pub form: QuantForm,
    pub outputs: usize,
    pub k: usize,
    /// Of each part.
    pub rows: Vec<usize>,
    /// One for each, not packed, row by row.
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub offsets: Vec<f32>,
    pub order: Vec<u32>,
}

impl Coded {
    /// Scales are such that outputs are about 1.
    pub fn new(case: &Case, parts: &[usize], seed: u64) -> Coded {
        let form = case.form();
        let mut dice = Dice(seed);
        let outputs: usize = parts.iter().sum();
        let k = case.k;
        let groups = k.div_ceil(form.group);
        let most = match form.codes {
            CodeType::E4m3 => 448.0,
            CodeType::Int8 => 128.0,
            CodeType::Int4 => 8.0,
            CodeType::E2m1 => 6.0,
            CodeType::Table(_) => 1.3,
        };
        let size = 2.0 / (most * (k as f32).sqrt());

        let code = |dice: &mut Dice| match form.codes {
            CodeType::E4m3 | CodeType::Int8 => dice.next() as u8,
            _ => dice.next() as u8 & 15,
        };
        // Some 5 % are not numbers.
        let number = |code: u8| form.codes != CodeType::E4m3 || code & 0x7f != 0x7f;
        let codes = (0..outputs * k).map(|_| code(&mut dice));
        let codes = codes.map(|code| if number(code) { code } else { 0x38 }).collect();
        let scales = (0..outputs * groups).map(|_| size * (1.0 + 0.5 * dice.signed())).collect();
        let some = if form.offsets { outputs * groups } else { 0 };
        let offsets = (0..some).map(|_| size * most * dice.signed()).collect();
        let mut order: Vec<u32> = (0..if case.ordered { k as u32 } else { 0 }).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, dice.next() as usize % (i + 1));
        }
        Coded { form, outputs, k, rows: parts.to_vec(), codes, scales, offsets, order }
    }

    /// As a device gets it.
    pub fn source(&self) -> Source<'static> {
        let groups = self.k.div_ceil(self.form.group);
        let mut first = 0;
        let parts = self.rows.iter().map(|&rows| {
            let from = first;
            first += rows;
            let codes = &self.codes[from * self.k..first * self.k];
            let packed: Vec<u8> = match self.form.codes {
                CodeType::E4m3 | CodeType::Int8 => codes.to_vec(),
                _ => codes.chunks(self.k).flat_map(halves).collect(),
            };
            let of_groups = from * groups..first * groups;
            QuantPart {
                rows,
                cols: self.k,
                codes: Bytes::Shared(packed.into()),
                scales: self.scales[of_groups.clone()].to_vec(),
                offsets: self.offsets.get(of_groups).unwrap_or_default().to_vec(),
            }
        });
        Source::Codes { parts: parts.collect(), order: self.order.clone() }
    }

    pub fn upload<D: Device>(&self, dev: &mut D, kind: WeightKind, dtype: DType) -> D::Weight {
        let desc = WeightDesc {
            name: "coded",
            kind,
            outputs: self.outputs,
            inputs: self.k,
            dtype,
            quant: Some(self.form),
            transposed: false,
            join: Join::None,
            source: self.source(),
        };
        dev.upload(desc).unwrap()
    }

    /// What the codes mean, row by row, inputs in their usual order.
    pub fn values(&self) -> Vec<f64> {
        let groups = self.k.div_ceil(self.form.group);
        let mut values = vec![0.0; self.outputs * self.k];
        for n in 0..self.outputs {
            for k in 0..self.k {
                let group = n * groups + k / self.form.group;
                let offset = self.offsets.get(group).copied().unwrap_or(0.0);
                let number = number(self.form.codes, self.codes[n * self.k + k]);
                let input = self.order.get(k).map_or(k, |&input| input as usize);
                values[n * self.k + input] =
                    f64::from(self.scales[group]) * number + f64::from(offset);
            }
        }
        values
    }

    /// x W^T of some rows, x rounded as the form says.
    pub fn product(&self, x: &[f32]) -> Vec<f64> {
        product(self.form.inputs, x, &self.values(), self.k)
    }
}

/// x W^T in f64, x rounded.
pub fn product(inputs: Option<InputQuant>, x: &[f32], w: &[f64], k: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(k) {
        let row = rounded(inputs, row);
        out.extend(w.chunks(k).map(|w| -> f64 { w.iter().zip(&row).map(|(w, x)| w * x).sum() }));
    }
    out
}

/// Two codes of four bits to a byte, the earlier in the low half.
fn halves(row: &[u8]) -> Vec<u8> {
    row.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4).collect()
}

/// A number by the formats' definitions.
fn number(codes: CodeType, code: u8) -> f64 {
    let low = f64::from(code & 15);
    match codes {
        CodeType::E4m3 => e4m3(code),
        CodeType::Int8 => f64::from(code) - if code < 128 { 0.0 } else { 256.0 },
        CodeType::Int4 => low - 8.0,
        CodeType::E2m1 => {
            let (exponent, fraction) = (code >> 1 & 3, f64::from(code & 1) / 2.0);
            let size = match exponent {
                0 => fraction,
                _ => (1.0 + fraction) * 2f64.powi(i32::from(exponent) - 1),
            };
            if code & 8 == 0 {
                size
            } else {
                -size
            }
        }
        CodeType::Table(table) => f64::from(table[usize::from(code & 15)]),
    }
}

pub fn e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (code >> 3 & 15, f64::from(code & 7) / 8.0);
    let size = match exponent {
        0 => fraction * 2f64.powi(-6),
        _ => (1.0 + fraction) * 2f64.powi(i32::from(exponent) - 7),
    };
    if code & 0x80 == 0 {
        size
    } else {
        -size
    }
}

/// The code of E4M3 next to a number: of equally near ones the even one.
pub fn nearest_e4m3(x: f32) -> u8 {
    let size = f64::from(x).abs();
    let distance = |code: u8| (e4m3(code) - size).abs();
    let nearer = |a: u8, b: u8| {
        let same = distance(a) == distance(b);
        if distance(b) < distance(a) || same && b.is_multiple_of(2) {
            b
        } else {
            a
        }
    };
    (0..0x7f).reduce(nearer).unwrap() | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// The nearest whole number, ties to even, as far as a byte goes.
fn nearest_int8(x: f32, zero: f64) -> f64 {
    let x = f64::from(x);
    let below = x.floor();
    let up = match (x - below).total_cmp(&0.5) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => below % 2.0 != 0.0,
    };
    (below + if up { 1.0 } else { 0.0 } + zero).clamp(-128.0, 127.0)
}

/// A row as the product takes it: codes times a step; steps and quotients in f32, as written.
pub fn rounded(inputs: Option<InputQuant>, x: &[f32]) -> Vec<f64> {
    let most =
        |x: &[f32]| x.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    let each = |x: &[f32], step: f32, code: &dyn Fn(f32) -> f64| -> Vec<f64> {
        x.iter().map(|&x| code(x) * f64::from(step)).collect()
    };
    let cast = |x: f32| e4m3(nearest_e4m3(x));

    match inputs {
        None => x.iter().map(|&x| f64::from(x)).collect(),
        Some(InputQuant::E4m3Tensor { step }) => each(x, step, &|x| cast(x * (1.0 / step))),
        Some(InputQuant::E4m3Row) => {
            let step = (most(x) / 448.0).max(1.0 / (448.0 * 512.0));
            each(x, step, &|x| cast(x / step))
        }
        Some(InputQuant::E4m3Block) => {
            let block = |x: &[f32]| {
                let step = most(x).max(1e-10) / 448.0;
                each(x, step, &|x| cast(x / step))
            };
            x.chunks(128).flat_map(block).collect()
        }
        Some(InputQuant::Int8Tensor { step, zero: None }) => {
            each(x, step, &|x| nearest_int8(x / step, 0.0))
        }
        Some(InputQuant::Int8Tensor { step, zero: Some(zero) }) => {
            let zero = f64::from(zero);
            each(x, step, &|x| nearest_int8(x * (1.0 / step), zero) - zero)
        }
        Some(InputQuant::Int8Row) => {
            let most = most(x);
            let code =
                |x: f32| if most == 0.0 { 0.0 } else { nearest_int8(x * (127.0 / most), 0.0) };
            each(x, most / 127.0, &code)
        }
        Some(InputQuant::Int8RowWithZero) => {
            let most = x.iter().copied().fold(f32::MIN, f32::max);
            let least = x.iter().copied().fold(f32::MAX, f32::min);
            let step = (most - least) / 255.0;
            if step == 0.0 {
                return x.iter().map(|&x| f64::from(x)).collect();
            }
            let zero = f64::from((-128.0 - least / step).round_ties_even());
            each(x, step, &|x| nearest_int8(x * (1.0 / step), zero) - zero)
        }
    }
}
