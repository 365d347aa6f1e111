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

/// What a head reads that is the same in its model, so that one device need not hold it twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommonEnds {
    /// The table of tokens.
    pub table: bool,
    /// The matrix of logits.
    pub head: bool,
}

impl CommonEnds {
    /// What they take, once, of the head `spec`.
    pub fn bytes(self, spec: &ModelSpec) -> u64 {
        let rows = [(self.table, spec.token_rows()), (self.head, spec.vocab_size)];
        let rows: u64 = rows.iter().filter(|(common, _)| *common).map(|(_, n)| *n as u64).sum();
        rows.saturating_mul((spec.embed_width * spec.dtype.bytes()) as u64)
    }
}

/// What the head `spec` with these files has in common with the model `target`: what its files lack
/// and what they repeat, as many heads' do.
///
/// # Errors
/// A file that cannot be read.
pub fn common_ends(
    spec: &ModelSpec,
    files: &WeightSource,
    target: &ModelSpec,
    model: &WeightSource,
) -> Result<CommonEnds> {
    let shape = |spec: &ModelSpec| (spec.vocab_size, spec.embed_width, spec.dtype, spec.segments());
    let few = spec.draft_head.as_ref().is_none_or(|head| head.few.is_some());
    // Behind weights with adapters devices put what the head is not to have. A tied table is held
    // in a form that can be multiplied by.
    let alike = shape(spec) == shape(target) && target.adapters.is_none() && !spec.tied;
    // A quantised matrix takes memory of the device that multiplies by it.
    let plain = !few && spec.quant.is_none() && target.quant.is_none();
    if !alike || spec.draft_head.is_none() {
        return Ok(CommonEnds::default());
    }
    let (WeightSource::Files(own), WeightSource::Files(theirs)) = (files, model) else {
        let dummy = matches!((files, model), (WeightSource::Dummy, WeightSource::Dummy));
        return Ok(CommonEnds { table: dummy, head: dummy && plain });
    };

    let table = format!("{}{}.weight", prefix_of(target, model), target.family.names.embed);
    let own_table = format!("{}{}.weight", prefix_of(spec, files), spec.family.names.embed);
    let own_head = format!("{}.weight", spec.family.names.head);
    let head = names_of_head(target, &table).into_iter().find(|name| theirs.contains(name));
    let same = |own_name: &str, name: &str| own.same_tensor(own_name, theirs, name);
    Ok(CommonEnds {
        table: same(&own_table, &table)?,
        head: plain && head.map_or(Ok(false), |head| same(&own_head, &head))?,
    })
}

/// Where a model's matrix of logits may be: it stands outside of the prefix, or under the language
/// model's; or it is the table.
fn names_of_head(target: &ModelSpec, table: &str) -> Vec<String> {
    let head = format!("{}.weight", target.family.names.head);
    if target.tied {
        // A copy that a tied model has as well is not read.
        return vec![table.into()];
    }
    vec![format!("language_model.{head}"), head]
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
