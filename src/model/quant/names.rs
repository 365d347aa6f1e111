//! Names of layers as the lists of a configuration mean them: equal to an entry, a part of one,
//! matching one; under every prefix that a checkpoint may spell them with. `scheme` asks, readers of
//! configurations make the lists. It knows no format and no file.

use std::collections::HashSet;

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
    /// Of the part, and of the weight that it is a part of.
    pub names: Vec<String>,
}

/// Which layers a list means.
#[derive(Debug, Clone)]
pub(super) enum Names {
    /// Those with one of these names.
    Equal(HashSet<String>),
    /// All of a kind.
    Kind(LayerKind),
}

impl Names {
    /// Whether a layer is meant.
    pub fn hit(&self, layer: &Spelled) -> bool {
        match self {
            Names::Kind(kind) => layer.kind == *kind,
            Names::Equal(names) => layer.names.iter().any(|name| names.contains(name)),
        }
    }
}

impl Spelled {
    /// `part` of the weight `whole` under all of the prefixes.
    pub fn new(kind: LayerKind, prefixes: &[&str], part: &str, whole: &str) -> Spelled {
        let mut names = Vec::new();
        for name in [part, whole] {
            for spelled in spellings(kind, prefixes, name) {
                if !names.contains(&spelled) {
                    names.push(spelled);
                }
            }
        }
        Spelled { kind, names }
    }
}

/// A name as it is, and with each other prefix in place of its own.
fn spellings(kind: LayerKind, prefixes: &[&str], name: &str) -> Vec<String> {
    if kind == LayerKind::Head {
        let bare = name.strip_prefix("language_model.").unwrap_or(name);
        return vec![bare.to_string(), format!("language_model.{bare}")];
    }
    let own = prefixes.iter().filter(|prefix| name.starts_with(**prefix));
    let own = own.max_by_key(|prefix| prefix.len()).copied().unwrap_or("");
    let rest = &name[own.len()..];
    let mut all = vec![name.to_string()];
    all.extend(prefixes.iter().map(|prefix| format!("{prefix}{rest}")));
    all
}

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
