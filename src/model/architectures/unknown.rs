//! What to say of an architecture that has no row: the version of the Python backend that served it
//! last, or the row whose name is nearest. Called by `config`, which makes the line.

use super::{FAMILIES, WHOLE};
use crate::error;

/// Architectures that the Python backend served once, and the last version that did.
const GONE: &[(&str, &str)] = &[
    ("ArcticForCausalLM", "0.28.0"),
    ("AyaVisionForConditionalGeneration", "0.24.0"),
    ("BaiChuanForCausalLM", "0.23.0"),
    ("BaichuanForCausalLM", "0.23.0"),
    ("DonutForConditionalGeneration", "0.10.2"),
    ("ErnieForSequenceClassification", "0.23.0"),
    ("ErnieForTokenClassification", "0.23.0"),
    ("ErnieModel", "0.23.0"),
    ("FuyuForCausalLM", "0.25.0"),
    ("Grok1ForCausalLM", "0.24.0"),
    ("Grok1ModelForCausalLM", "0.24.0"),
    ("InternLM2VEForCausalLM", "0.23.0"),
    ("JAISLMHeadModel", "0.22.0"),
    ("MPTForCausalLM", "0.28.0"),
    ("MantisForConditionalGeneration", "0.24.0"),
    ("MiniMaxForCausalLM", "0.23.0"),
    ("MiniMaxM1ForCausalLM", "0.23.0"),
    ("MiniMaxText01ForCausalLM", "0.23.0"),
    ("MiniMaxVL01ForConditionalGeneration", "0.23.0"),
    ("MllamaForConditionalGeneration", "0.10.2"),
    ("MotifForCausalLM", "0.10.2"),
    ("MusicFlamingoForConditionalGeneration", "0.24.0"),
    ("OuroForCausalLM", "0.26.0"),
    ("PersimmonForCausalLM", "0.25.0"),
    ("Phi3SmallForCausalLM", "0.9.2"),
    ("Phi4FlashForCausalLM", "0.10.2"),
    ("Phi4MultimodalForCausalLM", "0.12.0"),
    ("Plamo2ForCausalLM", "0.26.0"),
    ("QWenLMHeadModel", "0.23.0"),
    ("QwenVLForConditionalGeneration", "0.23.0"),
    ("RWForCausalLM", "0.28.0"),
    ("TarsierForConditionalGeneration", "0.24.0"),
    ("Tarsier2ForConditionalGeneration", "0.23.0"),
    ("TeleChatForCausalLM", "0.25.0"),
];

/// Endings of names, which say nothing of the family.
const ENDINGS: [&str; 5] =
    [WHOLE, "ForConditionalGeneration", "ForSequenceClassification", "LMHeadModel", "Model"];
/// Letters that a name must begin with to be called a relative.
const LETTERS: usize = 3;

/// The last version of the Python backend that served it, if it no longer does.
pub fn gone(architecture: &str) -> Option<&'static str> {
    let found = GONE.iter().find(|(name, _)| *name == architecture);
    found.map(|&(_, version)| version)
}

/// The architecture that is meant, if that can be guessed: the one that fewest letters have to be
/// changed for, up to a third of the name (a slip of the pen); else the one whose name is the
/// longest beginning of this one's, or of `model_type` (an older version, or a plainer model of the
/// same house).
pub fn nearest(architecture: &str, model_type: Option<&str>) -> Option<&'static str> {
    let name = stem(architecture);
    let names = FAMILIES.iter().flat_map(|family| {
        std::iter::once(family.architecture).chain(family.aliases.iter().copied())
    });
    let stems: Vec<(String, &str)> = names.map(|known| (stem(known), known)).collect();
    if let Some(meant) = error::nearest(&name, stems.iter().map(|(stem, _)| stem.as_str())) {
        return stems.iter().find(|(stem, _)| stem == meant).map(|&(_, known)| known);
    }

    let model_type = model_type.map(stem).unwrap_or_default();
    let begins = |known: &str| name.starts_with(known) || model_type.starts_with(known);
    // Of equal ones the first.
    let relatives = stems.iter().rev().filter(|(stem, _)| stem.len() >= LETTERS && begins(stem));
    relatives.max_by_key(|(stem, _)| stem.len()).map(|&(_, known)| known)
}

/// A name without its ending, in small letters and digits.
fn stem(name: &str) -> String {
    let name = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_relatives_are_found() {
        for (name, model_type, meant) in [
            ("LamaForCausalLM", None, Some("LlamaForCausalLM")),
            ("MixtralForCasualLM", None, Some("MixtralForCausalLM")),
            ("Qwen2MoeForCausalML", None, Some("Qwen2MoeForCausalLM")),
            ("Llama7ForCausalLM", Some("llama7"), Some("LlamaForCausalLM")),
            ("Qwen3SomethingForCausalLM", None, Some("Qwen3ForCausalLM")),
            ("Whatever", Some("gpt_oss_large"), Some("GptOssForCausalLM")),
            ("JambooForCausalLM", Some("jamba"), Some("JambaForCausalLM")),
            ("RwkvForCausalLM", Some("rwkv"), None),
            ("", None, None),
            ("ForCausalLM", None, None),
        ] {
            assert_eq!(nearest(name, model_type), meant, "{name}");
        }
    }

    #[test]
    fn what_is_gone_has_no_row() {
        for (name, _) in GONE {
            assert!(super::super::find(name).is_none(), "{name} is served");
        }
        assert_eq!(gone("MPTForCausalLM"), Some("0.28.0"));
        assert_eq!(gone("LlamaForCausalLM"), None);
    }
}
