//! Which files of a repository a model needs, by their names. Called by `hub` before anything is
//! fetched, and by `remote`, which lists no others.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::checkpoint::{self, Files};
use crate::model::gguf::{self, GgufName};
use crate::model::mistral;

/// Everything but weights that a text model needs.
pub(super) const SMALL_FILES: [&str; 35] = [
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
    mistral::PARAMS,
    "tekken.json",
    "tokenizer.model.v1",
    "tokenizer.model.v2",
    "tokenizer.model.v3",
    "tokenizer.model.v7",
    "tokenizer.model.v7m1",
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "2_Dense/pytorch_model.bin",
    "3_Dense/config.json",
    "3_Dense/model.safetensors",
    "3_Dense/pytorch_model.bin",
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
];

/// The files that an index names; each must be in the repository.
pub(super) fn shards<'a>(folder: &Path, index: &str, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let index = folder.join(index);
    let shard = |path: PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = names.iter().find(|name| **name == file).copied();
        known.ok_or_else(|| {
            let file = crate::json::cut(&file);
            Error::NotFound(format!("{} names {file}, which does not exist.", index.display()))
        })
    };
    checkpoint::indexed_files(folder, &index)?.into_iter().map(shard).collect()
}

/// The GGUF files that are wanted, if they are: those that were named, or the one that there is
/// where there are no other weights.
///
/// # Errors
/// NotFound: none is what was named. InvalidArgument: there are several.
pub(super) fn gguf_files<'a>(
    names: &[&'a str],
    files: Files,
    which: &GgufName,
) -> Result<Option<Vec<&'a str>>> {
    let by_name = *which != GgufName::Only;
    let may_be = matches!(files, Files::Any | Files::Gguf);
    if !may_be || (!by_name && !weight_files(names, files).is_empty()) {
        return Ok(None);
    }
    match gguf::choose(names, which)? {
        None if by_name => Err(Error::NotFound("it holds no GGUF file.".into())),
        found => Ok(found),
    }
}

/// In the order in which a checkpoint's reader prefers them; an index stands for its shards.
pub(super) fn weight_files<'a>(names: &[&'a str], files: Files) -> Vec<&'a str> {
    let of = |wanted: &str| names.iter().copied().filter(|&n| n == wanted).collect::<Vec<_>>();
    let mut kinds = Vec::new();
    if files == Files::Adapter {
        kinds.extend(checkpoint::ADAPTER_FILES.map(of));
        return kinds.into_iter().find(|kind| !kind.is_empty()).unwrap_or_default();
    }
    let own = files == Files::Any && mistral::is_own(names.iter().copied());
    if own || files == Files::Mistral {
        kinds.push(of(mistral::INDEX));
        kinds.push(names.iter().copied().filter(|name| mistral::is_weights(name)).collect());
    }
    if matches!(files, Files::Any | Files::HuggingFace | Files::Safetensors) {
        kinds.push(of("model.safetensors.index.json"));
        kinds.push(of("model.safetensors"));
        let other = |n: &&str| n.ends_with(".safetensors") && !n.starts_with("consolidated");
        let plain = |n: &&str| !n.contains('/') && other(n);
        kinds.push(names.iter().copied().filter(plain).collect());
    }
    if matches!(files, Files::Any | Files::HuggingFace | Files::Torch) {
        kinds.push(of("pytorch_model.bin.index.json"));
        kinds.push(of("pytorch_model.bin"));
    }
    kinds.into_iter().find(|kind| !kind.is_empty()).unwrap_or_default()
}

/// Whether a name is of a shell pattern with `*` (any text, also `/`) and `?`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();

    let (mut p, mut n) = (0, 0);
    // The last star, and the first character of the name that it does not stand for.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&c) = name.get(n) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&x) if x == '?' || x == c => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (p, n) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == '*')
}
