//! Components of a JPEG frame to pixels: blocks to samples, halved colours to the frame's size by
//! triangle filters as libjpeg's, and colours to RGB.

use super::super::rgb::{cmyk, damaged, grey, zeroed, GoOn, Rgb};
use super::block;
use super::header::{Component, Frame, Notes};
use crate::error::Result;

/// Samples of one component, `[rows][stride]`.
struct Plane {
    samples: Vec<u8>,
    stride: usize,
    width: usize,
    height: usize,
    /// How many pixels of the frame are one sample, across and down.
    across: usize,
    down: usize,
}

/// What the components are.
#[derive(Clone, Copy)]
enum Colours {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// Rows of pixels, or of blocks, between two questions whether to go on.
const ASKED_EVERY: usize = 16;

pub(super) fn to_rgb(mut frame: Frame, notes: &Notes, go_on: GoOn) -> Result<Rgb> {
    let colours = colours(&frame, notes);
    let components = std::mem::take(&mut frame.components);
    // A component's coefficients are given back before those of the next are looked at.
    let planes = components.into_iter().map(|component| Plane::new(component, &frame, go_on));
    let planes = planes.collect::<Result<Vec<Plane>>>()?;

    let tables = Tables::new();
    let mut rgb = Rgb::new(frame.width, frame.height)?;
    let width = planes.iter().map(|p| p.width * p.across).max().unwrap_or(0);
    let mut rows = vec![vec![0; width]; planes.len()];
    let mut sums = Vec::new();
    for y in 0..frame.height {
        if y % ASKED_EVERY == 0 {
            go_on()?;
        }
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.row(y, &mut sums, row);
        }
        for (x, out) in rgb.row_mut(y).chunks_exact_mut(3).enumerate() {
            let sample = |n: usize| rows[n][x];
            let ycc = || tables.rgb(sample(0), sample(1), sample(2));
            out.copy_from_slice(&match colours {
                Colours::Grey => grey(sample(0)),
                Colours::Rgb => [sample(0), sample(1), sample(2)],
                Colours::YCbCr => ycc(),
                // Adobe's files hold what is left of the paper's light.
                Colours::Cmyk => cmyk([0, 1, 2, 3].map(|n| 255 - sample(n))),
                Colours::Ycck => {
                    let [c, m, y] = ycc();
                    cmyk([c, m, y, 255 - sample(3)])
                }
            });
        }
    }
    Ok(rgb)
}

/// As libjpeg guesses.
fn colours(frame: &Frame, notes: &Notes) -> Colours {
    let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
    match (ids.len(), notes.adobe) {
        (1, _) => Colours::Grey,
        (3, _) if notes.jfif => Colours::YCbCr,
        (3, Some(0)) => Colours::Rgb,
        (3, None) if ids == *b"RGB" => Colours::Rgb,
        (3, _) => Colours::YCbCr,
        (_, None | Some(0)) => Colours::Cmyk,
        _ => Colours::Ycck,
    }
}

impl Plane {
    fn new(component: Component, frame: &Frame, go_on: GoOn) -> Result<Plane> {
        let quantiser = component.quantiser.ok_or_else(|| damaged("a colour is missing"))?;
        let stride = 8 * component.columns;
        let mut samples: Vec<u8> = zeroed(stride * 8 * component.rows)?;
        for (n, coefficients) in component.blocks.chunks_exact(64).enumerate() {
            if n % (ASKED_EVERY * component.columns) == 0 {
                go_on()?;
            }
            let block = block::samples(coefficients, &quantiser);
            let first = n / component.columns * 8 * stride + n % component.columns * 8;
            for (r, row) in block.chunks_exact(8).enumerate() {
                samples[first + r * stride..first + r * stride + 8].copy_from_slice(row);
            }
        }
        Ok(Plane {
            samples,
            stride,
            width: component.width,
            height: component.height,
            across: frame.h / component.h,
            down: frame.v / component.v,
        })
    }

    fn samples_of(&self, row: usize) -> &[u8] {
        let row = row.min(self.height - 1);
        &self.samples[row * self.stride..row * self.stride + self.width]
    }

    /// A row of the frame, as wide as this component makes it; `sums` is scratch.
    fn row(&self, y: usize, sums: &mut Vec<i32>, out: &mut [u8]) {
        let near = y / self.down;
        // The row on the other side of the pixel's centre; beyond the edge the same.
        let odd = y % 2 == 1;
        let far = if odd { near + 1 } else { near.saturating_sub(1) };
        let smooth = self.width > 2;
        match (self.across, self.down) {
            (1, 1) => out[..self.width].copy_from_slice(self.samples_of(near)),
            (2, 1) if smooth => {
                sums.clear();
                sums.extend(self.samples_of(near).iter().map(|&s| i32::from(s)));
                across(sums, 2, [1, 2], out);
            }
            (1, 2) => {
                let bias = if odd { 2 } else { 1 };
                let rows = self.samples_of(near).iter().zip(self.samples_of(far));
                for ((&a, &b), out) in rows.zip(out) {
                    *out = ((3 * i32::from(a) + i32::from(b) + bias) >> 2) as u8;
                }
            }
            (2, 2) if smooth => {
                let rows = self.samples_of(near).iter().zip(self.samples_of(far));
                sums.clear();
                sums.extend(rows.map(|(&a, &b)| 3 * i32::from(a) + i32::from(b)));
                across(sums, 4, [8, 7], out);
            }
            (times, _) => {
                let groups = out.chunks_exact_mut(times);
                groups.zip(self.samples_of(near)).for_each(|(out, &s)| out.fill(s));
            }
        }
    }
}

/// Two pixels of each sum: three parts of it and one of its neighbour on that side; `biases` round
/// left and right ones, `bits` are shifted out.
fn across(sums: &[i32], bits: u32, biases: [i32; 2], out: &mut [u8]) {
    let last = sums.len() - 1;
    for (i, (&sum, out)) in sums.iter().zip(out.chunks_exact_mut(2)).enumerate() {
        let left = sums[i.saturating_sub(1)];
        let right = sums[(i + 1).min(last)];
        out[0] = ((3 * sum + left + biases[0]) >> bits) as u8;
        out[1] = ((3 * sum + right + biases[1]) >> bits) as u8;
    }
}

/// What Cb and Cr add, times 2^16.
struct Tables {
    red: [i32; 256],
    blue: [i32; 256],
    green_cr: [i32; 256],
    green_cb: [i32; 256],
}

impl Tables {
    fn new() -> Tables {
        const HALF: i32 = 1 << 15;
        let table = |constant: i32, half: i32, shift: u32| {
            std::array::from_fn(|n| ((n as i32 - 128) * constant + half) >> shift)
        };
        // 1.402, 1.772, 0.71414 and 0.34414, rounded.
        Tables {
            red: table(91881, HALF, 16),
            blue: table(116130, HALF, 16),
            green_cr: table(-46802, 0, 0),
            green_cb: table(-22554, HALF, 0),
        }
    }

    #[inline(always)]
    fn rgb(&self, y: u8, cb: u8, cr: u8) -> [u8; 3] {
        let (y, cb, cr) = (i32::from(y), usize::from(cb), usize::from(cr));
        let green = (self.green_cb[cb] + self.green_cr[cr]) >> 16;
        [y + self.red[cr], y + green, y + self.blue[cb]].map(|v| v.clamp(0, 255) as u8)
    }
}
