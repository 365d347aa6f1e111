//! The tensors of a GGUF model by the names that checkpoints of Hugging Face's give them: floats,
//! or codes in the one form that devices take. Called by `checkpoint`, which is asked by `load`; it
//! knows no key but those of sizes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::block_types::{Codes, Content, Narrow};
use super::files::Gguf;
use super::header::Stored;
use super::names::{self, heads_in_pairs, is_norm_plus_one, Heads, Name};
use super::sizes::Sizes;
use super::tensor::{Form, Order, Tensor, View};
use crate::device::{CodeType, DType, HostTensor, QuantForm, QuantPart, MAX_EXPERTS};
use crate::error::{Error, Result};
use crate::invalid;
use crate::model::checkpoint::Shard;

/// All tensors of a model.
pub struct Tensors {
    path: String,
    shards: Vec<Arc<Shard>>,
    entries: BTreeMap<String, Entry>,
    views: Vec<Views>,
    said: AtomicBool,
}

/// A tensor of a checkpoint: some rows of one of the file's.
struct Entry {
    tensor: usize,
    rows: Range<usize>,
}

/// A tensor in all forms.
struct Views {
    tensor: Arc<Tensor>,
    values: View,
    narrow: View,
    wide: View,
}

impl Views {
    fn new(tensor: Tensor) -> Views {
        let tensor = Arc::new(tensor);
        let view = |form| View { tensor: Arc::clone(&tensor), form };
        let (values, narrow, wide) = (view(Form::Values), view(Form::Narrow), view(Form::Wide));
        Views { values, narrow, wide, tensor }
    }
}

/// A tensor that was asked for: where it is, and which of its rows.
type Found<'a> = (&'a Views, Range<usize>);

impl Gguf {
    /// The tensors of this model.
    ///
    /// # Errors
    /// InvalidArgument: tensors that contradict the sizes, or two of one name. Unsupported: another
    /// architecture. One line that begins with the file's path.
    pub fn tensors(&self) -> Result<Tensors> {
        let sizes = Sizes::read(&self.keys).map_err(|e| self.at(e))?;
        let mut tensors = Tensors {
            path: self.path().display().to_string(),
            shards: self.shards.clone(),
            entries: BTreeMap::new(),
            views: Vec::new(),
            said: AtomicBool::new(false),
        };
        for (shard, stored) in self.stored() {
            let Some(name) = names::name_of(sizes.architecture, &stored.name) else { continue };
            let Some(shard) = self.shards.get(shard) else { continue };
            tensors.add(name, stored.clone(), shard, &sizes).map_err(|e| self.at(e))?;
        }
        Ok(tensors)
    }
}

impl Tensors {
    fn add(
        &mut self,
        name: Name,
        mut stored: Stored,
        shard: &Arc<Shard>,
        sizes: &Sizes,
    ) -> Result<()> {
        let shown = stored.name.clone();
        if stored.shape.len() == 1 && stored.kind.elements == 1 {
            (stored.rows, stored.cols) = (stored.cols, 1);
        }

        let rows = stored.rows;
        let order = order(&stored, sizes)?;
        let less = if is_norm_plus_one(sizes.architecture, &shown) { 1.0 } else { 0.0 };
        let tensor = self.views.len();
        self.views.push(Views::new(Tensor { stored, shard: Arc::clone(shard), order, less }));
        let mut add = |name: String, rows| {
            let old = self.entries.insert(name, Entry { tensor, rows });
            old.map_or(Ok(()), |_| Err(invalid!("tensor '{shown}' is there by two names.")))
        };
        match name {
            Name::One(name) => add(name, 0..rows),
            Name::OfEachExpert { before, after } => {
                let experts = sizes.experts;
                if experts == 0 || experts > MAX_EXPERTS || !rows.is_multiple_of(experts) {
                    return Err(invalid!(
                        "tensor '{shown}' has {rows} rows for {experts} experts (at most \
                         {MAX_EXPERTS})."
                    ));
                }
                let each = rows / experts;
                (0..experts)
                    .try_for_each(|e| add(format!("{before}{e}{after}"), e * each..(e + 1) * each))
            }
        }
    }

    /// Of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The element type of the largest tensor, if it holds floats.
    pub fn stored_dtype(&self) -> Option<DType> {
        let largest = self.views.iter().max_by_key(|views| views.tensor.stored.bytes())?;
        match largest.tensor.stored.kind.content {
            Content::F32 => Some(DType::F32),
            Content::F16 => Some(DType::F16),
            Content::BF16 => Some(DType::BF16),
            Content::Codes(_) => None,
        }
    }

