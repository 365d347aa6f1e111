//! A tensor as it is stored, whatever its element type: what quantised formats are made of. Made by
//! [`super::Checkpoint::raw`], read by `quant`. It never knows what a tensor is for.

use std::fmt::{self, Display};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::device::{Bytes, CodeType, DType};
use crate::error::{Error, Result};
use crate::{internal, invalid};

/// Element types of stored tensors. What a weight is computed in is a [`DType`]; three of these are
/// one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    BF16,
    /// OCP's E4M3, which has no infinities.
    F8E4M3,
    /// A power of two: 2^(byte - 127); 255 is no number.
    F8E8M0,
    /// A byte with sign.
    I8,
    /// A byte.
    U8,
    /// Four bytes with sign.
    I32,
    /// Eight bytes with sign.
    I64,
}

/// As safetensors names them, ours, and bytes of an element.
const TYPES: [(Dtype, StoredType, &str, usize); 9] = [
    (Dtype::F32, StoredType::F32, "F32", 4),
    (Dtype::F16, StoredType::F16, "F16", 2),
    (Dtype::BF16, StoredType::BF16, "BF16", 2),
    (Dtype::F8_E4M3, StoredType::F8E4M3, "F8_E4M3", 1),
    (Dtype::F8_E8M0, StoredType::F8E8M0, "F8_E8M0", 1),
    (Dtype::I8, StoredType::I8, "I8", 1),
    (Dtype::U8, StoredType::U8, "U8", 1),
    (Dtype::I32, StoredType::I32, "I32", 4),
    (Dtype::I64, StoredType::I64, "I64", 8),
];

impl StoredType {
    /// Those that weights are computed in.
    pub const PLAIN: [StoredType; 3] = [StoredType::F32, StoredType::F16, StoredType::BF16];

    /// None: a type that no format uses.
    pub(super) fn of(dtype: Dtype) -> Option<StoredType> {
        TYPES.iter().find(|row| row.0 == dtype).map(|row| row.1)
    }

    fn row(self) -> Option<(&'static str, usize)> {
        TYPES.iter().find(|row| row.1 == self).map(|row| (row.2, row.3))
    }

    /// Of one element.
    pub fn bytes(self) -> usize {
        self.row().map_or(1, |row| row.1)
    }

    /// The type that such a weight is computed in, if any is.
    pub fn plain(self) -> Option<DType> {
        match self {
            StoredType::F32 => Some(DType::F32),
            StoredType::F16 => Some(DType::F16),
            StoredType::BF16 => Some(DType::BF16),
            _ => None,
        }
    }
}

impl Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().map_or("?", |row| row.0))
    }
}

/// A tensor of a checkpoint, row-major, not aligned.
#[derive(Clone)]
pub struct RawTensor<'a> {
    /// Of an element.
    pub dtype: StoredType,
    /// Of the whole; none for a single number.
    pub shape: &'a [usize],
    /// As many as type and shape say.
    pub bytes: Bytes<'a>,
    pub(super) name: &'a str,
    pub(super) file: &'a Path,
}

impl RawTensor<'_> {
    /// File and tensor, for messages.
    pub fn shown(&self) -> String {
        format!("{}: tensor '{}'", self.file.display(), self.name)
    }

    /// An error of one line that names file and tensor; `what` goes on behind the name.
    pub fn wrong(&self, what: impl Display) -> Error {
        invalid!("{} {what}.", self.shown())
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// It has none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Elements of a floating type, row by row.
    ///
    /// # Errors
    /// They cannot be read. Internal: another type, which the caller did not rule out.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let bytes = self.bytes.load()?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let each = |numbers: [f32; 256]| bytes.iter().map(|&b| numbers[usize::from(b)]).collect();
        Ok(match self.dtype {
            StoredType::F32 => {
                let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                words.map(f32::from_le_bytes).collect()
            }
            StoredType::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            StoredType::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            StoredType::F8E4M3 => each(CodeType::E4m3.numbers()),
            StoredType::F8E8M0 => each(std::array::from_fn(|byte| power_of_two(byte as u8))),
            other => return Err(internal!("tensor '{}': floats of {other}", self.name)),
        })
    }

    /// Elements of an integer type, row by row.
    ///
    /// # Errors
    /// As `floats`.
    pub fn integers(&self) -> Result<Vec<i64>> {
        let bytes = self.bytes.load()?;
        Ok(match self.dtype {
            StoredType::I8 => bytes.iter().map(|&b| i64::from(b.cast_signed())).collect(),
            StoredType::U8 => bytes.iter().map(|&b| i64::from(b)).collect(),
            StoredType::I32 => {
                let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
                words.map(|b| i64::from(i32::from_le_bytes(b))).collect()
            }
            StoredType::I64 => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect(),
            other => return Err(internal!("tensor '{}': integers of {other}", self.name)),
        })
    }
}

/// What a byte of E8M0 stands for.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        // The least is below f32's normal numbers.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_those_of_their_definition() {
        for byte in 0..255u8 {
            assert_eq!(f64::from(power_of_two(byte)), 2f64.powi(i32::from(byte) - 127), "{byte}");
        }
        assert!(power_of_two(255).is_nan());
    }

    #[test]
    fn elements_by_type() {
        let tensor = |dtype, bytes| RawTensor {
            dtype,
            shape: &[],
            bytes: Bytes::InMemory(bytes),
            name: "t",
            file: Path::new("f"),
        };
        assert_eq!(tensor(StoredType::BF16, &[0x80, 0xbf]).floats().unwrap(), [-1.0]);
        assert_eq!(tensor(StoredType::F16, &[0x00, 0x3e]).floats().unwrap(), [1.5]);
        assert_eq!(tensor(StoredType::F8E4M3, &[0x38, 0xb8]).floats().unwrap(), [1.0, -1.0]);
        assert_eq!(tensor(StoredType::I32, &[0xff; 4]).integers().unwrap(), [-1]);
        assert_eq!(tensor(StoredType::I8, &[0x80, 1]).integers().unwrap(), [-128, 1]);
        assert_eq!(tensor(StoredType::I64, &[2, 0, 0, 0, 0, 0, 0, 0]).integers().unwrap(), [2]);
        assert!(tensor(StoredType::U8, &[1]).floats().is_err());
    }
}
