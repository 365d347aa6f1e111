//! The methods by which checkpoints are quantised, one row each: what `quant_method` calls it,
//! which values of the argument `quantization` agree with it, which files beside config.json may
//! describe it, and the reader of its keys. `recognise` finds the row; a row never knows another.
//!
//! | file | holds |
//! |---|---|
//! | `fp8` | `fp8` |
//! | `compressed`, `compressed_args` | `compressed-tensors` |
//! | `packed` | `gptq`, `awq` |
//! | `auto_round` | `auto-round` |
//! | `modelopt` | `modelopt`, `mxfp8` |
//! | `other` | `mxfp4`, `bitsandbytes` |
//! | `layers` | what the readers have in common |

mod auto_round;
mod compressed;
mod compressed_args;
mod fp8;
mod layers;
pub mod modelopt;
mod other;
mod packed;

pub use layers::{plain_head, read, Read};

use super::format::Inputs;
use crate::device::ScaleOver;
use crate::error::Result;
use crate::json::Object;

/// A method of checkpoints.
pub struct Method {
    /// The value of `quant_method`, in lower case.
    pub name: &'static str,
    /// The only `model_type` whose checkpoints are read.
    pub model_type: Option<&'static str>,
    /// Values of the argument `quantization` that agree with it; none: whatever was said, the
    /// checkpoint wins.
    pub arguments: &'static [&'static str],
    /// Values with which the files are looked for where config.json says nothing.
    pub searched_by: &'static [&'static str],
    /// How the names of files end that hold its keys.
    pub files: &'static [&'static str],
    /// Reads its keys.
    pub read: fn(&Object) -> Result<Read>,
}

const GPTQ: [&str; 4] = ["gptq", "auto_gptq", "gptq_marlin", "marlin"];
const AWQ: [&str; 4] = ["awq", "auto_awq", "awq_marlin", "marlin"];

/// Every method of checkpoints that is read.
pub const METHODS: &[Method] = &[
    Method {
        name: "fp8",
        model_type: None,
        arguments: &["fp8"],
        searched_by: &[],
        files: &[],
        read: fp8::read,
    },
    Method {
        name: "compressed-tensors",
        model_type: None,
        arguments: &["compressed-tensors"],
        searched_by: &["compressed-tensors"],
        files: &[],
        read: compressed::read,
    },
    Method {
        name: "gptq",
        model_type: None,
        arguments: &GPTQ,
        searched_by: &["gptq", "auto_gptq", "gptq_marlin"],
        files: &["quantize_config.json"],
        read: packed::gptq,
    },
    Method {
        name: "awq",
        model_type: None,
        arguments: &AWQ,
        searched_by: &["awq", "auto_awq", "awq_marlin"],
        files: &["quantize_config.json", "quant_config.json"],
        read: packed::awq,
    },
    Method {
        name: "auto-round",
        model_type: None,
        arguments: &[],
        searched_by: &["inc", "auto-round"],
        files: &["quantization_config.json"],
        read: auto_round::read,
    },
    Method {
        name: "modelopt",
        model_type: None,
        arguments: &[],
        searched_by: &["modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"],
        files: &["hf_quant_config.json"],
        read: modelopt::read,
    },
    Method {
        name: "mxfp8",
        model_type: None,
        arguments: &["mxfp8"],
        searched_by: &[],
        files: &[],
        read: modelopt::mxfp8,
    },
    Method {
        name: "mxfp4",
        model_type: Some("gpt_oss"),
        arguments: &[],
        searched_by: &["gpt_oss_mxfp4"],
        files: &[],
        read: other::mxfp4,
    },
    Method {
        name: "bitsandbytes",
        model_type: None,
        arguments: &["bitsandbytes"],
        searched_by: &["bitsandbytes"],
        files: &[],
        read: other::bitsandbytes,
    },
];

/// A way to quantise a plain checkpoint as it is loaded: the argument, what shares a scale, and how
/// inputs are rounded.
pub const ONLINE: [(&str, ScaleOver, Inputs); 4] = [
    ("fp8_per_tensor", ScaleOver::Matrix, Inputs::E4m3Row),
    ("fp8_per_channel", ScaleOver::Row, Inputs::E4m3Row),
    ("fp8_per_block", ScaleOver::Block, Inputs::E4m3Block),
    // What vLLM still takes for the first.
    (DEPRECATED_ONLINE, ScaleOver::Matrix, Inputs::E4m3Row),
];
/// The old name of `fp8_per_tensor`.
pub const DEPRECATED_ONLINE: &str = "fp8";

/// What vLLM has and this crate has not, in config.json or as the argument.
pub const UNSUPPORTED: [&str; 11] = [
    "experts_int8",
    "int8_per_channel_weight_only",
    "nvfp4_per_token",
    "quark",
    "torchao",
    "humming",
    "moe_wna16",
    "deepseek_v4_fp8",
    "online",
    "mxfp4",
    "mxfp8",
];
/// Arguments that vLLM obeys whatever the checkpoint says, which is to use other kernels.
pub const OTHER_KERNELS: [&str; 2] = ["humming", "moe_wna16"];
/// What vLLM is about to give up.
pub const DEPRECATED: [&str; 2] = ["fbgemm_fp8", "fp_quant"];

/// The names that `quantization` may have, in messages.
pub fn supported() -> Vec<&'static str> {
    let methods = METHODS.iter().flat_map(|method| method.searched_by);
    let mut names: Vec<&str> = ONLINE.iter().map(|(name, ..)| *name).collect();
    names.extend(methods.copied());
    names
}
