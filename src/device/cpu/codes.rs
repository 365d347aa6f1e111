//! Weights that are held as codes: packed in panels, with the scales and offsets of their groups.
//! `code_packing` makes them, products unpack some inputs of a panel at a time, to what
//! [`QuantPart`] says that codes mean. It knows no source.
//!
//! Eight bits: `[panel][input][lane]`. Four: `[panel][input]`, then 32 bytes whose low halves are
//! the lanes from 0 on and whose high halves those from 32 on.

use std::ops::Range;
use std::sync::Arc;

use super::buffer::Buffer;
use super::lanes::LANES;
use crate::device::{CodeType, InputQuant, QuantForm};
use crate::error::Result;

#[cfg(doc)]
use crate::device::QuantPart;

/// E4M3 is held as if its bias were 15, half precision's, and its scales are larger by this: as
/// halves they are converted by one instruction, the subnormal ones too.
pub const E4M3_FOLD: f32 = 256.0;

/// How codes become numbers.
pub enum Decode {
    /// Four bits: the number of each.
    Four([f32; 16]),
    /// Eight bits, E4M3: numbers are less by [`E4M3_FOLD`]. There are no NaNs.
    E4m3,
    /// Eight bits, two's complement.
    Int8,
}

/// A matrix, or one of a stack of experts.
pub struct Codes {
    /// What codes mean.
    pub decode: Decode,
    /// The number of each code, as scales take it.
    pub numbers: Box<[f32; 256]>,
    /// Of a row.
    pub inputs: usize,
    /// Inputs that share a scale.
    pub group: usize,
    /// As this file's head says.
    pub packed: Buffer<u8>,
    /// `[panel][group][lane]`
    pub scales: Buffer<f32>,
    /// The same, if there are any.
    pub offsets: Option<Buffer<f32>>,
    /// How products round what they multiply these with.
    pub rounding: Option<InputQuant>,
    /// Codes k of all rows belong to input `order[k]`; empty: to input k.
    pub order: Arc<[u32]>,
}

/// Codes of a panel that share their scales.
pub struct Strip<'a> {
    /// `[input]`, then the lanes.
    pub packed: &'a [u8],
    /// By lane.
    pub scales: &'a [f32; LANES],
    /// By lane.
    pub offsets: Option<&'a [f32; LANES]>,
}

impl Codes {
    /// Room for so many panels, all of it zero.
    ///
    /// # Errors
    /// Unavailable: no memory.
    pub fn zeroed(
        form: &QuantForm,
        panels: usize,
        inputs: usize,
        order: &Arc<[u32]>,
    ) -> Result<Codes> {
        let mut numbers = form.codes.numbers();
        let decode = match form.codes {
            CodeType::E4m3 => {
                numbers.iter_mut().for_each(|n| *n /= E4M3_FOLD);
                Decode::E4m3
            }
            CodeType::Int8 => Decode::Int8,
            CodeType::Int4 | CodeType::E2m1 | CodeType::Table(_) => {
                Decode::Four(std::array::from_fn(|code| numbers[code]))
            }
        };

        let lines = panels.saturating_mul(inputs);
        let lanes = panels.saturating_mul(form.groups(inputs)).saturating_mul(LANES);
        let offsets = if form.offsets { Some(Buffer::zeroed(lanes)?) } else { None };
        Ok(Codes {
            decode,
            numbers: Box::new(numbers),
            inputs,
            group: form.group.clamp(1, inputs.max(1)),
            packed: Buffer::zeroed(lines.saturating_mul(LANES * form.codes.bits() / 8))?,
            scales: Buffer::zeroed(lanes)?,
            offsets,
            rounding: form.inputs,
            order: order.clone(),
        })
    }

    /// Bytes of the lanes of an input.
    pub fn line_bytes(&self) -> usize {
        match self.decode {
            Decode::Four(_) => LANES / 2,
            Decode::E4m3 | Decode::Int8 => LANES,
        }
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.inputs.div_ceil(self.group)
    }

    /// Of all that is held.
    pub fn bytes(&self) -> usize {
        let offsets = self.offsets.as_ref().map_or(0, |o| o.len());
        self.packed.len() + 4 * (self.scales.len() + offsets + self.order.len())
    }

    /// Some inputs of a panel, those of a group at a time, each with its first input.
    pub fn strips(
        &self,
        panel: usize,
        inputs: Range<usize>,
    ) -> impl Iterator<Item = (usize, Strip<'_>)> {
        let mut from = inputs.start;
        std::iter::from_fn(move || {
            if from >= inputs.end {
                return None;
            }
            let first = from;
            let group = first / self.group;
            from = inputs.end.min((group + 1) * self.group);

            let line = self.line_bytes();
            let lines = panel * self.inputs + first..panel * self.inputs + from;
            let at = (panel * self.groups() + group) * LANES;
            Some((
                first,
                Strip {
                    packed: &self.packed[lines.start * line..lines.end * line],
                    scales: lanes_at(&self.scales, at),
                    offsets: self.offsets.as_ref().map(|offsets| lanes_at(offsets, at)),
                },
            ))
        })
    }

    /// Values of some inputs of a panel, `[input][lane]`. The definition.
    pub fn unpack(&self, panel: usize, inputs: Range<usize>, to: &mut [f32]) {
        let start = inputs.start;
        for (first, strip) in self.strips(panel, inputs) {
            let to = to[(first - start) * LANES..].chunks_exact_mut(LANES);
            for (line, to) in strip.packed.chunks_exact(self.line_bytes()).zip(to) {
                for (lane, to) in to.iter_mut().enumerate() {
                    let scaled = strip.scales[lane] * self.numbers[self.code(line, lane)];
                    *to = strip.offsets.map_or(scaled, |offsets| scaled + offsets[lane]);
                }
            }
        }
    }

    fn code(&self, line: &[u8], lane: usize) -> usize {
        let code = match self.decode {
            Decode::E4m3 | Decode::Int8 => line[lane],
            Decode::Four(_) => line[lane % (LANES / 2)] >> (4 * (lane / (LANES / 2))) & 15,
        };
        usize::from(code)
    }
}

fn lanes_at(lanes: &[f32], at: usize) -> &[f32; LANES] {
    // proof: a chunk of LANES elements is an array of them.
    lanes[at..].first_chunk().expect("a group has a scale for each lane")
}
