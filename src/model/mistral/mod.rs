//! Mistral's own format: params.json, `consolidated*.safetensors`, tekken.json. What the first two
//! say is brought into Hugging Face's terms, so that nothing behind this module knows of it. Called
//! by `config`, `checkpoint`, `folder` and `hub`; the tokenizer is `text`'s.
//!
//! | file | holds |
//! |---|---|
//! | `params` | params.json -> config.json |
//! | `names` | names of tensors |

mod names;
mod params;

use std::path::Path;

use crate::files::Kind;
use crate::json::{self, Object};
pub use names::name_of;
pub use params::config;

/// What takes config.json's place.
pub const PARAMS: &str = "params.json";
/// What takes the place of the weights' index.
pub const INDEX: &str = "consolidated.safetensors.index.json";
/// What tells it from Meta's format, where weights are not here yet.
const TOKENIZER: &str = "tekken.json";

/// Whether a file holds weights in this format.
pub fn is_weights(name: &str) -> bool {
    name.starts_with("consolidated") && name.ends_with(".safetensors")
}

/// Whether these files are a model in this format, which goes before Hugging Face's where a folder
/// has both.
pub fn is_own<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let names: Vec<&str> = names.collect();
    let has = |name: &str| names.contains(&name);
    let unread = has(TOKENIZER) && !has("config.json");
    has(PARAMS) && (unread || names.iter().any(|name| is_weights(name)))
}

/// The same of a folder. What is not read in this format is left to Hugging Face's, where the
/// folder has both.
pub fn is_own_folder(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(1000);
    let names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let other = |name: &String| name.ends_with(".safetensors") && !is_weights(name);
    let has_both = names.iter().any(|name| name == "config.json") && names.iter().any(other);
    is_own(names.iter().map(String::as_str)) && !(has_both && is_not_read(folder))
}

/// Whether the params.json of a folder describes a model that is not read in this format.
pub fn is_not_read(folder: &Path) -> bool {
    let path = folder.join(PARAMS);
    let params = json::read_object(&path, Kind::Config);
    params.is_ok_and(|params| params::refuse(&Object::new(PARAMS, &params)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_files() {
        for (names, own) in [
            (&["params.json", "consolidated.safetensors", "config.json"][..], true),
            (&["params.json", "consolidated-00001-of-00002.safetensors"], true),
            (&["params.json", "tekken.json"], true),
            (&["params.json", "tekken.json", "config.json"], false),
            (&["params.json", "consolidated.00.pth", "tokenizer.model"], false),
            (&["config.json", "consolidated.safetensors"], false),
        ] {
            assert_eq!(is_own(names.iter().copied()), own, "{names:?}");
        }
    }

    #[test]
    fn what_is_not_read_is_left_to_the_other_format() {
        let folder = std::env::temp_dir().join(format!("triton-vllm-both-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write("consolidated.safetensors", "");
        write("params.json", r#"{"moe": {"num_shared_experts": 1}}"#);
        write("config.json", "{}");
        let alone = is_own_folder(&folder);
        write("model.safetensors", "");
        let beside = is_own_folder(&folder);
        write("params.json", r#"{"dim": 8, "moe": null}"#);
        let dense = is_own_folder(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!([alone, beside, dense], [true, false, true]);
    }
}
