//! The tensors of a head that drafts, by the names of its row: those of its own files, however they
//! spell them, or of layers behind a model's own; and of the model what the head has in common with
//! it, the table of tokens and the matrix of logits. Called by `engine` at load.

use super::architectures::NextTokenPlace;
use super::checkpoint::{Checkpoint, WeightSource};
use super::config::ModelSpec;
use super::load::prefix_of;
use crate::error::{Error, Result};

/// What an EAGLE-3 head calls its only layer.
const ONLY_LAYER: &str = "midlayer.";
const PREFIX: &str = "model.";
/// In a layer that predicts further tokens: its own matrix of logits.
const OWN_HEAD: &str = "shared_head.head.weight";

/// EAGLE's `own` files, and what they lack of those of the model `target`.
pub fn eagle(
    own: WeightSource,
    spec: &ModelSpec,
    target: &ModelSpec,
    weights: &WeightSource,
) -> WeightSource {
    let WeightSource::Files(own) = own else { return own };
    let mut files = own.renamed(|name| {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        Some(match name.strip_prefix(ONLY_LAYER) {
            Some(rest) => format!("{}.0.{rest}", spec.family.names.layers),
            None => name.into(),
        })
    });
    borrow_ends(&mut files, spec, target, weights);
    WeightSource::Files(files)
}

/// The files of the model `target` as those of its layer `spec` that predicts further tokens.
///
/// # Errors
/// NotFound: they have no such layer.
pub fn next_token(
    spec: &ModelSpec,
    target: &ModelSpec,
    weights: &WeightSource,
) -> Result<WeightSource> {
    let (WeightSource::Files(files), Some(row)) = (weights, &spec.family.next_token) else {
        return Ok(WeightSource::Dummy);
    };
    let names = &spec.family.names;
    let prefix = prefix_of(target, weights);
    let (module, layer) = match row.place {
        NextTokenPlace::BehindLast => (format!("{prefix}{}.{}.", names.layers, target.layers), ""),
        NextTokenPlace::Within(module) => (format!("{prefix}{module}."), ""),
        NextTokenPlace::Beside(module, layer) => (format!("{module}."), layer),
    };
    if !files.names().any(|name| name.starts_with(&format!("{module}{}.", row.project))) {
        return Err(Error::NotFound(format!(
            "speculative_config.method 'mtp': the model has no tensor '{module}{}.weight', hence \
             no layer that predicts further tokens. Remove speculative_config: answers are the \
             same",
            row.project
        )));
    }

    let mut own = files.shared().renamed(|name| {
        let name = name.strip_prefix(&module)?;
        let (table, head) = (format!("{}.weight", names.embed), format!("{}.weight", names.head));
        let beside = [row.token_norm, row.hidden_norm, row.project];
        let stands = |module: &str| name.strip_prefix(module).is_some_and(|n| n.starts_with('.'));
        Some(if name == OWN_HEAD {
            head
        } else if name == table || beside.into_iter().any(stands) {
            name.into()
        } else if stands(row.final_norm) {
            format!("{}{}", names.final_norm, &name[row.final_norm.len()..])
        } else {
            let name = name.strip_prefix(layer)?.trim_start_matches('.');
            format!("{}.0.{name}", names.layers)
        })
    });
    borrow_ends(&mut own, spec, target, weights);
    Ok(WeightSource::Files(own))
}

/// Table of tokens and matrix of logits, where the head has none of its own.
fn borrow_ends(files: &mut Checkpoint, spec: &ModelSpec, target: &ModelSpec, from: &WeightSource) {
    let WeightSource::Files(model) = from else { return };
    let table = format!("{}{}.weight", prefix_of(target, from), target.family.names.embed);
    let own_table = format!("{}.weight", spec.family.names.embed);
    if !files.contains(&own_table) {
        files.borrow(model, &table, &own_table);
    }

    let own_head = format!("{}.weight", spec.family.names.head);
    if files.contains(&own_head) {
        return;
    }
    let head = format!("{}.weight", target.family.names.head);
    let places = [head.clone(), format!("language_model.{head}"), table];
    for place in &places[..if target.tied { 3 } else { 2 }] {
        if files.borrow(model, place, &own_head) {
            return;
        }
    }
}
