//! The keys of model.json: which there are, what becomes of each, and what older ones are called
//! today. The list itself is in `table`; a key that does not stand there fails the load.

use serde_json::{Map, Value};

use super::key::{Class, Key};
use super::table::KEYS;
use super::{pooling, structured, values};
use crate::error::{nearest, Error, Result};
use crate::invalid;
use crate::json;
use crate::sampling::python::quoted;

/// Every key must be known. What is ignored or refused is said here, what has another name today
/// gets it; keys that say nothing are gone from `map` after that. `file` is where they stand.
///
/// # Errors
/// InvalidArgument: an unknown key, with the nearest known one. Unsupported: a key whose value asks
/// for what is not built.
pub(super) fn judge(
    map: &mut Map<String, Value>,
    file: &str,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let given: Vec<String> = map.keys().cloned().collect();
    for name in given {
        let Some(key) = find(&name) else { return Err(unknown(&name, file)) };
        let value = &map[&name];
        let ages = key.ages();

        match key.class {
            Class::Read | Class::Silent => {}
            _ if key.is_neutral(value) => {
                map.remove(&name);
            }
            Class::NoEffect => warnings.push(format!(
                "'{name}' has no effect here: {} is ignored{ages}",
                json::shown(value)
            )),
            Class::Refused => {
                let instead = match key.neutral().first() {
                    None => String::new(),
                    Some(neutral) => format!(" or use {neutral}"),
                };
                return Err(Error::Unsupported(format!(
                    "{file}: '{name}': {} is not supported, remove it{instead}{ages}",
                    json::shown(value)
                )));
            }
            Class::Renamed(current) => {
                let value = map.remove(&name).unwrap_or_default();
                let outcome = rename(map, &name, current, value)
                    .map_err(|e| e.context(&format!("{file}: ")))?;
                warnings.push(format!("'{name}' is out of date: {outcome}{ages}"));
            }
        }
    }
    Ok(())
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|at| &KEYS[at])
}

/// The first part is the Python backend's text, which scripts look for.
fn unknown(name: &str, file: &str) -> Error {
    let remedy = match nearest(name, KEYS.iter().map(|key| key.name)) {
        Some(known) => format!("did you mean '{known}'?"),
        None => "remove it".into(),
    };
    invalid!(
        "AsyncEngineArgs.__init__() got an unexpected keyword argument {} (in {file}: {remedy})",
        quoted(&json::cut(name))
    )
}

/// Put the value of an older key where it belongs today; what was done, for the log.
fn rename(
    map: &mut Map<String, Value>,
    name: &str,
    current: &'static str,
    value: Value,
) -> Result<String> {
    let (target, last) = match current.split_once('.') {
        None => (map, current),
        Some((outer, last)) => (values::object_at(map, outer)?, last),
    };
    if target.get(last).is_some_and(|given| !values::is_empty(given)) {
        return Ok(format!("ignored, as '{current}' is set too"));
    }
    let moved = match name {
        "use_dummy_weights" => vec![(last, Value::from("dummy"))],
        "guided_decoding_backend" => structured::backend_and_options(&value)?,
        "task" => pooling::keys_of_task(&value)?,
        "rope_scaling" => vec![(last, values::parsed_object(name, &value)?.into())],
        _ => vec![(last, value)],
    };
    let shown: Vec<String> = moved.iter().map(|(_, value)| json::shown(value)).collect();
    target.extend(moved.into_iter().map(|(part, value)| (part.to_string(), value)));
    Ok(format!("read as '{current}': {}", shown.join(", ")))
}
