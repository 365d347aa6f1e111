//! A tensor of a GGUF file as checkpoints of Hugging Face's have it: its rows in their order, its
//! values as floats or as codes. Nothing is held: whoever reads bytes gets them made out of the
//! file's, a few rows at a time, several threads at once. Made by `tensors`; it knows no name.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::block_types::{BlockType, Codes, Content, Narrow};
use super::blocks;
use super::header::Stored;
use crate::device::{Bytes, DType, Storage};
use crate::error::Result;
use crate::model::checkpoint::Shard;

/// Rows that are fetched together have about so many bytes.
const FETCH_BYTES: usize = 256 << 10;

/// Which of a file's rows is which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    AsStored,
    /// Of each head of so many rows the two that are rotated together lie side by side; they belong
    /// half a head apart.
    Pairs {
        head: usize,
    },
}

impl Order {
    /// The row of the file that is `row` of the checkpoint.
    fn source(self, row: usize) -> usize {
        match self {
            Order::AsStored => row,
            Order::Pairs { head } => {
                let in_head = row % head;
                let (part, pair) = (in_head / (head / 2), in_head % (head / 2));
                row - in_head + 2 * pair + part
            }
        }
    }
}

/// A tensor, and how a checkpoint has it.
pub(super) struct Tensor {
    pub stored: Stored,
    pub shard: Arc<Shard>,
    pub order: Order,
    /// Each value is by so much less than the file says.
    pub less: f32,
}

/// What bytes are made of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// f32.
    Values,
    /// Codes, as narrow as the type allows.
    Narrow,
    /// Codes of a byte, two's complement.
    Wide,
}

/// The bytes of a tensor in a form.
pub(super) struct View {
    pub tensor: Arc<Tensor>,
    pub form: Form,
}

impl Tensor {
    /// Its bytes as they are, if they are floats and nothing is to become of them.
    pub fn plain(&self) -> Option<(DType, Bytes<'_>)> {
        let dtype = match self.stored.kind.content {
            Content::F32 => DType::F32,
            Content::F16 => DType::F16,
            Content::BF16 => DType::BF16,
            Content::Codes(_) => return None,
        };
        let untouched = self.order == Order::AsStored && self.less == 0.0;
        let at = self.stored.at as usize;
        untouched.then(|| (dtype, self.shard.bytes().slice(at..at + self.stored.bytes())))
    }

    /// All values, row by row.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let Stored { rows, cols, .. } = self.stored;
        let mut floats = vec![0.0; rows * cols];
        self.each_row(0..rows, |row, bytes| {
            self.values(bytes, &mut floats[row * cols..(row + 1) * cols]);
        })?;
        Ok(floats)
    }

    /// How its integers are packed, if they are.
    pub fn codes(&self) -> Option<&'static Codes> {
        match &self.stored.kind.content {
            Content::Codes(codes) => Some(codes),
            _ => None,
        }
    }

    /// Scale and offset of each group of `group` elements of these rows, which is no more than the
    /// type's own. Offsets pay for what codes of this form are more than the integers.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn scales(
        &self,
        rows: Range<usize>,
        group: usize,
        form: Form,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let Some(codes) = self.codes() else { return Ok((Vec::new(), Vec::new())) };
        let kind = self.stored.kind;
        let again = codes.group / group.max(1);
        let surplus = match (form, codes.narrow) {
            (Form::Narrow, Narrow::Int4 { plus }) => f32::from(8 - plus),
            _ => 0.0,
        };

        let per_block = kind.elements / codes.group;
        let mut block_scales = vec![0.0; per_block];
        let mut block_offsets = vec![0.0; per_block];
        let count = rows.len() * (self.stored.cols / group.max(1));
        let mut scales = Vec::with_capacity(count);
        let mut offsets = Vec::with_capacity(count);
        self.each_row(rows, |_, row| {
            for block in row.chunks_exact(kind.bytes) {
                (codes.scales)(block, &mut block_scales, &mut block_offsets);
                for (scale, offset) in block_scales.iter().zip(&block_offsets) {
                    scales.extend(std::iter::repeat_n(*scale, again));
                    offsets.extend(std::iter::repeat_n(offset + surplus * scale, again));
                }
            }
        })?;
        Ok((scales, offsets))
    }

    /// Give the bytes of these rows of the checkpoint to `take`, one after the other.
    fn each_row(&self, rows: Range<usize>, mut take: impl FnMut(usize, &[u8])) -> Result<()> {
        let row_bytes = self.stored.row_bytes();
        let together = (FETCH_BYTES / row_bytes.max(1)).max(1);
        let file = self.shard.bytes();
        let mut bytes = Vec::new();
        let mut next = rows.start;
        while next < rows.end {
            let source = match self.order {
                Order::AsStored => next..rows.end.min(next + together),
                // A row of a head may come from anywhere in it.
                Order::Pairs { head } => next / head * head..(next / head + 1) * head,
            };
            bytes.resize(source.len() * row_bytes, 0);
            file.read(self.stored.at as usize + source.start * row_bytes, &mut bytes)?;

            let end = rows.end.min(source.end);
            for row in next..end {
                let from = (self.order.source(row) - source.start) * row_bytes;
                take(row, &bytes[from..from + row_bytes]);
            }
            next = end;
        }
        Ok(())
    }

    /// The values of a row of the file.
    fn values(&self, row: &[u8], values: &mut [f32]) {
        match &self.stored.kind.content {
            Content::F32 => floats(row, values, f32::from_le_bytes),
            Content::F16 => floats(row, values, |b| f16::from_le_bytes(b).to_f32()),
            Content::BF16 => floats(row, values, |b| bf16::from_le_bytes(b).to_f32()),
            Content::Codes(codes) => coded_values(self.stored.kind, codes, row, values),
        }
        if self.less != 0.0 {
            values.iter_mut().for_each(|value| *value -= self.less);
        }
    }
}

