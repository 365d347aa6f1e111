//! Names of layers as the lists of a configuration mean them: equal to an entry, a part of one,
//! matching one; under every prefix that a checkpoint may spell them with. `scheme` asks, readers
//! of configurations make the lists. It knows no format and no file.

use std::collections::HashSet;

use super::pattern::{Pattern, Wildcard};
use crate::error::Result;
use crate::invalid;

/// Entries of a list that is looked through name by name; those of published models stay below 600.
const MAX_ENTRIES: usize = 4096;

/// What a weight is to the model, as far as formats tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A linear of a layer; a router too.
    Linear,
    /// The matrices of all routed experts of a layer.
    Experts,
    /// The head that makes logits, where it is a weight of its own.
    Head,
}

/// A part of a weight, as configurations may spell it.
#[derive(Debug)]
pub(super) struct Spelled {
    pub kind: LayerKind,
    /// Of the part; then of the weight that it is a part of, where that has another name.
    pub names: Vec<String>,
}

/// Which layers a list means.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// All of a kind.
    Kind(LayerKind),
    /// Those with one of these names.
    Equal(HashSet<String>),
    /// Those whose name contains an entry.
    Containing(Vec<String>),
    /// Those whose name contains no entry, but for experts.
    NotContaining(Vec<String>),
    /// Those whose name begins with no entry.
    NotUnder(Vec<String>),
    /// Experts under whose module's name an entry lies.
    ExpertsOf(Vec<String>),
    /// Those with one of these names, or one behind a dot.
    Ending(HashSet<String>),
    /// Those that have an entry among the components of their name, or at its beginning.
    Component(Vec<String>),
    /// Those that a wildcard hits.
    Wild(Vec<Wildcard>),
    /// Those that a pattern hits.
    Pattern(Pattern),
    /// Those whose class vLLM would find by this name.
    Class(String),
}

/// vLLM's classes of linears, in lower case, and of routed experts.
const LINEAR_CLASSES: [&str; 5] = [
    "qkvparallellinear",
    "mergedcolumnparallellinear",
    "rowparallellinear",
    "replicatedlinear",
    "gatelinear",
];
const EXPERTS_CLASS: &str = "routedexperts";

impl Names {
    /// Whether a layer is meant.
    ///
    /// # Errors
    /// Those of [`Pattern::hits`].
    pub fn hit(&self, layer: &Spelled) -> Result<bool> {
        let any = |hit: &dyn Fn(&str) -> bool| layer.names.iter().any(|name| hit(name));
        let has = |entries: &[String]| any(&|name| entries.iter().any(|e| name.contains(e)));

        Ok(match self {
            Names::Kind(kind) => layer.kind == *kind,
            Names::Equal(names) => any(&|name| names.contains(name)),
            Names::Containing(entries) => has(entries),
            Names::NotContaining(entries) => layer.kind != LayerKind::Experts && !has(entries),
            Names::NotUnder(entries) => !any(&|name| entries.iter().any(|e| name.starts_with(e))),
            Names::ExpertsOf(entries) => {
                let inside = |name: &str| entries.iter().any(|e| e.starts_with(name));
                layer.kind == LayerKind::Experts && any(&inside)
            }
            Names::Ending(names) => any(&|name| ends(name, names)),
            Names::Component(entries) => any(&|name| entries.iter().any(|e| is_component(name, e))),
            Names::Wild(wildcards) => any(&|name| wildcards.iter().any(|w| w.hits(name))),
            Names::Pattern(pattern) => {
                for name in &layer.names {
                    if pattern.hits(name)? {
                        return Ok(true);
                    }
                }
                false
            }
            Names::Class(entry) => match layer.kind {
                LayerKind::Linear => LINEAR_CLASSES.iter().any(|class| class.contains(entry)),
                LayerKind::Experts => entry == "linear" || EXPERTS_CLASS.contains(entry),
                LayerKind::Head => false,
            },
        })
    }
}

/// Whether a name is one of these, or one of them follows a dot of it.
fn ends(name: &str, names: &HashSet<String>) -> bool {
    let mut rest = name;
    loop {
        if names.contains(rest) {
            return true;
        }
        let Some((_, behind)) = rest.split_once('.') else { return false };
        rest = behind;
    }
}

fn is_component(name: &str, entry: &str) -> bool {
    let below =
        name.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    below || name.split('.').any(|component| component == entry)
}

impl Spelled {
    /// `part` of the weight `whole` under all of the prefixes.
    pub fn new(kind: LayerKind, prefixes: &[&str], part: &str, whole: &str) -> Spelled {
        let mut names = spellings(kind, prefixes, part);
        if whole != part {
            names.extend(spellings(kind, prefixes, whole));
        }
        Spelled { kind, names }
    }
}

/// A name as it is, and with each other prefix in place of its own.
fn spellings(kind: LayerKind, prefixes: &[&str], name: &str) -> Vec<String> {
    let (own, others): (&str, &[&str]) = match kind {
        LayerKind::Head => (if name.starts_with(NESTED) { NESTED } else { "" }, &["", NESTED]),
        _ => {
            let own = prefixes.iter().filter(|prefix| name.starts_with(**prefix));
            (own.max_by_key(|prefix| prefix.len()).copied().unwrap_or(""), prefixes)
        }
    };
    let rest = &name[own.len()..];
    let mut all = vec![name.to_string()];
    all.extend(others.iter().filter(|p| **p != own).map(|prefix| format!("{prefix}{rest}")));
    all
}

/// In front of the head of a language model that is a part of a larger one.
const NESTED: &str = "language_model.";

/// The name of the weight that these are the parts of, as vLLM calls it.
pub(super) fn fused(kind: LayerKind, parts: &[String]) -> String {
    let first = parts.first().map_or("", String::as_str);
    if kind == LayerKind::Experts {
        let end = first.find(".experts.").map_or(first.len(), |at| at + ".experts".len());
        return first[..end].to_string();
    }
    let (module, last) = first.rsplit_once('.').unwrap_or(("", first));
    let whole = match (parts.len(), last) {
        (3, "q_proj") => "qkv_proj",
        (2, "gate_proj") => "gate_up_proj",
        _ => return first.to_string(),
    };
    format!("{module}.{whole}")
}

/// A list that is looked through name by name is not longer than those of published models.
///
/// # Errors
/// InvalidArgument, with `named` where it stands.
pub(super) fn bounded(entries: Vec<String>, named: &str) -> Result<Vec<String>> {
    match entries.len() {
        n if n > MAX_ENTRIES => Err(invalid!("{named} has {n} entries, at most {MAX_ENTRIES}.")),
        _ => Ok(entries),
    }
}
