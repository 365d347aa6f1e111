//! What the tensors of an adapter change, by their names. Called by the reader of adapters; of the
//! tensors it looks at names and shapes only.

use std::collections::BTreeMap;

use super::projections::{takes_adapters, Projection, PROJECTIONS};
use crate::error::{Error, Result};
use crate::invalid;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::{AdapterOptions, ModelSpec};

/// A module that an adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Linear { layer: usize, projection: usize, part: usize },
    Embed,
    Head,
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
        let Some((target, module)) = target_of(tensor, spec, projections) else {
            return Err(no_target(tensor, spec, projections));
        };
        let allowed = match target {
            Target::Linear { layer, projection: p, part } => {
                let projection = &projections[layer][p];
                options.allows(projection, projection.modules[part])
            }
            Target::Embed => options.allows_name(spec.family.names.embed),
            Target::Head => options.allows_name(spec.family.names.head),
        };
        if allowed {
            found.insert(target, module.to_string());
        } else {
            left_out += 1;
        }
    }

    if left_out > 0 {
        tracing::warn!("lora_target_modules leaves out {left_out} tensors of an adapter");
    }
    if found.is_empty() {
        return Err(invalid!("no tensor of the adapter changes this model."));
    }
    Ok(found)
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
    let first = projections.first().into_iter().flatten();
    let mut known: Vec<_> = first.flat_map(|p| p.modules).copied().collect();
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

/// What a tensor changes, and its module's name.
fn target_of<'a>(
    tensor: &'a str,
    spec: &ModelSpec,
    projections: &[[Projection; PROJECTIONS]],
) -> Option<(Target, &'a str)> {
    if let Some(module) = tensor.strip_suffix(TABLE_A).or(tensor.strip_suffix(TABLE_B)) {
        let known = is_embed(bare(module), spec) && !spec.family.encoder;
        return known.then_some((Target::Embed, module));
    }
    let module = tensor.strip_suffix(A).or(tensor.strip_suffix(B))?;
    if is_head(bare(module), spec) {
        return spec.pooling.is_none().then_some((Target::Head, module));
    }
    linear_target(bare(module), spec, projections).map(|target| (target, module))
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
fn linear_target(
    name: &str,
    spec: &ModelSpec,
    projections: &[[Projection; PROJECTIONS]],
) -> Option<Target> {
    let layers = format!("{}.", spec.family.names.layers);
    let behind = |prefix: &&str| name.strip_prefix(*prefix)?.strip_prefix(layers.as_str());
    let (number, module) = spec.family.prefixes.iter().find_map(behind)?.split_once('.')?;
    let layer = number.parse().ok().filter(|&layer: &usize| layer < spec.layers)?;
    projections[layer].iter().enumerate().find_map(|(p, projection)| {
        let part = projection.modules.iter().position(|&m| m == module)?;
        let target = Target::Linear { layer, projection: p, part };
        takes_adapters(spec, layer, p).then_some(target)
    })
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
