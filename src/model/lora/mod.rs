//! LoRA adapters: a PEFT folder -> matrices in the order and type in which a device takes them.
//! Called by `engine` on a thread of its own; `decoder` puts what was read into an adapter slot.
//! Nothing here depends on a device.
//!
//! | file | holds |
//! |---|---|
//! | `projections` | which linears of a model they may change |
//! | `mixers` | the same of latent attention, and of layers that keep a state |
//! | `part` | a linear as they see it |
//! | `rows` | where the rows of B go |
//! | `peft_config` | adapter_config.json: rank, scale, what cannot be served |
//! | `names` | which tensor changes what, by its name |
//!
//! An adapter adds scale * B (A x) to a linear, scale = lora_alpha / r (or / sqrt(r), rsLoRA). Here
//! the scale is multiplied into B, in f32, before B is rounded to the model's type.

mod mixers;
mod names;
mod part;
mod peft_config;
mod projections;
mod rows;

use std::ops::Range;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::config::{AdapterOptions, ModelSpec};
use super::shard::{Cut, Shard};
use crate::device::{AdapterPart, Bytes, DType, HostTensor, TablePart};
use crate::error::Result;
use crate::invalid;
use names::{added_tokens, Target, A, B, TABLE_A, TABLE_B};
pub use part::{Part, Place, Projection, PROJECTIONS};
use peft_config::PeftConfig;
pub use projections::{cuts, has_adapters, projections, reached, reaches_embed, reaches_head};
use rows::Rows;

/// One part's matrices, in the model's type.
struct LowRank {
    rank: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<u8>,
    b: Vec<u8>,
}

impl LowRank {
    fn part(&self, dtype: DType) -> AdapterPart<'_> {
        AdapterPart {
            a: HostTensor { dtype, rows: self.rank, cols: self.inputs, bytes: (&self.a).into() },
            b: HostTensor { dtype, rows: self.rank, cols: self.outputs, bytes: (&self.b).into() },
        }
    }
}

/// An adapter, ready for any device.
pub struct Adapter {
    /// Of each layer.
    projections: Vec<[Projection; PROJECTIONS]>,
    /// By layer, projection and part.
    layers: Vec<[Vec<Option<LowRank>>; PROJECTIONS]>,
    /// Of the table: A transposed, `[tokens, rank]`.
    embed: Option<LowRank>,
    head: Option<LowRank>,
    dtype: DType,
}

impl Adapter {
    /// Read and check `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
    ///
    /// # Errors
    /// One line: a missing or broken file, a rank above `max_lora_rank`, a kind of adapter that we
    /// lack, a module that this model has not, a tensor of another shape.
    pub fn read(dir: &Path, spec: &ModelSpec, options: &AdapterOptions) -> Result<Adapter> {
        let config = peft_config::read(dir, options.capacity.rank)?;
        if dir.join(ADDED_TOKENS).exists() {
            let error = invalid!("{} lies beside it.", dir.join(ADDED_TOKENS).display());
            return Err(added_tokens(error));
        }
        let checkpoint = Checkpoint::adapter(dir)?;
        let projections: Vec<_> = (0..spec.layers).map(|i| projections(spec, i)).collect();
        let targets = names::targets(&checkpoint, spec, options, &projections)
            .map_err(|e| e.context(&format!("{}: ", dir.display())))?;

        let mut adapter = Adapter::empty(spec, &projections);
        let reader = Reader { checkpoint: &checkpoint, config, dtype: spec.dtype };
        let (vocab, width) = (spec.vocab_size, spec.embed_width);
        for (target, module) in targets {
            match target {
                Target::Linear { layer, projection: p, part } => {
                    let Projection { parts, inputs, .. } = &projections[layer][p];
                    let Part { module_outputs, rows, .. } = &parts[part];
                    let read = reader.linear(&module, *inputs, *module_outputs, rows)?;
                    adapter.layers[layer][p][part] = Some(read);
                }
                Target::Embed => adapter.embed = Some(reader.table(&module, vocab, width)?),
                Target::Head => {
                    let read = reader.linear(&module, width, vocab, &Rows::default());
                    adapter.head = Some(read.map_err(added_tokens)?);
                }
                // Refused by name.
                Target::Heads => {}
            }
        }
        checkpoint.unchanged()?;
        Ok(adapter)
    }

    /// One that changes nothing.
    fn empty(spec: &ModelSpec, projections: &[[Projection; PROJECTIONS]]) -> Adapter {
        let unchanged = |of: &[Projection; PROJECTIONS]| {
            std::array::from_fn(|p| of[p].parts.iter().map(|_| None).collect())
        };
        let layers = projections.iter().map(unchanged).collect();
        let projections = projections.to_vec();
        Adapter { projections, layers, embed: None, head: None, dtype: spec.dtype }
    }

