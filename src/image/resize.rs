//! Resampling of pictures with the bits of the two libraries that Python processors use: Pillow,
//! and torchvision on tensors of bytes. Both filter one axis, then the other, in whole numbers, and
//! round to bytes in between; they differ in how many bits a weight has, and in which axis comes
//! first.

use std::borrow::Cow;

use super::rgb::{zeroed, GoOn, Rgb, MAX_PIXELS};
use crate::error::{Error, Result};
use crate::invalid;

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

/// Weights that are held at a time, 4 MiB, unless one output alone has more: that has no more than
/// a side has pixels.
const HELD: usize = 1 << 20;
/// Rows, or outputs, between two questions whether to go on.
const ASKED_EVERY: usize = 64;

/// The picture in another size. A side that stays is not filtered.
///
/// # Errors
/// InvalidArgument: that size, or the one between its two steps, is over [`MAX_PIXELS`]. Those of
/// [`Rgb::new`].
pub fn resize(
    image: &Rgb,
    width: usize,
    height: usize,
    filter: Filter,
    rounding: Rounding,
) -> Result<Rgb> {
    resize_while(image, width, height, filter, rounding, &|| Ok(()))
}

/// [`resize`] that `go_on` may end.
///
/// # Errors
/// As [`resize`], and those of `go_on`.
pub(super) fn resize_while(
    image: &Rgb,
    width: usize,
    height: usize,
    filter: Filter,
    rounding: Rounding,
    go_on: GoOn,
) -> Result<Rgb> {
    // Seen in Pillow 13.0, which filters the axis first that leaves less to do.
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let rows = lost(image.height(), height);
    let columns = lost(image.width(), width);
    let rows_first = rounding == Rounding::Pillow && rows > 0 && rows > 2 * columns;

    // Before anything is taken: a strip may be made as long as a client likes.
    let between = if rows_first { [image.width(), height] } else { [width, image.height()] };
    for [columns, rows] in [[width, height], between] {
        if columns.saturating_mul(rows) as u64 > MAX_PIXELS {
            return Err(invalid!(
                "The image of {} x {} pixels is too long and thin for this model: on the way to \
                 {width} x {height} it would be {columns} x {rows}, and {MAX_PIXELS} pixels are \
                 the most. Send one that is nearer to a square.",
                image.width(),
                image.height()
            ));
        }
    }

    let mut out = Cow::Borrowed(image);
    for rows in [rows_first, !rows_first] {
        if rows && height != image.height() {
            out = Cow::Owned(resize_rows(&out, height, (filter, rounding), go_on)?);
        } else if !rows && width != image.width() {
            out = Cow::Owned(resize_columns(&out, width, (filter, rounding), go_on)?);
        }
    }
    Ok(out.into_owned())
}

type How = (Filter, Rounding);

fn resize_columns(image: &Rgb, width: usize, how: How, go_on: GoOn) -> Result<Rgb> {
    let mut out = Rgb::new(width, image.height())?;
    let axis = Axis::new(image.width(), width, how, go_on)?;
    let mut from = 0;
    while from < width {
        let weights = axis.weights(from, HELD)?;
        let end = from + weights.of.len();
        for r in 0..image.height() {
            if r % ASKED_EVERY == 0 {
                go_on()?;
            }
            weights.filter_row(image.row(r), &mut out.row_mut(r)[3 * from..3 * end]);
        }
        from = end;
    }
    Ok(out)
}

fn resize_rows(image: &Rgb, height: usize, how: How, go_on: GoOn) -> Result<Rgb> {
    let mut out = Rgb::new(image.width(), height)?;
    let axis = Axis::new(image.height(), height, how, go_on)?;
    let mut sums: Vec<i32> = zeroed(3 * image.width())?;
    let mut from = 0;
    while from < height {
        let weights = axis.weights(from, HELD)?;
        for n in 0..weights.of.len() {
            go_on()?;
            weights.filter_column(image, n, &mut sums, out.row_mut(from + n));
        }
        from += weights.of.len();
    }
    Ok(out)
}

/// One axis, from so many pixels to so many.
struct Axis {
    from: usize,
    to: usize,
    filter: Filter,
    /// Bits of a weight behind the point.
    bits: u32,
}

/// The weights of some outputs that follow each other.
struct Weights {
    /// Of each output: the first input, and where its weights end.
    of: Vec<(usize, usize)>,
    all: Vec<i32>,
    bits: u32,
}

impl Axis {
    fn new(from: usize, to: usize, (filter, rounding): How, go_on: GoOn) -> Result<Axis> {
        let mut axis = Axis { from, to, filter, bits: PILLOW_BITS };
        if rounding == Rounding::Torch {
            let mut largest = 0.0f64;
            let mut exact = Vec::new();
            for o in 0..to {
                if o % ASKED_EVERY == 0 {
                    go_on()?;
                }
                axis.exact(o, &mut exact)?;
                largest = exact.iter().fold(largest, |a, &b| a.max(b));
            }
            let fits =
                |&bits: &u32| (0.5 + largest * f64::from(1u32 << (bits + 1))) as i64 >= 1 << 15;
            axis.bits = (0..PILLOW_BITS).find(fits).unwrap_or(PILLOW_BITS);
        }
        Ok(axis)
    }

