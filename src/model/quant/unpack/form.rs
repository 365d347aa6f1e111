//! What a format becomes on the device, as far as it can be said without a tensor: codes, groups,
//! and how inputs are rounded. The files beside it fill it with a checkpoint's numbers; dummy
//! weights have it as it is.

use crate::device::quant::INPUT_BLOCK;
use crate::device::{CodeType, InputQuant, QuantForm, QuantPart, ScaleOver};
use crate::error::Result;
use crate::invalid;
use crate::model::quant::format::MX_GROUP;
use crate::model::quant::{ByteCodes, Format, Inputs};

/// Rows and inputs that share a scale in [`ScaleOver::Block`].
pub(super) const BLOCK: usize = INPUT_BLOCK;
/// Inputs that share a scale in NVFP4.
const NVFP4_GROUP: usize = 16;
/// Elements that share a scale in bitsandbytes' four bits, if the checkpoint does not say
/// otherwise.
pub(super) const NF4_BLOCK: usize = 64;
/// A step for inputs of dummy weights: room for what norms let through.
const DUMMY_STEP: f32 = 1.0 / 32.0;

/// bitsandbytes' `nf4`: quantiles of the normal distribution.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A part of a weight as devices take it.
pub(super) struct Unpacked<'a> {
    pub form: QuantForm,
    pub part: QuantPart<'a>,
    /// As in `Source::Codes`.
    pub order: Vec<u32>,
}

/// The form of a weight of so many inputs.
///
/// # Errors
/// InvalidArgument, without a name: the inputs are no whole number of groups.
pub fn form_of(format: &Format, inputs: usize) -> Result<QuantForm> {
    let codes = match format {
        Format::Bytes { codes: ByteCodes::E4m3, .. } => CodeType::E4m3,
        Format::Bytes { codes: ByteCodes::Int8, .. } => CodeType::Int8,
        Format::Packed { bits: 0..=4, .. } => CodeType::Int4,
        Format::Packed { .. } => CodeType::Int8,
        Format::Nvfp4 { .. } | Format::Mxfp4 | Format::Mxfp4Stack => CodeType::E2m1,
        Format::Mxfp8 | Format::Online { .. } => CodeType::E4m3,
        Format::Nf4 => CodeType::Table(NF4),
    };

    let group = match format {
        Format::Bytes { over, .. } | Format::Online { over, .. } => match over {
            ScaleOver::Matrix | ScaleOver::Row => inputs,
            ScaleOver::Block => BLOCK,
        },
        Format::Packed { group, .. } => whole_groups(inputs, group.unwrap_or(inputs))?,
        Format::Nvfp4 { .. } => whole_groups(inputs, NVFP4_GROUP)?,
        Format::Mxfp4 | Format::Mxfp4Stack | Format::Mxfp8 => whole_groups(inputs, MX_GROUP)?,
        Format::Nf4 => common_divisor(inputs, NF4_BLOCK),
    };

    let offsets = matches!(format, Format::Packed { symmetric: false, .. });
    let inputs = match format {
        Format::Bytes { inputs, .. } | Format::Online { inputs, .. } => *inputs,
        _ => Inputs::Plain,
    };
    Ok(QuantForm { codes, group, offsets, inputs: rounding(inputs, DUMMY_STEP, Some(0)) })
}

fn whole_groups(inputs: usize, group: usize) -> Result<usize> {
    if group == 0 || !inputs.is_multiple_of(group) {
        return Err(invalid!("{inputs} inputs are no whole number of groups of {group}"));
    }
    Ok(group)
}

/// The largest number that divides both.
pub(super) fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        common_divisor(b, a % b)
    }
}

/// How inputs are rounded, with the step and zero of static ones.
pub(super) fn rounding(inputs: Inputs, step: f32, zero: Option<i8>) -> Option<InputQuant> {
    match inputs {
        Inputs::Plain => None,
        Inputs::E4m3Tensor => Some(InputQuant::E4m3Tensor { step }),
        Inputs::E4m3Row => Some(InputQuant::E4m3Row),
        Inputs::E4m3Block => Some(InputQuant::E4m3Block),
        Inputs::Int8Tensor { symmetric: true } => Some(InputQuant::Int8Tensor { step, zero: None }),
        Inputs::Int8Tensor { symmetric: false } => Some(InputQuant::Int8Tensor { step, zero }),
        Inputs::Int8Row { symmetric: true } => Some(InputQuant::Int8Row),
        Inputs::Int8Row { symmetric: false } => Some(InputQuant::Int8RowWithZero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_whole_ones() {
        let packed = |group| Format::Packed {
            packing: crate::model::quant::Packing::Gptq,
            bits: 4,
            group,
            symmetric: true,
            ordered: false,
        };
        assert_eq!(form_of(&packed(Some(32)), 96).unwrap().group, 32);
        assert_eq!(form_of(&packed(None), 96).unwrap().group, 96);
        let text = form_of(&packed(Some(64)), 96).unwrap_err().to_string();
        assert!(text.contains("96 inputs") && text.contains("64"), "{text}");
        assert!(form_of(&packed(Some(0)), 96).is_err());
        assert!(form_of(&Format::Nvfp4 { modelopt: true }, 24).is_err());
        assert!(form_of(&Format::Mxfp8, 48).is_err());
        // A row's last block may be shorter, and flat blocks may cross rows.
        assert_eq!(form_of(&Format::Nf4, 96).unwrap().group, 32);
    }
}
