//! Weights as every device gets them: tensors of a checkpoint, and what is to become of them.
//! `model` makes them, devices take them apart; they know no file. What is special to quantised
//! ones is in `quant`.

use std::ops::Range;

use super::bytes::{no_memory, Bytes};
use super::collective::Join;
use super::quant::{QuantForm, QuantPart, ScaleOver};
use super::DType;
use crate::error::Result;
use crate::invalid;

/// One 2-D (or 1-D: `rows` = 1) tensor of a checkpoint, row-major, not aligned.
#[derive(Clone)]
pub struct HostTensor<'a> {
    /// Of an element.
    pub dtype: DType,
    /// Of the matrix; of a vector its length.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// `rows * cols * dtype.bytes()` bytes.
    pub bytes: Bytes<'a>,
}

impl<'a> HostTensor<'a> {
    /// Some columns of all rows; nothing is copied.
    ///
    /// # Panics
    /// If they reach beyond a row: a mistake of the caller.
    pub fn columns(&self, columns: Range<usize>) -> HostTensor<'a> {
        let size = self.dtype.bytes();
        let bytes = columns.start * size..columns.end * size;
        let bytes = self.bytes.columns(self.cols * size, bytes);
        HostTensor { cols: columns.len(), bytes, ..self.clone() }
    }

    /// Some of its rows; nothing is copied.
    ///
    /// # Panics
    /// If they reach beyond the last: a mistake of the caller.
    pub fn rows(&self, rows: Range<usize>) -> HostTensor<'a> {
        let size = self.cols * self.dtype.bytes();
        let bytes = self.bytes.slice(rows.start * size..rows.end * size);
        HostTensor { rows: rows.len(), bytes, ..self.clone() }
    }

    /// Its elements, row by row.
    ///
    /// # Errors
    /// Those of [`Bytes::load`].
    pub fn values(&self) -> Result<Vec<f32>> {
        let dtype = self.dtype;
        let bytes = self.bytes.load()?;
        let elements = bytes.chunks_exact(dtype.bytes());
        let mut values = Vec::new();
        values.try_reserve_exact(elements.len()).map_err(|_| no_memory(4 * elements.len()))?;
        values.extend(elements.map(|b| match (dtype, b) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (DType::BF16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            _ => unreachable!("chunks are as long as an element"),
        }));
        Ok(values)
    }
}

/// How the device gets a weight's values.
pub enum Source<'a> {
    /// Stacked along the output dimension: q|k|v, gate|up. All have the same number of inputs.
    Parts(Vec<HostTensor<'a>>),
    /// Codes and their scales, in parts like these.
    Codes {
        /// All of one form.
        parts: Vec<QuantPart<'a>>,
        /// Code k of a row belongs to input `order[k]`; empty: to input k.
        order: Vec<u32>,
    },
    /// Parts that become codes on the way.
    Quantise {
        /// As in `Parts`.
        parts: Vec<HostTensor<'a>>,
        /// What shares a scale.
        over: ScaleOver,
    },
    /// `load_format: dummy`: uniform in ±scale from this seed, generated on the device; as codes,
    /// any that make values of about this size.
    Dummy {
        /// Of the values.
        seed: u64,
        /// The largest.
        scale: f32,
    },
    /// Every element the same: biases of 0, norms of 1.
    Constant(f32),
}

/// A weight to load. `outputs` x `inputs`, as in y = W x.
pub struct WeightDesc<'a> {
    /// For messages: the checkpoint's name of the first part.
    pub name: &'a str,
    /// What ops do with it.
    pub kind: WeightKind,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// Element type on the device, for matrices; vectors are held in f32.
    pub dtype: DType,
    /// Held as codes instead: sources `Codes`, `Quantise` and `Dummy`. Linears and experts only.
    pub quant: Option<QuantForm>,
    /// The parts are stored `[inputs, outputs]` (GPT-2's Conv1D).
    pub transposed: bool,
    /// What several devices make of their shares.
    pub join: Join,
    /// Where the values come from.
    pub source: Source<'a>,
}

/// A part's values as a plain tensor of f32, for weights that are not held as codes.
///
/// # Errors
/// The codes cannot be read.
pub fn unpacked(form: &QuantForm, part: &QuantPart, order: &[u32]) -> Result<HostTensor<'static>> {
    let mut values = part.values(form, 0..part.rows)?;
    if !order.is_empty() {
        let mut line = vec![0.0; part.cols];
        for row in values.chunks_exact_mut(part.cols.max(1)) {
            for (x, &k) in row.iter().zip(order) {
                line[k as usize] = *x;
            }
            row.copy_from_slice(&line);
        }
    }
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Ok(HostTensor {
        dtype: DType::F32,
        rows: part.rows,
        cols: part.cols,
        bytes: Bytes::Shared(bytes.into()),
    })
}