    /// What it does to the rank's rows of the table of tokens; None: nothing.
    ///
    /// # Errors
    /// Unavailable: no memory for the rank's part.
    pub fn embed(&self, shard: &Shard) -> Result<Option<TablePart<'_>>> {
        let Some(LowRank { rank, inputs: tokens, outputs: width, a, b }) = &self.embed else {
            return Ok(None);
        };
        let dtype = self.dtype;
        // Rows of a matrix are columns of one line.
        let a = HostTensor { dtype, rows: 1, cols: tokens * rank, bytes: a.into() };
        let b = HostTensor { dtype, rows: *rank, cols: *width, bytes: b.into() };
        let held = shard.vocabulary.start * rank..shard.vocabulary.end * rank;
        let a = columns(&a, std::slice::from_ref(&held))?;
        let a = HostTensor { rows: shard.vocabulary.len(), cols: *rank, ..a };
        Ok(Some(TablePart { a, b }))
    }

    /// What it does to the rank's rows of the head; None: nothing.
    ///
    /// # Errors
    /// As `embed`.
    pub fn head(&self, shard: &Shard) -> Result<Option<AdapterPart<'_>>> {
        let Some(low) = &self.head else { return Ok(None) };
        let AdapterPart { a, b } = low.part(self.dtype);
        let b = columns(&b, std::slice::from_ref(&shard.vocabulary))?;
        Ok(Some(AdapterPart { a, b }))
    }

    /// What it does to a rank's part of one projection of a layer, part by part; None: nothing.
    ///
    /// # Errors
    /// As `embed`.
    pub fn parts(
        &self,
        layer: usize,
        projection: usize,
        cut: &Cut,
    ) -> Result<Vec<Option<AdapterPart<'_>>>> {
        let lows = &self.layers[layer][projection];
        let held = self.projections[layer][projection].held(cut);
        let parts = lows.iter().zip(&held).map(|(low, held)| {
            let Some(low) = low else { return Ok(None) };
            let AdapterPart { a, b } = low.part(self.dtype);
            Ok(Some(match cut {
                Cut::Whole => AdapterPart { a, b },
                Cut::Inputs { range, .. } => AdapterPart { a: a.columns(range.clone()), b },
                Cut::Outputs(_) => AdapterPart { a, b: columns(&b, held)? },
            }))
        });
        parts.collect()
    }
}

/// Some columns of a tensor side by side; zeros where they lie behind its last one.
fn columns<'a>(whole: &HostTensor<'a>, ranges: &[Range<usize>]) -> Result<HostTensor<'a>> {
    let all = 0..whole.cols;
    if ranges == std::slice::from_ref(&all) {
        return Ok(whole.clone());
    }
    let size = whole.dtype.bytes();
    let bytes = whole.bytes.load()?;
    let mut picked = Vec::new();
    for row in bytes.chunks_exact((whole.cols * size).max(1)) {
        for range in ranges {
            let held = range.start.min(whole.cols) * size..range.end.min(whole.cols) * size;
            let zeros = range.len() * size - held.len();
            picked.extend_from_slice(&row[held]);
            picked.resize(picked.len() + zeros, 0);
        }
    }
    let cols = ranges.iter().map(Range::len).sum();
    Ok(HostTensor { cols, bytes: Bytes::Shared(picked.into()), ..whole.clone() })
}

/// Rows of a table that is longer than the model's.
const ADDED_TOKENS: &str = "new_embeddings.safetensors";

/// What is to be read of an adapter's tensors.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    config: PeftConfig,
    /// The model's.
    dtype: DType,
}

impl Reader<'_> {
    fn linear(&self, module: &str, inputs: usize, outputs: usize, rows: &Rows) -> Result<LowRank> {
        let PeftConfig { rank, scale } = self.config;
        let a = self.checkpoint.tensor(&format!("{module}{A}"), rank, inputs)?;
        let b = self.checkpoint.tensor(&format!("{module}{B}"), outputs, rank)?;
        let a = encode(self.dtype, a.values()?.into_iter());
        let b = rows.transposed(&b, scale)?;
        let outputs = b.len() / rank;
        let b = encode(self.dtype, b.into_iter());
        Ok(LowRank { rank, inputs, outputs, a, b })
    }

    fn table(&self, module: &str, tokens: usize, width: usize) -> Result<LowRank> {
        let PeftConfig { rank, scale } = self.config;
        let a = self.checkpoint.tensor(&format!("{module}{TABLE_A}"), rank, tokens);
        let a = a.map_err(added_tokens)?;
        let b = self.checkpoint.tensor(&format!("{module}{TABLE_B}"), width, rank)?;
        let a = encode(self.dtype, Rows::default().transposed(&a, 1.0)?.into_iter());
        let b = encode(self.dtype, Rows::default().transposed(&b, scale)?.into_iter());
        Ok(LowRank { rank, inputs: tokens, outputs: width, a, b })
    }
}

fn encode(dtype: DType, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests;