/// Elements and groups of a block at most.
const BLOCK_ELEMENTS_MAX: usize = 256;
const BLOCK_GROUPS_MAX: usize = 16;

fn coded_values(kind: &BlockType, codes: &Codes, row: &[u8], values: &mut [f32]) {
    let mut integers = [0; BLOCK_ELEMENTS_MAX];
    let mut scales = [0.0; BLOCK_GROUPS_MAX];
    let mut offsets = [0.0; BLOCK_GROUPS_MAX];
    let (integers, groups) = (&mut integers[..kind.elements], kind.elements / codes.group);
    let blocks = row.chunks_exact(kind.bytes);

    for (block, values) in blocks.zip(values.chunks_exact_mut(kind.elements)) {
        (codes.scales)(block, &mut scales[..groups], &mut offsets[..groups]);
        (codes.integers)(block, integers);
        let groups = values.chunks_exact_mut(codes.group).zip(integers.chunks_exact(codes.group));
        for (n, (values, integers)) in groups.enumerate() {
            for (value, integer) in values.iter_mut().zip(integers) {
                *value = scales[n] * f32::from(*integer);
                if codes.offsets {
                    *value += offsets[n];
                }
            }
        }
    }
}

fn floats<const N: usize>(row: &[u8], values: &mut [f32], of: impl Fn([u8; N]) -> f32) {
    let (elements, _) = row.as_chunks::<N>();
    for (value, bytes) in values.iter_mut().zip(elements) {
        *value = of(*bytes);
    }
}

impl View {
    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        let cols = self.tensor.stored.cols;
        match (self.form, self.tensor.codes()) {
            (Form::Values, _) => 4 * cols,
            (Form::Narrow, Some(codes)) => codes.narrow.codes().row_bytes(cols),
            (Form::Narrow, None) | (Form::Wide, _) => cols,
        }
    }

    /// Those of some rows.
    pub fn bytes(&self, rows: Range<usize>) -> Bytes<'_> {
        let row_bytes = self.row_bytes();
        let at = (rows.start * row_bytes) as u64;
        Bytes::Stored { storage: self, at, length: rows.len() * row_bytes }
    }

    /// A row of the file in this form.
    fn make(&self, row: &[u8], scratch: &mut Scratch, made: &mut [u8]) {
        let tensor = &self.tensor;
        if self.form == Form::Values {
            scratch.values.resize(tensor.stored.cols, 0.0);
            tensor.values(row, &mut scratch.values);
            for (bytes, value) in made.chunks_exact_mut(4).zip(&scratch.values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            return;
        }

        let Some(codes) = tensor.codes() else { return };
        let kind = tensor.stored.kind;
        scratch.integers.resize(tensor.stored.cols, 0);
        let integers = scratch.integers.chunks_exact_mut(kind.elements);
        for (block, integers) in row.chunks_exact(kind.bytes).zip(integers) {
            (codes.integers)(block, integers);
        }
        match (self.form, codes.narrow) {
            (Form::Narrow, Narrow::Int4 { plus }) => {
                two_to_a_byte(&scratch.integers, made, |q| (q + plus).cast_unsigned() & 15);
            }
            (Form::Narrow, Narrow::Table) => {
                let place = |q| blocks::IQ4_NL.iter().position(|&entry| entry == q);
                two_to_a_byte(&scratch.integers, made, |q| place(q).unwrap_or(0) as u8);
            }
            _ => {
                for (byte, integer) in made.iter_mut().zip(&scratch.integers) {
                    *byte = integer.cast_unsigned();
                }
            }
        }
    }
}

/// The earlier of two codes in the low half.
fn two_to_a_byte(integers: &[i8], made: &mut [u8], code: impl Fn(i8) -> u8) {
    for (byte, pair) in made.iter_mut().zip(integers.chunks(2)) {
        *byte = match *pair {
            [low, high] => code(low) | code(high) << 4,
            [low] => code(low),
            _ => 0,
        };
    }
}

/// What a row passes through.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    integers: Vec<i8>,
}

impl Storage for View {
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let row_bytes = self.row_bytes();
        let at = at as usize;
        if to.is_empty() || row_bytes == 0 {
            return Ok(());
        }
        let end = at + to.len();
        let rows = at / row_bytes..end.div_ceil(row_bytes);
        let mut scratch = Scratch::default();
        let mut part = vec![0; row_bytes];
        self.tensor.each_row(rows, |row, bytes| {
            let start = row * row_bytes;
            if start >= at && start + row_bytes <= end {
                self.make(bytes, &mut scratch, &mut to[start - at..start - at + row_bytes]);
                return;
            }
            // Only a part of this row was asked for.
            self.make(bytes, &mut scratch, &mut part);
            let (from, until) = (at.max(start), end.min(start + row_bytes));
            to[from - at..until - at].copy_from_slice(&part[from - start..until - start]);
        })
    }
}

#[cfg(test)]
#[path = "tensor_tests.rs"]
mod tests;
