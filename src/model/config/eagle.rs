//! Heads that draft from a model's hidden states, by their own config.json; and layers that predict
//! further tokens, by the model that they belong to. Called by `engine` at load. It knows no
//! tensor.

use std::path::Path;

use serde_json::{Map, Value};

use super::draft_head::{DraftHead, EagleVersion, HeadKind};
use super::keys::MAX_DIMENSION;
use super::source::Source;
use super::spec::{ModelSpec, SpecOptions};
use crate::error::{Error, Result};
use crate::files::Kind;
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::{self, Family};

/// Layers whose inputs an EAGLE-3 head reads.
const TAPS: &str = "eagle_aux_hidden_state_layer_ids";
/// Of the layer's own model, in the format of the speculators library.
const INNER: &str = "transformer_layer_config";
/// Names of a head's architecture, behind or in front of which stands which kind it is.
const LLAMA: &str = "LlamaForCausalLM";
/// Ropes that positions beyond the trained ones do not change.
const STRETCHED_ROPES: [&str; 3] = ["default", "linear", "llama3"];

impl ModelSpec {
    /// The head of a folder, for the model `target`: as many positions as that where its rope
    /// allows it.
    ///
    /// # Errors
    /// As [`ModelSpec::read`]; a head of another kind, or for a model of another shape.
    pub fn read_eagle(
        dir: &Path,
        version: EagleVersion,
        options: &SpecOptions,
        target: &ModelSpec,
    ) -> Result<ModelSpec> {
        let path = dir.join("config.json");
        let whole = json::read_object(&path, Kind::Config)?;
        let shown = path.display().to_string();
        Self::eagle(&shown, whole, version, options, target).map_err(Error::on_one_line)
    }

    fn eagle(
        shown: &str,
        whole: Map<String, Value>,
        version: EagleVersion,
        options: &SpecOptions,
        target: &ModelSpec,
    ) -> Result<ModelSpec> {
        let family = family(&Object::new(shown, &whole), version)?;
        let (mut keys, speculators) = flat(shown, whole)?;
        let head = head(&Object::new(shown, &keys), version, speculators, target)?;

        // The head has the model's vocabulary and, if it can, its length.
        for (key, value) in [
            ("vocab_size", Value::from(target.vocab_size)),
            ("num_hidden_layers", 1.into()),
            ("attention_bias", false.into()),
        ] {
            keys.entry(key).or_insert(value);
        }
        keys.insert("tie_word_embeddings".into(), false.into());
        let own = keys.get("max_position_embeddings").and_then(Value::as_u64);
        if stretches(&keys) && own.is_none_or(|own| own < target.max_model_len as u64) {
            keys.insert("max_position_embeddings".into(), target.max_model_len.into());
        }

        let source = Source::of(shown.into(), keys, options)?;
        let options = SpecOptions { head: Some(family), ..options.clone() };
        let mut spec = Self::of(&source, &options)?;
        if head.kind.projects() && spec.hidden != target.hidden {
            return Err(invalid!(
                "{shown}: 'hidden_size' is {}, and a head of this kind has that of its model, {}.",
                spec.hidden,
                target.hidden
            ));
        }
        spec.draft_head = Some(head);
        Ok(spec)
    }

    /// The layer that predicts one token further, behind this model's own: it is as the last of
    /// these that has attention.
    ///
    /// # Errors
    /// Unsupported: a family whose layers of that kind are not known.
    pub fn next_token_layer(&self) -> Result<ModelSpec> {
        let name = self.family.architecture;
        let Some(names) = &self.family.next_token else {
            return Err(Error::Unsupported(format!(
                "speculative_config.method 'mtp': layers of {name} that predict further tokens are \
                 not known here. Remove speculative_config: answers are the same"
            )));
        };
        let attends = (0..self.layers).rev().find(|&layer| self.keys_of(layer).is_some());
        let last = attends.unwrap_or(self.layers.saturating_sub(1));
        let mut spec = self.clone();
        spec.layers = 1;
        spec.recurrent = None;
        spec.ffns = vec![self.ffns[last]];
        spec.sublayers = vec![self.sublayers[last]];
        spec.attention = vec![self.attention[last].clone()];
        if let Some(mixture) = &mut spec.mixture {
            mixture.layers = vec![mixture.layers[last]];
        }

        spec.tied = false;
        spec.vision = None;
        spec.adapters = None;
        spec.draft_head = Some(DraftHead {
            kind: HeadKind::NextToken {
                token_first: names.token_first,
                blank_start: names.blank_start,
            },
            target_hidden: self.hidden,
            taps: Vec::new(),
            few: None,
        });
        Ok(spec)
    }
}

