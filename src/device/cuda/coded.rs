//! Quantised weights on the GPU: how they lie (kernels/abi_codes.h) and how they get there.
//! `weights` calls it for weights that are held as codes, `coded_products` multiplies by them; it
//! knows no format of a checkpoint.

use std::sync::Arc;

use half::f16;
use rayon::prelude::*;

use super::abi::{self, CodeKind};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::memory::Memory;
use super::module::Kernels;
use super::staging::{blocks, Staging, THREADS};
use crate::device::{
    Bytes, CodeType, DType, InputQuant, QuantForm, QuantPart, ScaleOver, WeightDesc, WeightKind,
};
use crate::error::Result;
use crate::internal;

/// Scales of blocks that are made here, not read, have this in common: enough below the smallest
/// that an f16 holds it, and far enough that none is too large.
const COMMON_FACTOR: f32 = 1.0 / 4096.0;
/// The largest scale or zero times it that f16 is to hold.
const F16_SCALES_MAX: f32 = 16384.0;
/// A zero is at most so many scales, so that f16 (f32) holds it well; where a group has next to no
/// scale beside its offset, the scale is raised, and codes of four bits weigh at most a thousandth
/// (a 250 000th) of the offset more than they did.
const ZERO_MAX_F16: f32 = 16384.0;
const ZERO_MAX_F32: f32 = 4_194_304.0;

/// A matrix of codes.
pub struct Coded {
    /// Where everything lies.
    pub matrix: abi::CodedMatrix,
    /// How inputs are rounded.
    pub inputs: Option<InputQuant>,
    /// `[inputs]`: column k of the codes belongs to this input.
    pub order: Option<Memory>,
    _rows: Memory,
    factor: Memory,
}

/// Inputs of a block of codes.
pub fn block_inputs(codes: CodeType) -> usize {
    abi::CODE_BLOCK_BYTES as usize * 8 / codes.bits()
}

fn kind_of(codes: CodeType) -> CodeKind {
    match codes {
        CodeType::E4m3 => CodeKind::E4m3,
        CodeType::Int8 => CodeKind::Int8,
        CodeType::Int4 => CodeKind::Int4,
        CodeType::E2m1 => CodeKind::E2m1,
        CodeType::Table(_) => CodeKind::Table,
    }
}

/// The most that a code of this type can be.
fn largest(codes: CodeType) -> f32 {
    match codes {
        // Dummies go up to there.
        CodeType::E4m3 => 30.0,
        CodeType::Int8 => 128.0,
        CodeType::Int4 => 8.0,
        CodeType::E2m1 => 6.0,
        CodeType::Table(table) => table.iter().fold(0.0, |most, x| x.abs().max(most)),
    }
}

/// How a matrix of this form lies on a device that computes in `act`; its addresses are null. None:
/// its groups fit no blocks.
pub fn layout(
    form: &QuantForm,
    outputs: usize,
    inputs: usize,
    act: DType,
) -> Option<abi::CodedMatrix> {
    let block = block_inputs(form.codes);
    let whole_rows = form.group >= inputs;
    let fits = whole_rows
        || form.group.is_multiple_of(block)
        || (form.group.is_multiple_of(16) && block.is_multiple_of(form.group));
    if !fits {
        return None;
    }
    let scales = match (whole_rows, form.offsets) {
        (true, false) => 0,
        (true, true) => 1,
        _ => (block / form.group).max(1),
    };

    let of_blocks = |blocks: usize| {
        let scale_bytes = if act == DType::F32 { 4 } else { 2 };
        let area = (blocks * scales * scale_bytes).next_multiple_of(16);
        blocks * abi::CODE_BLOCK_BYTES as usize + area * (1 + usize::from(form.offsets))
    };
    let blocks = inputs.div_ceil(block);
    let chunk = abi::CODE_CHUNK_BLOCKS as usize;
    let row_bytes = blocks / chunk * of_blocks(chunk) + of_blocks(blocks % chunk);
    Some(abi::CodedMatrix {
        rows: DevicePtr::NULL,
        factor: DevicePtr::NULL,
        outputs: u32::try_from(outputs).ok()?,
        inputs: u32::try_from(inputs).ok()?,
        row_bytes: u32::try_from(row_bytes).ok()?,
        chunk_bytes: of_blocks(chunk) as u32,
        blocks: blocks as u32,
        scales: scales as u32,
        zeros: u32::from(form.offsets),
        kind: kind_of(form.codes),
        table: match form.codes {
            CodeType::Table(table) => table,
            _ => [0.0; 16],
        },
    })
}

