//! Rows of image-and-text models whose text model is another row's.

use super::decoders::{LLAMA, QWEN2, QWEN3};
use super::family::Family;
use super::tiled_towers::{IDEFICS3_SIGLIP, INTERN_VIT_6B_OWN, INTERN_VIT_OWN};
use super::tower::Tower;
use super::variants::INTERNLM2;

const INTERNVL_OWN: &str = "InternVLChatModel";
const INTERNVL_OWN_TOWERS: &[&Tower] = &[&INTERN_VIT_OWN, &INTERN_VIT_6B_OWN];
const INTERNVL_OWN_PREFIXES: &[&str] = &["language_model.model."];

/// InternVL in its own format, by the text model that `llm_config` names.
pub(super) const INTERNVL_CHAT: Family = Family {
    architecture: INTERNVL_OWN,
    variants: &[
        ("model_type", "\"internlm2\"", &INTERNVL_INTERNLM2),
        ("model_type", "\"llama\"", &INTERNVL_LLAMA),
        ("model_type", "\"qwen2\"", &INTERNVL_QWEN2),
        ("model_type", "\"qwen3\"", &INTERNVL_QWEN3),
    ],
    // No other: this row is taken where none of the above is.
    must_be: &[("model_type", "\"internlm2\", \"llama\", \"qwen2\" or \"qwen3\"")],
    ..INTERNVL_INTERNLM2
};

const INTERNVL_INTERNLM2: Family = Family {
    architecture: INTERNVL_OWN,
    prefixes: INTERNVL_OWN_PREFIXES,
    towers: INTERNVL_OWN_TOWERS,
    ..INTERNLM2
};

const INTERNVL_LLAMA: Family = Family {
    architecture: INTERNVL_OWN,
    aliases: &[],
    prefixes: INTERNVL_OWN_PREFIXES,
    towers: INTERNVL_OWN_TOWERS,
    ..LLAMA
};

const INTERNVL_QWEN2: Family = Family {
    architecture: INTERNVL_OWN,
    aliases: &[],
    prefixes: INTERNVL_OWN_PREFIXES,
    towers: INTERNVL_OWN_TOWERS,
    ..QWEN2
};

const INTERNVL_QWEN3: Family = Family {
    architecture: INTERNVL_OWN,
    aliases: &[],
    prefixes: INTERNVL_OWN_PREFIXES,
    towers: INTERNVL_OWN_TOWERS,
    ..QWEN3
};

/// Idefics3 and SmolVLM: Llama.
pub(super) const IDEFICS3: Family = Family {
    architecture: "Idefics3ForConditionalGeneration",
    aliases: &["SmolVLMForConditionalGeneration"],
    prefixes: &["model.text_model."],
    towers: &[&IDEFICS3_SIGLIP],
    ..LLAMA
};
