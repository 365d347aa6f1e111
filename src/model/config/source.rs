//! The files that a model is described by: config.json with what the user overrides in it, and
//! generation_config.json. Called by `config` alone. It knows no key but those that hold others.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::spec::{ConfigFormat, SpecOptions};
use crate::error::Result;
use crate::files::{self, Kind};
use crate::json::object::KeysRead;
use crate::json::{self, Object};
use crate::model::mistral;

/// Keys whose value is an object, which users of model.json also write as its text.
const OBJECTS: [&str; 5] =
    ["rope_scaling", "rope_parameters", "text_config", "llm_config", "quantization_config"];
const TEXT: &str = "text_config";
/// What InternVL calls it in its own format.
const LLM: &str = "llm_config";
const ROPE: &str = "rope_parameters";
/// Objects whose keys count as the whole's, where that has no such key (DBRX).
const PARTS: [&str; 2] = ["attn_config", "ffn_config"];
/// How a checkpoint is quantised: said of the whole, it counts for the text model too.
const QUANTISED: [&str; 2] = ["quantization_config", "compression_config"];
/// Layers without a window, where `rope_parameters` tells kinds of layers apart.
const FULL: &str = "full_attention";

/// config.json as it counts, and where each part came from.
pub struct Source<'a> {
    path: String,
    merged: Map<String, Value>,
    /// Key of the text model's part, and that.
    text_key: &'static str,
    text: Map<String, Value>,
    /// Keys of `PARTS`.
    parts: Vec<(String, Map<String, Value>)>,
    overrides: Map<String, Value>,
    overrides_file: &'a str,
    generation: Option<(String, Map<String, Value>)>,
    text_is_quantised: bool,
}

impl<'a> Source<'a> {
    /// Read `<dir>/config.json`, or params.json in Mistral's own format, and
    /// generation_config.json.
    ///
    /// # Errors
    /// A file that is missing, broken or too large; `text_config` is no object; those of
    /// [`mistral::config`].
    pub fn read(dir: &Path, options: &SpecOptions<'a>) -> Result<Source<'a>> {
        let own = match options.config_format {
            ConfigFormat::Auto => mistral::is_own_folder(dir),
            ConfigFormat::HuggingFace => false,
            ConfigFormat::Mistral => true,
        };
        let mut path = dir.join("config.json");
        let config = json::read_object(&path, Kind::Config);
        let mut config = if own {
            let beside = files::optional(config)?.unwrap_or_default();
            path = dir.join(mistral::PARAMS);
            let params = json::read_object(&path, Kind::Config)?;
            mistral::config(&path.display().to_string(), &params, beside)?
        } else {
            config?
        };

        if let Some(over) = options.over_config {
            merge(&mut config, over);
            let key = text_key(&config);
            let text = config.get_mut(key).and_then(Value::as_object_mut);
            if let Some(text) = text {
                merge(text, over);
            }
        }
        let source = Source::of(path.display().to_string(), config, options)?;
        source.with_generation_of(Some(dir), options)
    }

    /// The same with the generation_config.json of the folder that `options` name, which must be
    /// there, else of this one, if there is one.
    ///
    /// # Errors
    /// It is missing, broken or too large.
    pub fn with_generation_of(
        self,
        dir: Option<&Path>,
        options: &SpecOptions,
    ) -> Result<Source<'a>> {
        let named = options.generation_config;
        let Some(place) = named.or(dir) else { return Ok(self) };
        let place = place.join("generation_config.json");
        let generation = json::read_object(&place, Kind::Config);
        let generation = match named {
            Some(_) => Some(generation?),
            None => files::optional(generation)?,
        };
        let generation = generation.map(|object| (place.display().to_string(), object));
        Ok(Source { generation, ..self })
    }

    /// The same from objects. The text model's own keys stand over those of the whole, the user's
    /// over all.
    ///
    /// # Errors
    /// The text model's part is no object.
    pub fn of(
        path: String,
        mut config: Map<String, Value>,
        options: &SpecOptions<'a>,
    ) -> Result<Source<'a>> {
        let overrides_file = match options.overrides_file {
            "" => "model.json",
            named => named,
        };
        let overrides = options.hf_overrides.cloned().unwrap_or_default();
        let mut overrides = with_objects(overrides);
        if let Some(text) = overrides.remove(LLM) {
            overrides.entry(TEXT).or_insert(text);
        }
        let overrides = with_rope_of(&config, overrides);

        let named = |map: &Map<String, Value>, file: &str, path: &str, key: &str| {
            let keys = Object::new(file, map).over(file, path, map);
            keys.object(key).map(|_| map.get(key).and_then(Value::as_object).cloned())
        };

        let text_key = text_key(&config);
        let mut text = named(&config, &path, "", text_key)?.unwrap_or_default();
        if let Some(over) = named(&overrides, overrides_file, "hf_overrides.", TEXT)? {
            merge(&mut text, &over);
        }
        // The architecture is the whole checkpoint's.
        text.remove("architectures");
        let given = |map: &Map<String, Value>| {
            QUANTISED.iter().any(|key| map.get(*key).is_some_and(|value| !value.is_null()))
        };
        let text_is_quantised = given(&text) && !given(&config) && !given(&overrides);
        if given(&config) || given(&overrides) {
            QUANTISED.iter().for_each(|key| drop(text.remove(*key)));
        }
        config.remove(text_key);