impl Coded {
    /// Room for a weight, its codes not yet set.
    fn new(context: &Arc<Context>, desc: &WeightDesc<'_>, act: DType) -> Result<Coded> {
        let form = desc.quant.as_ref();
        let form = form.ok_or_else(|| internal!("{}: no form of codes", desc.name))?;
        let matrix = layout(form, desc.outputs, desc.inputs, act);
        let mut matrix = matrix.ok_or_else(|| internal!("{}: groups of no block", desc.name))?;
        let rows = Memory::new(context, desc.outputs * matrix.row_bytes as usize, desc.name)?;
        let factor = Memory::new(context, desc.outputs * 4, desc.name)?;
        matrix.rows = rows.address;
        matrix.factor = factor.address;
        Ok(Coded { matrix, inputs: form.inputs, order: None, _rows: rows, factor })
    }

    /// What the codes mean, as a plain weight.
    ///
    /// # Errors
    /// No room.
    pub fn values(
        &self,
        context: &Arc<Context>,
        kernels: &Kernels,
        act: DType,
        name: &str,
    ) -> Result<Memory> {
        let rows = self.matrix.outputs as usize;
        let values = Memory::new(context, rows * self.matrix.inputs as usize * act.bytes(), name)?;
        self.unpack(context, kernels, values.address, 0, rows)?;
        Ok(values)
    }

    /// Some of its rows as plain ones, `[rows, inputs]` of the device's type.
    ///
    /// # Errors
    /// Of the driver.
    pub fn unpack(
        &self,
        context: &Context,
        kernels: &Kernels,
        to: DevicePtr,
        first_row: usize,
        rows: usize,
    ) -> Result<()> {
        let parameters = abi::UnpackCodes {
            from: self.matrix,
            to,
            first_row: first_row as u32,
            rows: rows as u32,
        };
        let blocks = rows * self.matrix.blocks as usize;
        let grid = [blocks.div_ceil(abi::UNPACK_BLOCKS as usize), 1];
        kernels.unpack_codes.launch(context, grid, 4 * abi::UNPACK_BLOCKS, &parameters)
    }

    /// Codes have eight bits.
    pub fn wide(&self) -> bool {
        matches!(self.matrix.kind, CodeKind::E4m3 | CodeKind::Int8)
    }