    /// Those of the outputs from this one on, until there are `held`; of one at least.
    fn weights(&self, output: usize, held: usize) -> Result<Weights> {
        // Half away from zero.
        let round = |w: &f64| {
            let scaled = w * f64::from(1u32 << self.bits);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        let mut weights = Weights { of: Vec::new(), all: Vec::new(), bits: self.bits };
        let mut exact = Vec::new();
        for o in output..self.to {
            let first = self.exact(o, &mut exact)?;
            let sum = weights.all.len() + exact.len().max(1);
            if !weights.of.is_empty() && sum.max(weights.of.len()) > held {
                break;
            }
            reserve(&mut weights.all, exact.len())?;
            weights.all.extend(exact.iter().map(round));
            weights.of.push((first, weights.all.len()));
        }
        Ok(weights)
    }

    /// The first input pixel that an output pixel sees; `taps` become the weights from there on,
    /// before they are rounded.
    fn exact(&self, output: usize, taps: &mut Vec<f64>) -> Result<usize> {
        let scale = self.from as f64 / self.to as f64;
        let wide = scale.max(1.0);
        let support = self.filter.support() * wide;
        let centre = (output as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(self.from);
        let weight = |x: usize| self.filter.at((x as f64 - centre + 0.5) * (1.0 / wide));

        taps.clear();
        reserve(taps, end.saturating_sub(first))?;
        taps.extend((first..end).map(weight));
        let total: f64 = taps.iter().sum();
        if total != 0.0 {
            taps.iter_mut().for_each(|w| *w *= 1.0 / total);
        }
        Ok(first)
    }
}

/// # Errors
/// Unavailable: no memory.
fn reserve<T>(taps: &mut Vec<T>, more: usize) -> Result<()> {
    taps.try_reserve(more).map_err(|_| {
        Error::Unavailable(format!("no memory for {more} weights of an image: send a smaller one."))
    })
}

impl Weights {
    /// Of the n-th output: the first input, and the weights from there on.
    fn taps(&self, n: usize) -> (usize, &[i32]) {
        let begin = if n == 0 { 0 } else { self.of[n - 1].1 };
        let (first, end) = self.of[n];
        (first, &self.all[begin..end])
    }

    fn filter_row(&self, input: &[u8], output: &mut [u8]) {
        let half = 1 << (self.bits - 1);
        for (n, out) in output.chunks_exact_mut(3).enumerate() {
            let (first, taps) = self.taps(n);
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

    fn filter_column(&self, input: &Rgb, n: usize, sums: &mut [i32], output: &mut [u8]) {
        let (first, taps) = self.taps(n);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// No memory is taken for a size that is too large, and the client reads its own.
    #[test]
    fn strips_that_would_become_too_large_are_refused_first() {
        let refused = |image: &Rgb, width, height, rounding| {
            let error = resize(image, width, height, Filter::Bicubic, rounding).unwrap_err();
            error.message().to_string()
        };
        // The shortest edge made 24 pixels long: the weights alone would be 46 GB.
        let wide = Rgb::new(60_000_000, 1).unwrap();
        for rounding in [Rounding::Pillow, Rounding::Torch] {
            let message = refused(&wide, 1_440_000_000, 24, rounding);
            assert!(message.contains("60000000 x 1 pixels"), "{message}");
        }
        // Columns first: the step between is what is too large.
        let high = Rgb::new(1, 80_000_000).unwrap();
        let message = refused(&high, 32, 32, Rounding::Torch);
        assert!(message.contains("1 x 80000000 pixels is"), "{message}");
        assert!(message.contains("32 x 80000000"), "{message}");
    }

    #[test]
    fn who_no_longer_wants_it_ends_a_resize() {
        let image = Rgb::new(300, 200).unwrap();
        for after in [0, 1, 20] {
            let asked = std::cell::Cell::new(0);
            let go_on = || match asked.replace(asked.get() + 1) {
                n if n == after => Err(Error::Cancelled("left".into())),
                _ => Ok(()),
            };
            let (filter, rounding) = (Filter::Bicubic, Rounding::Torch);
            let outcome = resize_while(&image, 30, 40, filter, rounding, &go_on);
            assert_eq!(outcome, Err(Error::Cancelled("left".into())));
            assert_eq!(asked.get(), after + 1);
        }
    }

    #[test]
    fn weights_of_long_strips_are_held_in_parts() {
        let axis =
            Axis::new(3_000_000, 500, (Filter::Lanczos, Rounding::Pillow), &|| Ok(())).unwrap();
        let part = axis.weights(100, HELD).unwrap();
        assert!(part.of.len() > 1 && part.all.len() <= HELD);
        // One output has what it needs.
        let one = axis.weights(100, 10).unwrap();
        assert_eq!((one.of.len(), one.all.len()), (1, part.of[0].1));

        // Parts are the whole.
        for (from, to) in [(90, 7), (7, 90)] {
            let axis = Axis::new(from, to, (Filter::Bicubic, Rounding::Torch), &|| Ok(())).unwrap();
            let whole = axis.weights(0, HELD).unwrap();
            assert_eq!(whole.of.len(), to);
            let mut next = 0;
            while next < to {
                let part = axis.weights(next, 100).unwrap();
                assert!(part.all.len() <= 100);
                for n in 0..part.of.len() {
                    assert_eq!(part.taps(n), whole.taps(next + n));
                }
                next += part.of.len();
            }
        }
    }
}