        merge(&mut config, &text);
        let top = overrides.iter().filter(|(key, _)| *key != TEXT);
        merge(&mut config, &top.map(|(key, value)| (key.clone(), value.clone())).collect());
        let parts = lift_parts(&mut config);
        let (merged, generation) = (config, None);
        Ok(Source {
            path,
            merged,
            text_key,
            text,
            parts,
            overrides,
            overrides_file,
            generation,
            text_is_quantised,
        })
    }

    /// The same with this generation_config.json.
    pub fn with_generation(self, path: &str, object: Option<&Map<String, Value>>) -> Source<'a> {
        Source { generation: object.map(|object| (path.to_string(), object.clone())), ..self }
    }

    /// config.json; each key that is read is noted in `keys_read`.
    pub fn config<'s>(&'s self, keys_read: &'s KeysRead) -> Object<'s> {
        let config = Object::new(&self.path, &self.merged).noting(keys_read);
        let config = config.over(&self.path, &format!("{}.", self.text_key), &self.text);
        let over =
            |config: Object<'s>, (path, keys): &'s (String, _)| config.over(&self.path, path, keys);
        let config = self.parts.iter().fold(config, over);
        let inner = [TEXT].into_iter().chain(PARTS);
        let config = inner.fold(config, |config, key| {
            match self.overrides.get(key).and_then(Value::as_object) {
                Some(keys) => {
                    config.over(self.overrides_file, &format!("hf_overrides.{key}."), keys)
                }
                None => config,
            }
        });
        config.over(self.overrides_file, "hf_overrides.", &self.overrides)
    }

    /// The name of the user's file.
    pub fn overrides_file(&self) -> &str {
        self.overrides_file
    }

    /// `quantization_config` stands in the text model's part alone.
    pub fn text_is_quantised(&self) -> bool {
        self.text_is_quantised
    }

    /// generation_config.json, if there is one.
    pub fn generation(&self) -> Option<Object<'_>> {
        self.generation.as_ref().map(|(path, object)| Object::new(path, object))
    }

    /// Overrides that no reader asked for, by key.
    pub fn unread(&self, keys_read: &KeysRead) -> Vec<String> {
        unread(&self.overrides, "", &keys_read.borrow())
    }

    /// Say which these are.
    pub fn warn_of_unread(&self, keys_read: &KeysRead) {
        for key in self.unread(keys_read) {
            tracing::warn!(
                "{}: 'hf_overrides.{}' has no effect: no such key is read of a model of this kind",
                self.overrides_file,
                json::cut(&key)
            );
        }
    }
}

/// Key of the text model's part.
fn text_key(config: &Map<String, Value>) -> &'static str {
    if !config.contains_key(TEXT) && config.contains_key(LLM) {
        LLM
    } else {
        TEXT
    }
}

/// The keys of `PARTS` that are nowhere else, which are put beside the others; with their paths.
fn lift_parts(config: &mut Map<String, Value>) -> Vec<(String, Map<String, Value>)> {
    let mut parts = Vec::new();
    for part in PARTS {
        let Some(Value::Object(keys)) = config.get(part) else { continue };
        let own = |key: &str| !config.contains_key(key);
        let keys = keys.iter().filter(|(key, _)| own(key));
        let keys: Map<String, Value> = keys.map(|(k, v)| (k.clone(), v.clone())).collect();
        config.extend(keys.clone());
        parts.push((format!("{part}."), keys));
    }
    parts
}

/// Objects that were given as their text.
fn with_objects(mut overrides: Map<String, Value>) -> Map<String, Value> {
    for (_, value) in overrides.iter_mut().filter(|(key, _)| OBJECTS.contains(&key.as_str())) {
        let text = value.as_str().and_then(|text| json::parse(text.as_bytes()).ok());
        if let Some(object) = text.filter(Value::is_object) {
            *value = object;
        }
    }
    overrides
}

/// The older names of rope's keys, as the config spells them: those of its `rope_parameters` win
/// over the others.
fn with_rope_of(config: &Map<String, Value>, overrides: Map<String, Value>) -> Map<String, Value> {
    let parameters = |map: &Map<String, Value>| map.get(ROPE).and_then(Value::as_object).cloned();
    let text = config.get(text_key(config)).and_then(Value::as_object);
    let Some(given) = text.and_then(parameters).or_else(|| parameters(config)) else {
        return overrides;
    };
    let mut own = Map::new();
    let mut rest = Map::new();
    for (key, value) in overrides {
        match (key.as_str(), value) {
            ("rope_scaling", Value::Object(scaling)) => own.extend(scaling),
            ("rope_scaling", Value::Null) => {
                own.insert("rope_type".into(), "default".into());
            }
            ("rope_theta", theta) if !theta.is_null() => {
                own.insert(key, theta);
            }
            (_, value) => {
                rest.insert(key, value);
            }
        }
    }
    if own.is_empty() {
        return rest;
    }
    let own = if given.contains_key(FULL) {
        Map::from_iter([(FULL.to_string(), Value::Object(own))])
    } else {
        own
    };
    // Both spellings at once: today's wins.
    let mut rope = Map::from_iter([(ROPE.to_string(), Value::Object(own))]);
    merge(&mut rope, &rest);
    rope
}

fn unread(overrides: &Map<String, Value>, path: &str, keys_read: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in overrides {
        let name = format!("{path}{key}");
        match value {
            Value::Object(inner)
                if path.is_empty() && (key == TEXT || PARTS.contains(&key.as_str())) =>
            {
                let inner = unread(inner, "", keys_read);
                found.extend(inner.into_iter().map(|name| format!("{key}.{name}")));
            }
            _ if !keys_read.contains(&name) => found.push(name),
            Value::Object(inner) => found.extend(unread(inner, &format!("{name}."), keys_read)),
            _ => {}
        }
    }
    found
}

/// Objects are merged key by key, anything else is replaced.
fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}