    /// Codes, scales and order as a checkpoint has them.
    ///
    /// # Errors
    /// The parts do not have this form, or cannot be read; no room.
    pub fn upload(
        staging: &mut Staging,
        kernels: &Kernels,
        act: DType,
        desc: &WeightDesc<'_>,
        parts: &[QuantPart<'_>],
        order: &[u32],
    ) -> Result<Coded> {
        let context = staging.context.clone();
        let form = desc.quant.as_ref();
        let form = form.ok_or_else(|| internal!("{}: no form of codes", desc.name))?;
        desc.judge_codes(form, parts, order)?;
        let mut coded = Coded::new(&context, desc, act)?;
        let matrix = coded.matrix;

        let mut first = 0;
        for part in parts {
            let row_bytes = form.codes.row_bytes(part.cols);
            staging.rows(&part.codes, row_bytes, |context, from, row, rows| {
                let parameters = abi::PlaceCodes {
                    to: matrix,
                    from,
                    first_row: (first + row) as u32,
                    rows: rows as u32,
                    from_row_bytes: row_bytes as u32,
                };
                let words = rows * matrix.blocks as usize * 16;
                kernels.place_codes.launch(context, [blocks(words), 1], THREADS, &parameters)
            })?;

            let scales = Scales::of(part, form, &matrix, act);
            let factor = Bytes::Shared(scales.factors.into());
            staging.copy(&factor, &coded.factor, 4 * first)?;
            for (bytes, as_zeros) in [(scales.scales, 0), (scales.zeros, 1)] {
                let each = bytes.len() / part.rows.max(1);
                if each == 0 {
                    continue;
                }
                staging.rows(&Bytes::Shared(bytes.into()), each, |context, from, row, rows| {
                    let parameters = abi::PlaceScales {
                        to: matrix,
                        from,
                        first_row: (first + row) as u32,
                        rows: rows as u32,
                        as_zeros,
                    };
                    let count = rows * (matrix.blocks * matrix.scales) as usize;
                    kernels.place_scales.launch(context, [blocks(count), 1], THREADS, &parameters)
                })?;
            }
            first += part.rows;
        }

        if !order.is_empty() {
            let memory = Memory::new(&context, 4 * order.len(), desc.name)?;
            let bytes: Vec<u8> = order.iter().flat_map(|k| k.to_le_bytes()).collect();
            staging.copy(&Bytes::Shared(bytes.into()), &memory, 0)?;
            coded.order = Some(memory);
        }
        Ok(coded)
    }

    /// Any codes that make values up to about `scale`.
    ///
    /// # Errors
    /// No room.
    pub fn dummy(
        context: &Arc<Context>,
        kernels: &Kernels,
        act: DType,
        desc: &WeightDesc<'_>,
        seed: u64,
        scale: f32,
    ) -> Result<Coded> {
        let coded = Coded::new(context, desc, act)?;
        let most = desc.quant.as_ref().map_or(1.0, |form| largest(form.codes));
        coded.fill_factor(context, kernels, scale / most)?;
        let parameters = abi::DummyCodes { to: coded.matrix, seed };
        let words = desc.outputs * coded.matrix.row_bytes as usize / 4;
        kernels.dummy_codes.launch(context, [blocks(words), 1], THREADS, &parameters)?;
        Ok(coded)
    }

    /// Plain weights on the device, `[outputs, inputs]` of its own type, as E4M3.
    ///
    /// # Errors
    /// No room.
    pub fn encode(
        context: &Arc<Context>,
        kernels: &Kernels,
        act: DType,
        desc: &WeightDesc<'_>,
        plain: DevicePtr,
        over: ScaleOver,
    ) -> Result<Coded> {
        let coded = Coded::new(context, desc, act)?;
        let matrix = coded.matrix;
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let matrices = match desc.kind {
            WeightKind::Experts { count, .. } => count,
            _ => 1,
        };
        let block = abi::SCALE_BLOCK as usize;
        let (over, scales) = match over {
            ScaleOver::Matrix => (abi::ScaleOver::Matrix, matrices),
            ScaleOver::Row => (abi::ScaleOver::Row, outputs),
            ScaleOver::Block => {
                let down = matrices * (outputs / matrices).div_ceil(block);
                (abi::ScaleOver::Block, down * inputs.div_ceil(block))
            }
        };

        let largest = Memory::new(context, 4 * scales, "scales")?;
        largest.fill(0)?;
        let matrix_rows = (outputs / matrices) as u32;
        kernels.largest_weights.launch(
            context,
            [outputs, 1],
            THREADS,
            &abi::LargestWeights {
                w: plain,
                largest: largest.address,
                outputs: outputs as u32,
                inputs: inputs as u32,
                matrix_rows,
                over,
            },
        )?;

        coded.fill_factor(context, kernels, COMMON_FACTOR)?;
        kernels.encode_weights.launch(
            context,
            [outputs, 1],
            THREADS,
            &abi::EncodeWeights {
                to: matrix,
                w: plain,
                largest: largest.address,
                factor: coded.factor.address,
                matrix_rows,
                over,
            },
        )?;
        Ok(coded)
    }

    fn fill_factor(&self, context: &Context, kernels: &Kernels, value: f32) -> Result<()> {
        let count = self.matrix.outputs as usize;
        let parameters =
            abi::ConstantWeight { to: self.factor.address, count: count as u64, value };
        kernels.constant_vector.launch(context, [blocks(count), 1], THREADS, &parameters)
    }
}

/// Scales of a part as the device holds them, in bytes: `[rows, blocks * scales]`, and f32
/// `[rows]`.
struct Scales {
    scales: Vec<u8>,
    zeros: Vec<u8>,
    factors: Vec<u8>,
}

impl Scales {
    fn of(part: &QuantPart<'_>, form: &QuantForm, matrix: &abi::CodedMatrix, act: DType) -> Scales {
        let groups = form.groups(part.cols);
        if matrix.scales == 0 {
            let factors = part.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            return Scales { scales: Vec::new(), zeros: Vec::new(), factors };
        }

        let per_block = matrix.scales as usize;
        let step = block_inputs(form.codes) / per_block;
        let places = matrix.blocks as usize * per_block;
        let size = if act == DType::F32 { 4 } else { 2 };
        let mut scales = vec![0; part.rows * places * size];
        let mut zeros = vec![0; if form.offsets { scales.len() } else { 0 }];
        let mut factors = vec![0; part.rows * 4];

        let row = |r: usize, scales: &mut [u8], zeros: &mut [u8], factor: &mut [u8]| {
            let own = &part.scales[r * groups..(r + 1) * groups];
            let offsets = if form.offsets { &part.offsets[r * groups..] } else { &[][..] };
            let raised = |g: usize| match offsets.get(g) {
                Some(offset) => raised(own[g], *offset, act),
                None => own[g],
            };
            let most = (0..groups).map(|g| raised(g).abs()).fold(0.0, f32::max);
            let common = if act == DType::F32 { 1.0 } else { power_below(most) };
            factor.copy_from_slice(&common.to_le_bytes());
            for place in 0..places {
                let g = (place * step / form.group).min(groups - 1);
                let scale = raised(g);
                put(&mut scales[place * size..], scale / common, act);
                if let Some(offset) = offsets.get(g) {
                    let zero = if scale == 0.0 { 0.0 } else { offset / scale };
                    put(&mut zeros[place * size..], zero, act);
                }
            }
        };
        let lines = scales.par_chunks_mut(places * size).zip(factors.par_chunks_mut(4));
        if zeros.is_empty() {
            lines.enumerate().for_each(|(r, (s, f))| row(r, s, &mut [], f));
        } else {
            let lines = lines.zip(zeros.par_chunks_mut(places * size));
            lines.enumerate().for_each(|(r, ((s, f), z))| row(r, s, z, f));
        }
        Scales { scales, zeros, factors }
    }
}

/// A scale beside which this offset is at most as many scales as zeros may be.
fn raised(scale: f32, offset: f32, act: DType) -> f32 {
    let most = if act == DType::F32 { ZERO_MAX_F32 } else { ZERO_MAX_F16 };
    let least = offset.abs() / most;
    if scale.abs() >= least {
        scale
    } else {
        least
    }
}

/// A power of two by which scales up to `most` are divided, so that f16 holds them well.
fn power_below(most: f32) -> f32 {
    if most > 0.0 && most.is_finite() {
        (most / F16_SCALES_MAX).log2().ceil().exp2()
    } else {
        1.0
    }
}

fn put(to: &mut [u8], value: f32, act: DType) {
    if act == DType::F32 {
        to[..4].copy_from_slice(&value.to_le_bytes());
    } else {
        to[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(codes: CodeType, group: usize, offsets: bool) -> QuantForm {
        QuantForm { codes, group, offsets, inputs: None }
    }

    #[test]
    fn rows_lie_in_chunks_of_codes_and_scales() {
        let bf16 = DType::BF16;
        let int4 = layout(&form(CodeType::Int4, 128, false), 2, 4096, bf16).unwrap();
        assert_eq!((int4.blocks, int4.scales, int4.chunk_bytes), (32, 1, 1024 + 32));
        assert_eq!(int4.row_bytes, 2 * int4.chunk_bytes);

        // 17 blocks, the last one in a chunk of its own with scales and zeros of 16 bytes each.
        let odd = layout(&form(CodeType::Int4, 32, true), 2, 16 * 128 + 8, bf16).unwrap();
        assert_eq!((odd.blocks, odd.scales, odd.chunk_bytes), (17, 4, 1024 + 2 * 128));
        assert_eq!(odd.row_bytes, odd.chunk_bytes + 64 + 2 * 16);

        let rows = layout(&form(CodeType::E4m3, 96, false), 2, 96, bf16).unwrap();
        assert_eq!((rows.blocks, rows.scales, rows.row_bytes), (2, 0, 128));
        let wide = layout(&form(CodeType::Int8, 128, false), 2, 256, DType::F32).unwrap();
        assert_eq!((wide.blocks, wide.scales, wide.row_bytes), (4, 1, 4 * 64 + 16));
        assert!(layout(&form(CodeType::Int4, 48, false), 2, 96, bf16).is_none());
    }

    #[test]
    fn scales_and_zeros_mean_what_they_meant() {
        let form = form(CodeType::Int4, 32, true);
        let part = QuantPart {
            rows: 1,
            cols: 64,
            codes: Bytes::Shared(vec![0; 32].into()),
            scales: vec![0.75e-3, 0.0],
            offsets: vec![3e-3, 0.5],
        };
        let halves = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        };
        let singles = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        for (act, tolerance) in [(DType::BF16, 1e-3), (DType::F32, 4e-6)] {
            let matrix = layout(&form, 1, 64, act).unwrap();
            let scales = Scales::of(&part, &form, &matrix, act);
            let factor = f32::from_le_bytes(scales.factors.try_into().unwrap());
            let read =
                |bytes: &[u8]| if act == DType::F32 { singles(bytes) } else { halves(bytes) };
            let (s, z) = (read(&scales.scales), read(&scales.zeros));
            let value = |group: usize, number: f32| factor * s[group] * (number + z[group]);
            let close = |a: f32, b: f32| (a - b).abs() <= b.abs() * tolerance;
            for number in [-8.0, 7.0] {
                assert!(close(value(0, number), 0.75e-3 * number + 3e-3), "{s:?} {z:?} {factor}");
                // Whatever the codes of a group without a scale are.
                assert!(close(value(1, number), 0.5), "{s:?} {z:?} {factor}");
            }
        }
    }
}
