//! bitsandbytes' four bits: entries of a table, flat over the rows, with a scale for each block of
//! elements that may be a byte itself ("double quantisation").

use super::form::{common_divisor, Unpacked, NF4_BLOCK};
use super::layer::{read, LayerTensors, Sense};
use crate::device::{Bytes, CodeType, QuantForm, QuantPart};
use crate::error::Result;
use crate::invalid;
use crate::json::{self, Object};
use crate::model::checkpoint::StoredType;

/// `quant_state` is a small JSON text.
const STATE_BYTES_MAX: usize = 64 << 10;
/// More elements that share a scale are no block.
const BLOCK_MAX: usize = 1 << 20;

const BYTES: [StoredType; 1] = [StoredType::U8];

/// What `quant_state` says.
struct State {
    /// Elements that share a scale.
    block: usize,
    /// Scales are bytes; so many share a scale of their own, and this is added.
    nested: Option<(usize, f32)>,
}

/// `rows` x `cols` entries of the checkpoint's table.
pub(super) fn unpack<'a>(
    layer: &LayerTensors<'a>,
    form: QuantForm,
    rows: usize,
    cols: usize,
) -> Result<Unpacked<'a>> {
    let packed = (rows * cols).div_ceil(2);
    let raw = layer.raw("weight", &BYTES, &[&[packed, 1], &[packed], &[1, packed]])?;
    let table = layer.numbers("weight.quant_map", &[&[16]], Sense::Finite)?;
    let codes = CodeType::Table(std::array::from_fn(|code| table[code]));
    let state = state(layer, rows, cols)?;
    let scales = block_scales(layer, &state, rows * cols)?;

    // A block may cross rows: groups are as wide as what divides both.
    let group = common_divisor(cols, state.block);
    let form = QuantForm { codes, group, ..form };
    let groups = (0..rows * cols).step_by(group);
    let scales = groups.map(|element| scales[element / state.block]).collect();
    let bytes = read(&raw.bytes)?;
    let codes = Bytes::Shared(early_low(&bytes, rows, cols).into());
    let part = QuantPart { rows, cols, codes, scales, offsets: Vec::new() };
    Ok(Unpacked { form, part, order: Vec::new() })
}

fn state(layer: &LayerTensors, rows: usize, cols: usize) -> Result<State> {
    let (text, raw) = layer.text("weight.quant_state.bitsandbytes__nf4", STATE_BYTES_MAX)?;
    let shown = raw.shown();
    let value = json::parse(&text).map_err(|e| raw.wrong(format!("is no JSON text: {e}")))?;
    let Some(map) = value.as_object() else { return Err(raw.wrong("is no JSON object")) };

    let object = Object::new(&shown, map);
    if let Some(shape) = object.list("shape")? {
        if shape != [rows, cols] {
            return Err(object.wrong("shape", &format!("[{rows}, {cols}]")));
        }
    }
    let block = object.count("blocksize", BLOCK_MAX)?.unwrap_or(NF4_BLOCK);
    let nested = match object.count("nested_blocksize", BLOCK_MAX)? {
        None => None,
        Some(block) => {
            let offset = object.given("nested_offset").and_then(serde_json::Value::as_f64);
            let offset = object.needed("nested_offset", "a number", offset)?;
            Some((block, offset as f32))
        }
    };
    Ok(State { block, nested })
}

/// The scale of each block of elements.
fn block_scales(layer: &LayerTensors, state: &State, elements: usize) -> Result<Vec<f32>> {
    let blocks = elements.div_ceil(state.block);
    let name = "weight.absmax";
    let Some((share, offset)) = state.nested else {
        return layer.numbers(name, &[&[blocks]], Sense::NotNegative);
    };
    let raw = layer.raw(name, &BYTES, &[&[blocks]])?;
    let map = layer.numbers("weight.nested_quant_map", &[&[256]], Sense::Finite)?;
    let shared = [blocks.div_ceil(share)];
    let shared = layer.numbers("weight.nested_absmax", &[&shared], Sense::NotNegative)?;

    let codes = raw.bytes.load()?;
    let scale =
        |(block, &code): (usize, &u8)| map[usize::from(code)] * shared[block / share] + offset;
    let scales: Vec<f32> = codes.iter().enumerate().map(scale).collect();
    match scales.iter().find(|scale| !scale.is_finite()) {
        None => Ok(scales),
        Some(scale) => Err(invalid!("{} makes a scale of {scale}.", raw.shown())),
    }
}

/// Row by row, the earlier code in the low half; stored flat, the earlier one is in the high half.
fn early_low(stored: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    if cols.is_multiple_of(2) {
        return stored.iter().map(|byte| byte.rotate_left(4)).collect();
    }
    let code = |element: usize| stored[element / 2] >> (4 * (1 - element % 2)) & 15;
    let row = |row: usize| {
        let pair = move |k: usize| {
            let high = if k + 1 < cols { code(row * cols + k + 1) } else { 0 };
            code(row * cols + k) | high << 4
        };
        (0..cols).step_by(2).map(pair)
    };
    (0..rows).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_odd_rows_begin_anew() {
        assert_eq!(early_low(&[0x12, 0x34], 2, 2), [0x21, 0x43]);
        assert_eq!(early_low(&[0x12, 0x34, 0x56], 2, 3), [0x21, 0x03, 0x54, 0x06]);
    }
}