/// The row of a head's architecture: published heads call themselves by their model's, or by a name
/// that says the kind.
fn family(config: &Object, version: EagleVersion) -> Result<&'static Family> {
    let names = config.texts("architectures")?.unwrap_or_default();
    let name = names.first().copied().unwrap_or(LLAMA);
    let (kinds, family) = match version {
        EagleVersion::One => (["Eagle", ""], &architectures::EAGLE),
        EagleVersion::Three => (["Eagle3", ""], &architectures::EAGLE3),
    };
    let speculators = version == EagleVersion::Three && name == "Eagle3Speculator";
    let known = kinds
        .iter()
        .any(|kind| name == format!("{kind}{LLAMA}") || name == format!("{LLAMA}{kind}"));
    if known || speculators {
        return Ok(family);
    }
    Err(Error::Unsupported(format!(
        "{} is '{}': heads of this kind are {LLAMA}, by itself or with '{}' in front.",
        config.name("architectures"),
        json::cut(name),
        kinds[0]
    )))
}

/// Keys of a head and of its layer in one; whether they were apart, as speculators has them.
fn flat(shown: &str, mut whole: Map<String, Value>) -> Result<(Map<String, Value>, bool)> {
    let object = Object::new(shown, &whole).object(INNER)?.is_some();
    let Some(Value::Object(mut keys)) = whole.remove(INNER).filter(|_| object) else {
        return Ok((whole, false));
    };
    keys.extend(whole);
    Ok((keys, true))
}

fn head(
    config: &Object,
    version: EagleVersion,
    speculators: bool,
    target: &ModelSpec,
) -> Result<DraftHead> {
    let target_hidden = target.hidden;
    let vocab_size = target.vocab_size;
    if version == EagleVersion::One {
        let (kind, taps, few) = (HeadKind::Eagle, Vec::new(), None);
        return Ok(DraftHead { kind, target_hidden, taps, few });
    }

    if let Some(own) = config.count("target_hidden_size", MAX_DIMENSION)? {
        if own != target_hidden {
            return Err(invalid!(
                "{} is {own}, and the model's hidden size {target_hidden}: this head is another \
                 model's.",
                config.name("target_hidden_size")
            ));
        }
    }
    if config.flag("norm_before_fc")? == Some(true) {
        return Err(Error::Unsupported(format!(
            "{} is not supported here.",
            config.name("norm_before_fc")
        )));
    }
    let few = config.count("draft_vocab_size", MAX_DIMENSION)?.filter(|&few| few != vocab_size);
    if let Some(few) = few.filter(|&few| few > vocab_size) {
        return Err(invalid!(
            "{} is {few}, more than the {vocab_size} of the model.",
            config.name("draft_vocab_size")
        ));
    }

    Ok(DraftHead {
        kind: HeadKind::Eagle3 {
            norm_before_residual: config.flag("norm_before_residual")?.unwrap_or(speculators),
            norm_output: config.flag("norm_output")?.unwrap_or(false),
        },
        target_hidden,
        taps: taps(config, target.layers)?,
        few,
    })
}

/// The layers that are read: those that are listed, else one near each end and the middle one.
fn taps(config: &Object, layers: usize) -> Result<Vec<usize>> {
    let nested = config.object("eagle_config")?;
    let of = |object: &Object| object.list(TAPS).map(|list| list.map(<[Value]>::to_vec));
    let listed = match (of(config)?, &nested) {
        (None, Some(nested)) => of(nested)?,
        (listed, _) => listed,
    };
    let Some(listed) = listed else {
        if layers < 4 {
            return Err(invalid!(
                "{} must say which layers are read: the model has {layers} only.",
                config.name(TAPS)
            ));
        }
        return Ok(vec![2, layers / 2, layers - 3]);
    };
    let taps: Option<Vec<usize>> = listed
        .iter()
        .map(|id| usize::try_from(id.as_u64()?).ok().filter(|&id| id <= layers))
        .collect();
    let wrong =
        || invalid!("{} must list numbers of the model's {layers} layers.", config.name(TAPS));
    taps.filter(|taps| !taps.is_empty() && taps.len() <= layers + 1).ok_or_else(wrong)
}

/// Whether positions beyond those that the head was trained at are turned as those within.
fn stretches(keys: &Map<String, Value>) -> bool {
    ["rope_scaling", "rope_parameters"].iter().all(|key| match keys.get(*key) {
        Some(Value::Object(rope)) => {
            let kind = rope.get("rope_type").or_else(|| rope.get("type"));
            kind.and_then(Value::as_str).is_none_or(|kind| STRETCHED_ROPES.contains(&kind))
        }
        _ => true,
    })
}

#[cfg(test)]
#[path = "eagle_tests.rs"]
mod tests;
