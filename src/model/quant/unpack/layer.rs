//! The tensors of one quantised linear, by the names behind its own, with the checks that all
//! formats share: types, shapes, and numbers that are some. The files beside it ask for them.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use bytemuck::allocation::try_zeroed_vec;
use rayon::prelude::*;

use crate::device::Bytes;
use crate::error::{Error, Result};
use crate::model::checkpoint::{Checkpoint, RawTensor, StoredType};

/// What scales are stored as, in all formats but those with powers of two.
pub(super) const FLOATS: [StoredType; 5] =
    [StoredType::F32, StoredType::F16, StoredType::BF16, StoredType::F8E4M3, StoredType::F8E8M0];
/// A single number's shapes.
const SINGLE: [&[usize]; 3] = [&[], &[1], &[1, 1]];

/// What one thread reads at a time.
const SLICE_BYTES: usize = 1 << 20;

/// Tensors whose names begin with a layer's.
#[derive(Clone)]
pub(super) struct LayerTensors<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Without `.weight`.
    pub name: String,
}

/// Which numbers make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    /// Finite ones.
    Finite,
    /// Of these those that are not below 0.
    NotNegative,
    /// Of these those above 0.
    Positive,
}

impl<'a> LayerTensors<'a> {
    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.full(name))
    }

    /// A text of at most so many bytes, stored as numbers.
    ///
    /// # Errors
    /// As `raw`; it is longer.
    pub fn text(&self, name: &str, bytes_max: usize) -> Result<(Vec<u8>, RawTensor<'a>)> {
        let shape = match self.checkpoint.shape_of(&self.full(name)) {
            Some(&[length]) => [length.min(bytes_max)],
            _ => [bytes_max],
        };
        let raw = self.raw(name, &[StoredType::U8], &[&shape])?;
        Ok((raw.bytes.load()?.into_owned(), raw))
    }

    /// # Errors
    /// As [`Checkpoint::raw`].
    pub fn raw(
        &self,
        name: &str,
        types: &[StoredType],
        shapes: &[&[usize]],
    ) -> Result<RawTensor<'a>> {
        self.checkpoint.raw(&self.full(name), types, shapes)
    }

    /// Numbers of a floating type.
    ///
    /// # Errors
    /// As `raw`; one that makes no sense.
    pub fn numbers(&self, name: &str, shapes: &[&[usize]], sense: Sense) -> Result<Vec<f32>> {
        sensible(&self.raw(name, &FLOATS, shapes)?, sense)
    }

    /// Powers of two, stored as bytes.
    ///
    /// # Errors
    /// As `numbers`.
    pub fn powers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut raw = self.raw(name, &[StoredType::U8, StoredType::F8E8M0], &[shape])?;
        raw.dtype = StoredType::F8E8M0;
        sensible(&raw, Sense::Positive)
    }

    /// A single number above 0.
    ///
    /// # Errors
    /// As `numbers`.
    pub fn number(&self, name: &str) -> Result<f32> {
        let numbers = self.numbers(name, &SINGLE, Sense::Positive)?;
        Ok(numbers.first().copied().unwrap_or(1.0))
    }

    /// A single integer.
    ///
    /// # Errors
    /// As `raw`; it is out of the range.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<i64> {
        let types = [StoredType::I8, StoredType::I32, StoredType::I64];
        let raw = self.raw(name, &types, &SINGLE)?;
        let value = raw.integers()?.first().copied().unwrap_or(0);
        if !range.contains(&value) {
            let (least, largest) = range.into_inner();
            return Err(raw.wrong(format!("is {value}, expected {least} to {largest}")));
        }
        Ok(value)
    }
}

/// All bytes of a large tensor, read by several threads.
///
/// # Errors
/// They cannot be read; Unavailable: no memory for them.
pub fn read<'a>(bytes: &Bytes<'a>) -> Result<Cow<'a, [u8]>> {
    if !matches!(bytes, Bytes::Stored { .. }) || bytes.len() <= SLICE_BYTES {
        return bytes.load();
    }
    let mut all = zeroed(bytes.len())?;
    let slices = all.par_chunks_mut(SLICE_BYTES).enumerate();
    slices.try_for_each(|(n, slice)| bytes.read(n * SLICE_BYTES, slice))?;
    Ok(Cow::Owned(all))
}

/// Memory for codes.
///
/// # Errors
/// Unavailable: there is none.
pub fn zeroed(length: usize) -> Result<Vec<u8>> {
    try_zeroed_vec(length).map_err(|()| {
        Error::Unavailable(format!("no memory for {length} bytes of codes: use a smaller model."))
    })
}

/// All numbers of a tensor, if they make sense.
fn sensible(raw: &RawTensor, sense: Sense) -> Result<Vec<f32>> {
    let values = raw.floats()?;
    let good = |x: &f32| match sense {
        Sense::Finite => x.is_finite(),
        Sense::NotNegative => x.is_finite() && *x >= 0.0,
        Sense::Positive => x.is_finite() && *x > 0.0,
    };
    match values.iter().position(|x| !good(x)) {
        None => Ok(values),
        Some(at) => {
            let expected = match sense {
                Sense::Finite => "finite numbers",
                Sense::NotNegative => "finite numbers, none below 0",
                Sense::Positive => "finite numbers above 0",
            };
            Err(raw.wrong(format!("holds {} (number {at}), expected {expected}", values[at])))
        }
    }
}
