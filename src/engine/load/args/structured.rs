//! `structured_outputs_config`, and what its parts were called when structured outputs were "guided
//! decoding". Which backend makes no difference: there is one. What it decides besides would have
//! to be known.

use serde_json::Value;

use super::values::{self, Reader};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json;
use crate::sampling::python::quoted;
use crate::sampling::StructuredOptions;

const KEY: &str = "structured_outputs_config";
const OLD: &str = "guided_decoding_backend";
const BACKENDS: [&str; 5] = ["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"];
/// Members that act, then those that may have any value.
const KNOWN: [&str; 7] = [
    "backend",
    "disable_any_whitespace",
    "disable_additional_properties",
    "disable_fallback",
    "enable_in_reasoning",
    "reasoning_parser",
    "reasoning_parser_plugin",
];

/// # Errors
/// A member that is not known, a value of the wrong type, a parser of reasoning.
pub(super) fn read(read: &mut Reader) -> Result<StructuredOptions> {
    let config = read.object(KEY)?;
    let mut warnings = Vec::new();
    let mut inner = Reader::new(&config, &mut warnings);
    inner.only(KEY, &KNOWN)?;
    let at = |e: Error| e.context(&format!("{KEY}."));
    inner.one_of("backend", &BACKENDS).map_err(at)?;
    let whitespace = inner.boolean("disable_any_whitespace").map_err(at)?;
    let properties = inner.boolean("disable_additional_properties").map_err(at)?;
    if let Some(parser) = inner.string("reasoning_parser").map_err(at)?.filter(|p| !p.is_empty()) {
        return Err(Error::Unsupported(format!(
            "{KEY}.reasoning_parser: {} is not supported, remove it",
            quoted(&json::cut(&parser))
        )));
    }
    Ok(StructuredOptions {
        disable_any_whitespace: whitespace.unwrap_or(false),
        disable_additional_properties: properties.unwrap_or(false),
        ..StructuredOptions::default()
    })
}

/// `guided_decoding_backend`: a name, and in vLLM 0.7 to 0.10 options behind a colon.
pub(super) fn backend_and_options(value: &Value) -> Result<Vec<(&'static str, Value)>> {
    let Some(text) = value.as_str() else {
        return Err(values::wrong(OLD, "a string", value));
    };
    let (backend, options) = text.split_once(':').unwrap_or((text, ""));
    let mut moved = vec![("backend", Value::from(backend))];
    for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let member = match option {
            "no-fallback" => "disable_fallback",
            "disable-any-whitespace" => "disable_any_whitespace",
            "no-additional-properties" => "disable_additional_properties",
            other => {
                return Err(invalid!(
                    "{OLD}: got the option {}, known are no-fallback, disable-any-whitespace and \
                     no-additional-properties",
                    quoted(&json::cut(other))
                ))
            }
        };
        moved.push((member, true.into()));
    }
    Ok(moved)
}
