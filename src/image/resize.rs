//! Resampling of pictures with the bits of the two libraries that Python processors use: Pillow,
//! and torchvision on tensors of bytes. Both filter one axis, then the other, in whole numbers, and
//! round to bytes in between; they differ in how many bits a weight has, and in which axis comes
//! first.

use std::borrow::Cow;

use super::rgb::Rgb;
use crate::error::Result;

/// How far an output pixel looks, in input pixels where nothing shrinks. All are widened as the
/// picture shrinks (antialias).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle over 2 pixels.
    Bilinear,
    /// Cubic with a = -0.5, over 4 pixels.
    Bicubic,
    /// A windowed sinc over 6 pixels.
    Lanczos,
}

/// Whose bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Weights of 22 bits.
    Pillow,
    /// Weights of 16 bits, as many behind the point as the largest one leaves.
    Torch,
}

const PILLOW_BITS: u32 = 22;

/// The picture in another size. A side that stays is not filtered.
///
/// # Errors
/// Those of [`Rgb::new`].
pub fn resize(
    image: &Rgb,
    width: usize,
    height: usize,
    filter: Filter,
    rounding: Rounding,
) -> Result<Rgb> {
    // Seen in Pillow 13.0, which filters the axis first that leaves less to do.
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let rows = lost(image.height(), height);
    let columns = lost(image.width(), width);
    let rows_first = rounding == Rounding::Pillow && rows > 0 && rows > 2 * columns;

    let mut out = Cow::Borrowed(image);
    for rows in [rows_first, !rows_first] {
        if rows && height != image.height() {
            out = Cow::Owned(resize_rows(&out, height, filter, rounding)?);
        } else if !rows && width != image.width() {
            out = Cow::Owned(resize_columns(&out, width, filter, rounding)?);
        }
    }
    Ok(out.into_owned())
}

fn resize_columns(image: &Rgb, width: usize, filter: Filter, rounding: Rounding) -> Result<Rgb> {
    let axis = Axis::new(image.width(), width, filter, rounding);
    let mut out = Rgb::new(width, image.height())?;
    for r in 0..image.height() {
        axis.filter_row(image.row(r), out.row_mut(r));
    }
    Ok(out)
}

fn resize_rows(image: &Rgb, height: usize, filter: Filter, rounding: Rounding) -> Result<Rgb> {
    let axis = Axis::new(image.height(), height, filter, rounding);
    let mut out = Rgb::new(image.width(), height)?;
    let mut sums = vec![0; 3 * image.width()];
    for r in 0..height {
        axis.filter_column(image, r, &mut sums, out.row_mut(r));
    }
    Ok(out)
}

/// The weights of one axis.
struct Axis {
    /// Of each output: the first input, and its weights.
    taps: Vec<(usize, Vec<i32>)>,
    /// Bits behind the point.
    bits: u32,
}

impl Axis {
    fn new(from: usize, to: usize, filter: Filter, rounding: Rounding) -> Axis {
        let exact = weights(from, to, filter);
        let largest = exact.iter().flat_map(|(_, taps)| taps).fold(0.0, |a: f64, &b| a.max(b));
        let bits = match rounding {
            Rounding::Pillow => PILLOW_BITS,
            Rounding::Torch => {
                let fits =
                    |&bits: &u32| (0.5 + largest * f64::from(1u32 << (bits + 1))) as i64 >= 1 << 15;
                (0..PILLOW_BITS).find(fits).unwrap_or(PILLOW_BITS)
            }
        };

        // Half away from zero.
        let round = |w: f64| {
            let scaled = w * f64::from(1u32 << bits);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        let taps = exact
            .into_iter()
            .map(|(first, taps)| (first, taps.into_iter().map(round).collect()))
            .collect();
        Axis { taps, bits }
    }

    fn filter_row(&self, input: &[u8], output: &mut [u8]) {
        let half = 1 << (self.bits - 1);
        for ((first, taps), out) in self.taps.iter().zip(output.chunks_exact_mut(3)) {
            let mut sums = [half; 3];
            for (pixel, &weight) in input[3 * first..].chunks_exact(3).zip(taps) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(byte) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = (sum >> self.bits).clamp(0, 255) as u8;
            }
        }
    }

    fn filter_column(&self, input: &Rgb, r: usize, sums: &mut [i32], output: &mut [u8]) {
        let (first, taps) = &self.taps[r];
        sums.fill(1 << (self.bits - 1));
        for (i, &weight) in taps.iter().enumerate() {
            for (sum, &byte) in sums.iter_mut().zip(input.row(first + i)) {
                *sum += i32::from(byte) * weight;
            }
        }
        for (out, &sum) in output.iter_mut().zip(sums.iter()) {
            *out = (sum >> self.bits).clamp(0, 255) as u8;
        }
    }
}

/// Of each output pixel the first input pixel that it sees, and the weights from there on.
fn weights(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    (0..to)
        .map(|o| {
            let centre = (o as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weight = |x: usize| filter.at((x as f64 - centre + 0.5) * (1.0 / wide));

            let mut taps: Vec<f64> = (first..end).map(weight).collect();
            let total: f64 = taps.iter().sum();
            if total != 0.0 {
                taps.iter_mut().for_each(|w| *w *= 1.0 / total);
            }
            (first, taps)
        })
        .collect()
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}
