//! How images are processed for a tower: preprocessor_config.json and what config.json says of it,
//! judged by what the tower takes. Called by `vision`.

use std::path::Path;

use serde_json::{Map, Value};

use super::keys;
use crate::error::{Error, Result};
use crate::files::{self, Kind};
use crate::image::{self, Settings};
use crate::json::{self, Object};
use crate::model::architectures::{AnyResolutionKeys, Squares, Tower};
use crate::{internal, invalid};

const PROCESSOR: &str = "preprocessor_config.json";
/// Where transformers 5 keeps it, under this key.
const PROCESSORS: (&str, &str) = ("processor_config.json", "image_processor");

/// preprocessor_config.json, or what its absence means; where that is. A config without a folder is
/// looked at alone: images are as wide as its tower has them.
fn processor(folder: Option<&Path>, side: usize) -> Result<(String, Map<String, Value>)> {
    let Some(folder) = folder else {
        let size = serde_json::json!({"height": side, "width": side, "shortest_edge": side});
        let square = serde_json::json!({"longest_edge": side});
        let keys = match side {
            0 => Map::new(),
            _ => Map::from_iter([("size".into(), size), ("max_image_size".into(), square)]),
        };
        return Ok((PROCESSOR.into(), keys));
    };
    let path = folder.join(PROCESSOR);
    let shown = path.display().to_string();
    if let Some(keys) = files::optional(json::read_object(&path, Kind::Config))? {
        return Ok((shown, keys));
    }
    let (file, key) = PROCESSORS;
    let path = folder.join(file);
    let all = files::optional(json::read_object(&path, Kind::Config))?.unwrap_or_default();
    match all.get(key).and_then(Value::as_object) {
        Some(keys) => Ok((path.display().to_string(), keys.clone())),
        None => Ok((shown, Map::new())),
    }
}

/// What config.json says of images, in InternVL's own format.
fn own_tiles(
    config: &Object,
    own: &Object,
    folder: Option<&Path>,
) -> Result<(String, Map<String, Value>)> {
    const VERSION: &str = "ps_version";
    const KEYS: [&str; 4] =
        ["min_dynamic_patch", "max_dynamic_patch", "dynamic_image_size", "use_thumbnail"];
    // The first way to join patches puts columns before rows, and is what an absent key means.
    if config.text(VERSION)? != Some("v2") {
        return Err(Error::Unsupported(config.wrong(VERSION, "\"v2\"").message().into()));
    }
    let side = sides(own, "image_size", 1 << 14)?;
    let forced = config.count("force_image_size", 1 << 14)?.unwrap_or(side);
    if forced != side {
        return Err(invalid!(
            "{} is {forced}, and {} is {side}.",
            config.name("force_image_size"),
            own.name("image_size")
        ));
    }

    let given = |key: &&str| Some((key.to_string(), config.given(key)?.clone()));
    let mut keys: Map<String, Value> = KEYS.iter().filter_map(given).collect();
    keys.insert("size".into(), serde_json::json!({"height": side, "width": side}));
    let file = folder.map(|folder| folder.join("config.json").display().to_string());
    Ok((file.unwrap_or_else(|| "config.json".into()), keys))
}

/// What the processor's file in `folder` says, as far as it fits to the tower. `over`: keys that
/// stand over that file's.
///
/// # Errors
/// A broken file; keys that do not fit to the tower, or that are not served.
pub(super) fn settings(
    config: &Object,
    own: &Object,
    tower: &Tower,
    folder: Option<&Path>,
    over: Option<&Map<String, Value>>,
) -> Result<Settings> {
    let patch = sides(own, "patch_size", 1 << 10)?;
    let of_image = match own.given("image_size") {
        Some(_) => sides(own, "image_size", 1 << 14)?,
        None => 0,
    };
    let merge = squares(config, own, tower, of_image / patch)?;
    let copies = own.count("temporal_patch_size", 1 << 10)?.unwrap_or(1);
    let (file, mut keys) = match tower.images {
        image::Kind::OwnTiles => own_tiles(config, own, folder)?,
        _ => processor(folder, of_image)?,
    };
    if let Some(over) = over {
        if over.contains_key("size") {
            // In the file they would stand over it.
            keys.remove("min_pixels");
            keys.remove("max_pixels");
        }
        keys.extend(over.clone());
    }

    if let Some(names) = &tower.any_resolution {
        any_resolution(config, names, &file, &mut keys)?;
    }

    let settings = Settings::read(&file, &keys, tower.images, patch, merge)?;
    let merge_key = settings.kind.merge_key();
    let tower_has = [("patch_size", patch, settings.patch), (merge_key, merge, settings.merge)];
    let copied = ("temporal_patch_size", copies, settings.copies);
    for (key, wanted, got) in tower_has.into_iter().chain([copied]) {
        if wanted != got {
            return Err(invalid!("{file}: '{key}' is {got}, and the tower takes {wanted}."));
        }
    }
    Ok(settings)
}

/// Keys of the checkpoint as a whole that its processor goes by, beside those of the processor's
/// file, which must say the same if it says something.
fn any_resolution(
    config: &Object,
    names: &AnyResolutionKeys,
    file: &str,
    keys: &mut Map<String, Value>,
) -> Result<()> {
    let defaults: Map<String, Value> = serde_json::from_str(names.defaults)
        .map_err(|e| internal!("defaults of images of several sizes: {e}"))?;
    for (key, default) in defaults {
        let of_config = config.given(&key);
        let of_file = keys.get(&key).filter(|value| !value.is_null());
        if of_config.zip(of_file).is_some_and(|(one, other)| one != other) {
            return Err(invalid!("{file}: '{key}' is not what {} says.", config.name(&key)));
        }
        let value = of_file.or(of_config).cloned().unwrap_or(default);
        keys.insert(key, value);
    }
    Ok(())
}

/// Patches of a side that become one token, of images whose side is so many patches.
fn squares(config: &Object, own: &Object, tower: &Tower, side: usize) -> Result<usize> {
    let whole = |key: &str, ratio: f64| {
        let count = ratio.round();
        if (1.0..=64.0).contains(&count) && (ratio - count).abs() < 1e-6 {
            Ok(count as usize)
        } else {
            Err(config.wrong(key, "what makes squares of whole patches"))
        }
    };
    match tower.keys.squares {
        Squares::One => Ok(1),
        Squares::Side(key) => own.needed(key, "an integer", own.count(key, 1 << 10)?),
        Squares::Factor(key) => config.needed(key, "an integer", config.count(key, 64)?),
        Squares::Ratio(key) => whole(key, 1.0 / keys::positive(config, key)?),
        Squares::Tokens(key) => {
            let tokens = config.needed(key, "an integer", config.count(key, 1 << 20)?)?;
            whole(key, side as f64 / (tokens as f64).sqrt())
        }
    }
}

/// A length, or two that are equal.
pub(super) fn sides(own: &Object, key: &str, most: usize) -> Result<usize> {
    let read = match own.given(key) {
        Some(Value::Array(two)) => {
            let length = |n: &Value| usize::try_from(n.as_u64()?).ok();
            match two.iter().map(length).collect::<Option<Vec<_>>>().as_deref() {
                Some(&[height, width]) if height == width && (1..=most).contains(&width) => {
                    Some(width)
                }
                _ => return Err(own.wrong(key, "an integer, or two that are equal")),
            }
        }
        _ => own.count(key, most)?,
    };
    own.needed(key, "an integer", read)
}
