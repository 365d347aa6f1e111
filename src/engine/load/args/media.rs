//! Arguments of images. Called by `args`.

use serde_json::{Map, Value};

use super::values::{self, Reader};
use crate::error::{Error, Result};
use crate::image::DOMAINS;
use crate::invalid;
use crate::json;

const LIMITS: &str = "limit_mm_per_prompt";
const WHOLE: &str = "disable_chunked_mm_input";
const PROCESSOR: &str = "mm_processor_kwargs";
const KEYS: [&str; 9] = [
    "min_pixels",
    "max_pixels",
    "size",
    "min_dynamic_patch",
    "max_dynamic_patch",
    "do_pan_and_scan",
    "pan_and_scan_min_crop_size",
    "pan_and_scan_max_num_crops",
    "pan_and_scan_min_ratio_to_activate",
];

/// Of models that take images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaArgs {
    /// Images of a prompt at most; `None` = nobody said.
    pub images: Option<usize>,
    /// The vision tower is not loaded.
    pub text_only: bool,
    /// No step ends inside an image.
    pub whole_images: bool,
    /// Hosts that images may be fetched from.
    pub domains: Vec<String>,
    /// Over the keys of preprocessor_config.json: those of sizes and of parts of images.
    pub processor: Map<String, Value>,
}

pub(super) fn read(read: &mut Reader) -> Result<MediaArgs> {
    let limits = read.object(LIMITS)?;
    let count = |value: &Value| -> Option<usize> {
        let count = value.get("count").unwrap_or(value);
        usize::try_from(count.as_u64()?).ok()
    };
    let images = match limits.get("image").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => Some(count(value).ok_or_else(|| {
            invalid!(
                "'{LIMITS}.image' must be a number of images, or an object with 'count', got {}.",
                json::shown(value)
            )
        })?),
    };
    let text_only = read.boolean("language_model_only")?.unwrap_or(false) || images == Some(0);
    let whole_images = read.boolean(WHOLE)?.unwrap_or(false);
    let domains = domains(read)?;
    Ok(MediaArgs { images, text_only, whole_images, domains, processor: processor(read)? })
}

/// Names or addresses of hosts, as they stand in a URL: nothing else would ever be one's host.
fn domains(read: &Reader) -> Result<Vec<String>> {
    let wrong = |value: &Value| {
        values::wrong(DOMAINS, "a list of hosts, without scheme, port and path", value)
    };
    let host = |value: &Value| -> Result<String> {
        let host = value.as_str().ok_or_else(|| wrong(value))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let whole = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        if whole {
            Ok(host.to_ascii_lowercase())
        } else {
            Err(wrong(value))
        }
    };
    match read.get(DOMAINS) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(host).collect(),
        Some(other) => Err(wrong(other)),
    }
}

/// Flat, or under `images_kwargs`.
fn processor(read: &mut Reader) -> Result<Map<String, Value>> {
    let mut keys = read.object(PROCESSOR)?;
    if let Some(Value::Object(inner)) = keys.remove("images_kwargs") {
        keys.extend(inner);
    }
    match keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        None => Ok(keys),
        Some(other) => Err(Error::Unsupported(format!(
            "'{PROCESSOR}.{}' is not supported; supported: {}.",
            json::cut(other),
            KEYS.join(", ")
        ))),
    }
}
