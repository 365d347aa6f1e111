//! How one linear's weight lies in a checkpoint: what [`super`]'s scheme says of a layer's name,
//! and what `load` turns into the one form that devices take. It knows no file and no layer.

use crate::device::ScaleOver;

/// Inputs that share a power of two in OCP's microscaling formats.
pub const MX_GROUP: usize = 32;

/// Of all parts of a weight; parts that are stacked must have the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// A byte for each element, `weight` `[N, K]`.
    Bytes {
        /// What the bytes are.
        codes: ByteCodes,
        /// Behind the layer's name: `weight_scale`, or `weight_scale_inv`, which multiplies too.
        scale: &'static str,
        /// What shares a scale.
        over: ScaleOver,
        /// How inputs are rounded.
        inputs: Inputs,
    },
    /// Integers of a few bits, several in a word.
    Packed {
        /// Names and order.
        packing: Packing,
        /// Bits of a code, 2 to 8.
        bits: u32,
        /// Inputs that share a scale; none: all of a row.
        group: Option<usize>,
        /// No zeros are read: codes are less 2^(bits - 1).
        symmetric: bool,
        /// Inputs belong to groups by `g_idx` (`desc_act`, `actorder: group`).
        ordered: bool,
    },
    /// Fours of E2M1 with a scale for each 16 inputs and one for all.
    Nvfp4 {
        /// `weight` and `weight_scale_2`, which multiplies; else `weight_packed` and
        /// `weight_global_scale`, which divides.
        modelopt: bool,
    },
    /// Fours of E2M1 with a power of two for each 32 inputs: `weight_packed`, `weight_scale`.
    Mxfp4,
    /// The same of all experts in one tensor as GPT-OSS stores them: `*_blocks`, `*_scales`.
    Mxfp4Stack,
    /// E4M3 with a power of two for each 32 inputs.
    Mxfp8,
    /// bitsandbytes' four bits with a table, flat.
    Nf4,
    /// Stored plain, quantised as it is loaded.
    Online {
        /// What shares a scale.
        over: ScaleOver,
        /// How inputs are rounded.
        inputs: Inputs,
    },
}

/// What the bytes of [`Format::Bytes`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteCodes {
    /// E4M3.
    E4m3,
    /// Two's complement.
    Int8,
}

/// Names and order of packed integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// compressed-tensors: `weight_packed` along the inputs.
    CompressedTensors,
    /// AWQ's "gemm": `qweight` along the outputs, in its own order.
    Awq,
    /// GPTQ: `qweight` along the inputs, zeros less 1.
    Gptq,
    /// The same with zeros as they are.
    GptqV2,
}

/// How a product rounds its inputs, before the numbers of the checkpoint are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// Not at all.
    Plain,
    /// To E4M3 by `input_scale`.
    E4m3Tensor,
    /// To E4M3, row by row.
    E4m3Row,
    /// To E4M3, 128 inputs at a time.
    E4m3Block,
    /// To bytes by `input_scale`; with `input_zero_point` if asymmetric.
    Int8Tensor {
        /// There is no zero point.
        symmetric: bool,
    },
    /// To bytes, row by row.
    Int8Row {
        /// Without a zero point.
        symmetric: bool,
    },
}
