//! What the tensors of an adapter change, by their names. Called by the reader of adapters; of the
//! tensors it looks at names and shapes only.

use std::collections::BTreeMap;

use super::part::{Projection, PROJECTIONS};
use crate::error::{Error, Result};
use crate::invalid;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{AdapterOptions, ModelSpec};

/// A module that an adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Linear {
        layer: usize,
        projection: usize,
        part: usize,
    },
    Embed,
    Head,
    /// The matrices of K and V of latent attention.
    Heads,
}

pub(super) const A: &str = ".lora_A.weight";
pub(super) const B: &str = ".lora_B.weight";
pub(super) const TABLE_A: &str = ".lora_embedding_A";
pub(super) const TABLE_B: &str = ".lora_embedding_B";
/// Of the unchanged weight, which peft saves beside the adapter of a table or a head.
const COPY: &str = ".base_layer.weight";

/// What the tensors change, and the modules' names as they stand in front of [`A`] and [`B`].
///
/// # Errors
/// A tensor that belongs to nothing in this model, or all that are left out.
pub(super) fn targets(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    options: &AdapterOptions,
    projections: &[[Projection; PROJECTIONS]],
) -> Result<BTreeMap<Target, String>> {
    let mut found = BTreeMap::new();
    let mut left_out = 0;
    for tensor in checkpoint.names() {
        if is_copy(checkpoint, tensor, spec)? {
            continue;
        }
        let targets = targets_of(tensor, spec, projections);
        if targets.is_empty() {
            return Err(no_target(tensor, spec, projections));
        }

        let mut allowed = false;
        for (target, module) in targets {
            if is_allowed(&target, spec, options, projections) {
                allowed = true;
                if target == Target::Heads {
                    return Err(of_heads(tensor));
                }
                found.insert(target, module.to_string());
            }
        }
        left_out += usize::from(!allowed);
    }

    if left_out > 0 {
        tracing::warn!("lora_target_modules leaves out {left_out} tensors of an adapter");
    }
    if found.is_empty() {
        return Err(invalid!("no tensor of the adapter changes this model."));
    }
    Ok(found)
}

/// Whether `lora_target_modules` lets adapters change this.
fn is_allowed(
    target: &Target,
    spec: &ModelSpec,
    options: &AdapterOptions,
    projections: &[[Projection; PROJECTIONS]],
) -> bool {
    let names = &spec.family.names;
    match *target {
        Target::Linear { layer, projection: p, part } => {
            let projection = &projections[layer][p];
            options.allows(projection, &projection.parts[part].module)
        }
        Target::Embed => options.allows_name(names.embed),
        Target::Head => options.allows_name(names.head),
        Target::Heads => names.latent.is_some_and(|latent| options.allows_name(latent.heads)),
    }
}

/// The Python backend takes such a tensor and never reads it.
fn of_heads(tensor: &str) -> Error {
    Error::Unsupported(format!(
        "tensor '{tensor}' changes what latent attention makes K and V by, which is multiplied \
         into q and never a product of its own: adapters of it are not supported. Merge the \
         adapter into the model, or leave the module out of lora_target_modules."
    ))
}

/// A copy of the whole table or head, which must be the model's in shape; what is in it is not
/// looked at.
fn is_copy(checkpoint: &Checkpoint, tensor: &str, spec: &ModelSpec) -> Result<bool> {
    let Some(module) = tensor.strip_suffix(COPY) else { return Ok(false) };
    let name = bare(module);
    if !is_embed(name, spec) && !is_head(name, spec) {
        return Ok(false);
    }
    let whole = checkpoint.tensor(tensor, spec.vocab_size, spec.embed_width);
    whole.map(|_| true).map_err(added_tokens)
}

fn no_target(tensor: &str, spec: &ModelSpec, projections: &[[Projection; PROJECTIONS]]) -> Error {
    let name = bare(tensor).strip_suffix(".weight").unwrap_or_default();
    if is_embed(name, spec) || is_head(name, spec) {
        return Error::Unsupported(format!(
            "tensor '{tensor}' replaces one of the model's, as adapters with added tokens do: \
             merge the adapter into the model."
        ));
    }

    let mut known: Vec<&str> = Vec::new();
    for part in projections.iter().flatten().flat_map(|projection| &projection.parts) {
        if !known.contains(&&*part.module) {
            known.push(&part.module);
        }
    }
    if !spec.family.encoder {
        known.push(spec.family.names.embed);
    }
    if spec.pooling.is_none() {
        known.push(spec.family.names.head);
    }
    invalid!(
        "tensor '{tensor}' is no lora_A or lora_B of this model; modules that take adapters: {}, \
         in {} layers.",
        known.join(", "),
        spec.layers
    )
}

/// What a tensor changes, with its module's name: more than one where outputs of a module are
/// parts of several linears.
fn targets_of<'a>(
    tensor: &'a str,
    spec: &ModelSpec,
    projections: &[[Projection; PROJECTIONS]],
) -> Vec<(Target, &'a str)> {
    if let Some(module) = tensor.strip_suffix(TABLE_A).or(tensor.strip_suffix(TABLE_B)) {
        let known = is_embed(bare(module), spec) && !spec.family.encoder;
        return known.then_some((Target::Embed, module)).into_iter().collect();
    }
    let Some(module) = tensor.strip_suffix(A).or(tensor.strip_suffix(B)) else {
        return Vec::new();
    };
    let targets = if is_head(bare(module), spec) {
        spec.pooling.is_none().then_some(Target::Head).into_iter().collect()
    } else {
        linear_targets(bare(module), spec, projections)
    };
    targets.into_iter().map(|target| (target, module)).collect()
}

/// A module's name as the model has it.
fn bare(module: &str) -> &str {
    module.strip_prefix("base_model.model.").unwrap_or(module)
}

fn is_embed(name: &str, spec: &ModelSpec) -> bool {
    let names = spec.family.prefixes.iter();
    names.filter_map(|prefix| name.strip_prefix(prefix)).any(|rest| rest == spec.family.names.embed)
}

fn is_head(name: &str, spec: &ModelSpec) -> bool {
    name.strip_prefix("language_model.").unwrap_or(name) == spec.family.names.head
}

/// `<prefix><layers>.<i>.<module>`
fn linear_targets(
    name: &str,
    spec: &ModelSpec,
    projections: &[[Projection; PROJECTIONS]],
) -> Vec<Target> {
    let layers = format!("{}.", spec.family.names.layers);
    let behind = |prefix: &&str| name.strip_prefix(*prefix)?.strip_prefix(layers.as_str());
    let placed = spec.family.prefixes.iter().find_map(behind);
    let Some((number, module)) = placed.and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    let Some(layer) = number.parse().ok().filter(|&layer: &usize| layer < spec.layers) else {
        return Vec::new();
    };
    if spec.family.names.latent.is_some_and(|latent| latent.heads == module) {
        return vec![Target::Heads];
    }

    let mut targets = Vec::new();
    for (projection, known) in projections[layer].iter().enumerate() {
        let parts = known.parts.iter().enumerate().filter(|(_, known)| known.module == module);
        targets.extend(parts.map(|(part, _)| Target::Linear { layer, projection, part }));
    }
    targets
}

/// The error of an adapter that was made for a longer vocabulary.
pub(super) fn added_tokens(error: Error) -> Error {
    match error {
        Error::InvalidArgument(_) => error.context(
            "adapters must have the model's vocabulary, added tokens are not supported: merge the \
             adapter into the model. ",
        ),
        other => other,
    }
}