impl WeightDesc<'_> {
    /// Outputs that `part` of this weight's source holds.
    ///
    /// # Errors
    /// InvalidArgument: it has other inputs than the weight, or not the bytes of its shape.
    pub fn part_outputs(&self, part: &HostTensor<'_>) -> Result<usize> {
        let (outputs, inputs) =
            if self.transposed { (part.cols, part.rows) } else { (part.rows, part.cols) };
        let bytes = part.rows * part.cols * part.dtype.bytes();
        if inputs != self.inputs || part.bytes.len() != bytes {
            return Err(invalid!(
                "{}: part of {} x {} in {} bytes does not fit {} inputs.",
                self.name,
                part.rows,
                part.cols,
                part.bytes.len(),
                self.inputs
            ));
        }
        Ok(outputs)
    }
    /// The form, and whether the parts of a quantised source have it.
    ///
    /// # Errors
    /// InvalidArgument: parts, scales or order of another shape.
    pub fn judge_codes(&self, form: &QuantForm, parts: &[QuantPart], order: &[u32]) -> Result<()> {
        let name = self.name;
        if matches!(self.kind, WeightKind::Table | WeightKind::TableAndLinear | WeightKind::Vector)
        {
            return Err(invalid!("{name}: tables and vectors are not held as codes."));
        }
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        if rows != self.outputs {
            return Err(invalid!("{name}: parts have {rows} outputs, expected {}.", self.outputs));
        }

        for part in parts {
            let scales = part.rows * form.groups(part.cols);
            let offsets = if form.offsets { scales } else { 0 };
            let bytes = part.rows * form.codes.row_bytes(part.cols);
            let fits = part.cols == self.inputs
                && part.codes.len() == bytes
                && part.scales.len() == scales
                && part.offsets.len() == offsets;
            if !fits {
                return Err(invalid!(
                    "{name}: a part of {} x {} codes in {} bytes, {} scales and {} offsets, \
                     expected {} inputs, {bytes} bytes, {scales} scales and {offsets} offsets.",
                    part.rows,
                    part.cols,
                    part.codes.len(),
                    part.scales.len(),
                    part.offsets.len(),
                    self.inputs
                ));
            }
        }
        let mut seen = vec![false; order.len()];
        let all = order.is_empty() || order.len() == self.inputs;
        let once = order
            .iter()
            .all(|&k| seen.get_mut(k as usize).is_some_and(|seen| !std::mem::replace(seen, true)));
        if !(all && once) {
            return Err(invalid!("{name}: the order of the {} inputs is none.", self.inputs));
        }
        Ok(())
    }
}

/// What ops do with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightKind {
    /// For `linear*` and `logits`: the device may repack it as it likes.
    Linear,
    /// For `linear_act` with a gated activation: parts are gate, up (equal halves of `outputs`).
    GateUp,
    /// For `embed` and `add_positions`: rows are looked up.
    Table,
    /// A tied head: looked up by `embed` and multiplied by `logits`.
    TableAndLinear,
    /// Norm weights and biases: `outputs` values, `inputs` = 1.
    Vector,
    /// For `multiply_heads`: `count` matrices of `outputs / count` rows each, one below the other.
    Heads {
        /// Heads.
        count: usize,
    },
    /// For `experts*`: `count` matrices of `outputs / count` rows each, one below the other. Gated:
    /// each is a gate and the up that belongs to it, as in `GateUp`.
    Experts {
        /// Experts.
        count: usize,
        /// Each is two matrices.
        gated: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::CodeType;

    #[test]
    fn codes_are_put_in_the_order_of_inputs() {
        let form = QuantForm { codes: CodeType::Int8, group: 3, offsets: false, inputs: None };
        let codes = Bytes::Shared(vec![1, 2, 3, 4, 5, 0xff].into());
        let scales = vec![1.0, 2.0];
        let part = QuantPart { rows: 2, cols: 3, codes, scales, offsets: Vec::new() };
        let turned = unpacked(&form, &part, &[2, 0, 1]).unwrap().values().unwrap();
        assert_eq!(turned, [2.0, 3.0, 1.0, 10.0, -2.0, 8.0]);
    }
}