    /// The tensor of this name as floats, whatever it is stored as: `rows` x `cols` elements (a
    /// vector: `cols` = 1).
    ///
    /// # Errors
    /// NotFound: no such tensor. InvalidArgument: another shape.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<HostTensor<'_>> {
        let (views, range) = self.find(name, rows, cols)?;
        if let Some((dtype, bytes)) = views.tensor.plain() {
            let row_bytes = views.tensor.stored.row_bytes();
            let bytes = bytes.slice(range.start * row_bytes..range.end * row_bytes);
            return Ok(HostTensor { dtype, rows, cols, bytes });
        }
        Ok(HostTensor { dtype: DType::F32, rows, cols, bytes: views.values.bytes(range) })
    }

    /// Tensors that are stacked along the outputs, as codes: one form for all of them. None: they
    /// are floats, or have no form in common.
    ///
    /// # Errors
    /// As `tensor`; the file cannot be read.
    pub fn codes(
        &self,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<Option<(QuantForm, Vec<QuantPart<'_>>)>> {
        let mut found = Vec::new();
        for (name, &rows) in names.iter().zip(outputs) {
            found.push(self.find(name, rows, inputs)?);
        }
        let Some((form, narrow)) = common_form(found.iter().map(|(views, _)| *views)) else {
            self.say_unpacked(names, &found);
            return Ok(None);
        };

        let mut parts = Vec::new();
        for (views, rows) in found {
            let view = if narrow { &views.narrow } else { &views.wide };
            let (scales, offsets) = views.tensor.scales(rows.clone(), form.group, view.form)?;
            if !scales.iter().chain(&offsets).all(|x| x.is_finite()) {
                return Err(invalid!(
                    "{}: tensor '{}' has a scale that is no finite number: fetch the file again.",
                    self.path,
                    views.tensor.stored.name
                ));
            }
            parts.push(QuantPart {
                rows: rows.len(),
                cols: inputs,
                codes: view.bytes(rows),
                scales,
                offsets: if form.offsets { offsets } else { Vec::new() },
            });
        }
        Ok(Some((form, parts)))
    }

    /// The form that `codes` would give these tensors.
    pub fn code_form(&self, names: &[String]) -> Option<QuantForm> {
        let entries = names.iter().map(|name| self.entries.get(name));
        let views: Option<Vec<&Views>> =
            entries.map(|entry| entry.map(|entry| &self.views[entry.tensor])).collect();
        common_form(views?.into_iter()).map(|(form, _)| form)
    }

    /// Say what it costs that the token table, which is stored as codes, is held as `dtype`.
    pub fn say_tables(&self, dtype: DType) {
        let Some(entry) = self.entries.get("model.embed_tokens.weight") else { return };
        let stored = &self.views[entry.tensor].tensor.stored;
        if let Content::Codes(_) = stored.kind.content {
            tracing::info!(
                "{}: '{}' is stored as {} and held unpacked: {} bytes in place of {}",
                self.path,
                stored.name,
                stored.kind.name,
                stored.rows * stored.cols * dtype.bytes(),
                stored.bytes()
            );
        }
    }

    /// Once for all weights of a model.
    fn say_unpacked(&self, names: &[String], found: &[Found]) {
        let none_packed = found.iter().all(|(views, _)| views.tensor.codes().is_none());
        if none_packed || self.said.swap(true, Ordering::Relaxed) {
            return;
        }
        let kinds: Vec<&str> = found.iter().map(|(v, _)| v.tensor.stored.kind.name).collect();
        let elements = |(views, rows): &Found| rows.len() * views.tensor.stored.cols;
        let packed = |(views, rows): &Found| rows.len() * views.tensor.stored.row_bytes();
        tracing::info!(
            "{}: {} are stacked and stored as {}: they are held unpacked, {} elements in place of \
             {} bytes, and so is each other weight of that kind",
            self.path,
            names.join(", "),
            kinds.join(", "),
            found.iter().map(elements).sum::<usize>(),
            found.iter().map(packed).sum::<usize>(),
        );
    }

    /// The tensor if it has this shape.
    fn find(&self, name: &str, rows: usize, cols: usize) -> Result<Found<'_>> {
        let entry = self.entries.get(name).ok_or_else(|| {
            let path = &self.path;
            Error::NotFound(format!("{path}: tensor '{name}' is missing ({rows} x {cols})."))
        })?;
        let views = &self.views[entry.tensor];
        let stored = &views.tensor.stored;
        let as_asked = entry.rows.len() == rows && stored.cols == cols;
        let as_vector = stored.cols == 1 && entry.rows.len() == rows * cols && rows == 1;
        if !as_asked && !as_vector {
            return Err(invalid!(
                "{}: tensor '{}' has shape {:?}, expected {rows} x {cols} for '{name}'.",
                self.path,
                stored.name,
                stored.shape
            ));
        }
        Ok((views, entry.rows.clone()))
    }

    /// Whether the files are still those that were opened.
    ///
    /// # Errors
    /// InvalidArgument: one was written to, shortened or replaced.
    pub fn unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.unchanged())
    }
}

/// The form of tensors that are stacked, if all are codes, and whether these are as narrow as their
/// types allow; bytes else, which hold the integers of all types.
fn common_form<'a>(stacked: impl Iterator<Item = &'a Views>) -> Option<(QuantForm, bool)> {
    let codes: Option<Vec<&Codes>> = stacked.map(|views| views.tensor.codes()).collect();
    let codes = codes?;
    let first = codes.first()?.narrow.codes();

    let narrow = codes.iter().all(|codes| codes.narrow.codes() == first);
    // A code that stands for less than its integer is paid for by an offset.
    let surplus = |codes: &&Codes| matches!(codes.narrow, Narrow::Int4 { plus } if plus != 8);
    let offsets = codes.iter().any(|codes| codes.offsets);
    let form = QuantForm {
        codes: if narrow { first } else { CodeType::Int8 },
        group: codes.iter().map(|codes| codes.group).min().unwrap_or(1),
        offsets: offsets || (narrow && codes.iter().any(surplus)),
        inputs: None,
    };
    Some((form, narrow))
}

/// In which order the file has a tensor's rows.
fn order(stored: &Stored, sizes: &Sizes) -> Result<Order> {
    let heads = match heads_in_pairs(sizes.architecture, &stored.name) {
        None => return Ok(Order::AsStored),
        Some(Heads::OfQ) => sizes.heads,
        Some(Heads::OfK) => sizes.kv_heads,
    };
    let head = sizes.head_dim;
    if head.checked_mul(heads) != Some(stored.rows) || !head.is_multiple_of(2) {
        return Err(invalid!(
            "tensor '{}' has {} rows, expected {heads} heads of {head}.",
            stored.name,
            stored.rows
        ));
    }
    Ok(Order::Pairs { head })
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
