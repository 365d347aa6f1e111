//! Types of GGUF tensors, one row each: how many elements a block has, in how many bytes, and how
//! it is taken apart. A new type is a new row and its function in `blocks`. It knows no file.

use super::blocks::{self, d_and_m_first, d_first, eight_scales};
use super::blocks::{q2_k_scales, q3_k_scales, q6_k_scales};
use crate::device::CodeType;
use crate::error::{Error, Result};
use crate::json::cut;

/// A type of tensors.
#[derive(Debug)]
pub(super) struct BlockType {
    /// In a file.
    pub id: u32,
    pub name: &'static str,
    /// Of a block.
    pub elements: usize,
    pub bytes: usize,
    pub content: Content,
}

/// What a block holds.
#[derive(Debug)]
pub(super) enum Content {
    F32,
    F16,
    BF16,
    /// Integers of which neighbours share a scale.
    Codes(Codes),
}

/// How a block's integers are packed.
#[derive(Debug)]
pub(super) struct Codes {
    /// Neighbours that share a scale.
    pub group: usize,
    /// Groups have offsets.
    pub offsets: bool,
    /// The narrowest form that holds them all.
    pub narrow: Narrow,
    pub integers: blocks::Integers,
    pub scales: blocks::Scales,
}

/// Codes as a device takes them where no other weight is stacked with theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Narrow {
    /// [`CodeType::Int8`]: the integer.
    Int8,
    /// [`CodeType::Int4`]: the integer plus this; the offset pays for what it is more than 8.
    Int4 { plus: i8 },
    /// [`CodeType::Table`]: its place in [`blocks::IQ4_NL`].
    Table,
}

impl Narrow {
    pub fn codes(self) -> CodeType {
        match self {
            Narrow::Int8 => CodeType::Int8,
            Narrow::Int4 { .. } => CodeType::Int4,
            Narrow::Table => CodeType::Table(blocks::IQ4_NL.map(f32::from)),
        }
    }
}

impl PartialEq for BlockType {
    fn eq(&self, other: &BlockType) -> bool {
        self.id == other.id
    }
}

const fn plain(id: u32, name: &'static str, bytes: usize, content: Content) -> BlockType {
    BlockType { id, name, elements: 1, bytes, content }
}

const fn packed(
    id: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
    codes: Codes,
) -> BlockType {
    BlockType { id, name, elements, bytes, content: Content::Codes(codes) }
}

const fn codes(
    group: usize,
    narrow: Narrow,
    integers: blocks::Integers,
    scales: blocks::Scales,
) -> Codes {
    Codes { group, offsets: false, narrow, integers, scales }
}

const fn with_offsets(
    group: usize,
    narrow: Narrow,
    integers: blocks::Integers,
    scales: blocks::Scales,
) -> Codes {
    Codes { group, offsets: true, narrow, integers, scales }
}

const SIGNED: Narrow = Narrow::Int4 { plus: 8 };
const UNSIGNED: Narrow = Narrow::Int4 { plus: 0 };

/// Every type that is read.
pub(super) static TYPES: [BlockType; 14] = [
    plain(0, "F32", 4, Content::F32),
    plain(1, "F16", 2, Content::F16),
    packed(2, "Q4_0", 32, 18, codes(32, SIGNED, blocks::q4_0, d_first)),
    packed(3, "Q4_1", 32, 20, with_offsets(32, UNSIGNED, blocks::q4_1, d_and_m_first)),
    packed(6, "Q5_0", 32, 22, codes(32, Narrow::Int8, blocks::q5_0, d_first)),
    packed(7, "Q5_1", 32, 24, with_offsets(32, Narrow::Int8, blocks::q5_1, d_and_m_first)),
    packed(8, "Q8_0", 32, 34, codes(32, Narrow::Int8, blocks::q8_0, d_first)),
    packed(10, "Q2_K", 256, 84, with_offsets(16, SIGNED, blocks::q2_k, q2_k_scales)),
    packed(11, "Q3_K", 256, 110, codes(16, SIGNED, blocks::q3_k, q3_k_scales)),
    packed(12, "Q4_K", 256, 144, with_offsets(32, UNSIGNED, blocks::q4_k, eight_scales)),
    packed(13, "Q5_K", 256, 176, with_offsets(32, Narrow::Int8, blocks::q5_k, eight_scales)),
    packed(14, "Q6_K", 256, 210, codes(16, Narrow::Int8, blocks::q6_k, q6_k_scales)),
    packed(20, "IQ4_NL", 32, 18, codes(32, Narrow::Table, blocks::iq4_nl, d_first)),
    plain(30, "BF16", 2, Content::BF16),
];

/// Names of those that are not.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The type of this number, for the tensor of this name.
///
/// # Errors
/// Unsupported: it is not read; says which are.
pub(super) fn find(id: u32, tensor: &str) -> Result<&'static BlockType> {
    TYPES.iter().find(|kind| kind.id == id).ok_or_else(|| {
        let other = OTHERS.iter().find(|(other, _)| *other == id);
        let name = other.map_or(format!("number {id}"), |(_, name)| name.to_string());
        let supported: Vec<&str> = TYPES.iter().map(|kind| kind.name).collect();
        Error::Unsupported(format!(
            "tensor '{}' has GGUF type {name}; supported: {}.",
            cut(tensor),
            supported.join(", ")
        ))
    })
}
