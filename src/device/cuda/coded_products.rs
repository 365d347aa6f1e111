//! Products of weights that are held as codes: how their inputs are rounded, which kernel multiplies
//! them, and what follows. `products` calls it; it knows no weight's name.
//!
//! | rows of x | how |
//! |---|---|
//! | a few | kernels/coded_small_m.cu, codes straight to tensor cores |
//! | some hundred | kernels/coded_wgmma.cu on Hopper, the same with tiles of x |
//! | any, E4M3 by E4M3 | cuBLASLt, scales behind it |
//! | any | codes to plain weights, a slice at a time, and cuBLASLt |

use std::sync::Arc;

use super::abi::{self, CodeKind, CodedEnd, CodedProduct, InputRounding};
use super::coded::Coded;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::gemm::{Operands, Product};
use super::gemm_small_m::End;
use super::launch::Kernel;
use super::memory::Memory;
use super::module::Kernels;
use super::products::columns;
use super::tensor::{Holds, Input};
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{CodeType, DType, InputQuant, WeightDesc};
use crate::error::Result;
use crate::internal;

/// Rows up to which coded_small_m is the faster one.
const SMALL_ROWS: usize = 4;
const _: () = assert!(SMALL_ROWS <= abi::CODED_SMALL_ROWS as usize);
/// Rows up to which coded_wgmma is faster than plain weights in between.
const WGMMA_ROWS: usize = 256;
/// Rows from which E4M3 by E4M3 is cuBLASLt's, where coded_small_m does not take them.
const E4M3_ROWS: usize = 3;
/// Plain weights that stand between codes and cuBLASLt at a time: they are to stay in L2.
const SLICE_BYTES: usize = 32 << 20;
/// Compute capabilities: bulk copies; E4M3 in tensor cores; wgmma.
const BULK_COPIES: u32 = 90;
const E4M3_PRODUCTS: u32 = 89;
const WGMMA: u32 = 90;

/// What products of codes need beside them; made by `reserve`, for the widest.
#[derive(Default)]
pub struct CodedScratch {
    /// Widest inputs and blocks of codes so far; whether inputs of some are rounded.
    inputs: usize,
    padded: usize,
    rounded: bool,
    /// Bytes of the largest matrix as plain weights.
    plain_bytes: usize,
    /// Tiles of the largest matrix.
    tiles: usize,
    /// Experts of a row.
    top_k: usize,
    buffers: Option<Buffers>,
}

struct Buffers {
    /// `[step_tokens, inputs]`, activations or bytes, and the step of each.
    codes: Memory,
    steps: Memory,
    plain: Memory,
    partial: Memory,
    arrivals: Memory,
}

impl CodedScratch {
    /// A weight was loaded that is not held as codes, and whose inputs are rounded.
    pub fn note_rounded(&mut self, inputs: usize) {
        self.inputs = self.inputs.max(inputs);
        self.padded = self.padded.max(padded_inputs(inputs));
        self.rounded = true;
    }

    /// A weight was loaded.
    pub fn note(&mut self, coded: &Coded, act: DType) {
        let m = &coded.matrix;
        self.inputs = self.inputs.max(m.inputs as usize);
        self.padded = self.padded.max(coded.padded_inputs());
        self.rounded |= coded.inputs.is_some() || coded.order.is_some();
        let plain = m.outputs as usize * m.inputs as usize * act.bytes();
        self.plain_bytes = self.plain_bytes.max(plain);
        self.tiles =
            self.tiles.max(2 * (m.outputs as usize).div_ceil(abi::CODED_TILE as usize) + 2);
    }

    fn plain_slice(&self) -> usize {
        self.plain_bytes.min(SLICE_BYTES)
    }

    /// The experts of a row are so many.
    pub fn note_choices(&mut self, top_k: usize) {
        self.top_k = self.top_k.max(top_k);
    }

    /// Room for steps of so many rows. Nothing where no weight is held as codes. Grows only where
    /// weights were loaded since, which waits for the GPU.
    pub fn reserve(&mut self, context: &Arc<Context>, act: DType, rows: usize) -> Result<()> {
        if self.inputs == 0 {
            return Ok(());
        }
        let sizes = self.sizes(context, act, rows);
        let old = self.buffers.as_ref();
        let enough = |b: &Buffers| {
            let held = [&b.codes, &b.steps, &b.plain, &b.partial, &b.arrivals];
            held.iter().zip(sizes).all(|(memory, bytes)| memory.bytes >= bytes)
        };
        if old.is_some_and(enough) {
            return Ok(());
        }

        self.buffers = None;
        let [codes, steps, plain, partial, arrivals] = sizes;
        let memory = |bytes, what| Memory::new(context, bytes, what);
        let buffers = Buffers {
            codes: memory(codes, "rounded inputs")?,
            steps: memory(steps, "steps of rounded inputs")?,
            plain: memory(plain, "weights unpacked for a product")?,
            partial: memory(partial, "sums of products")?,
            arrivals: memory(arrivals, "counters of products")?,
        };
        buffers.arrivals.fill(0)?;
        self.buffers = Some(buffers);
        Ok(())
    }

    /// Bytes of the buffers, in their order.
    fn sizes(&self, context: &Context, act: DType, rows: usize) -> [usize; 5] {
        let row_bytes = (self.inputs * act.bytes()).max(self.padded);
        let rounded = if self.rounded { rows * self.top_k.max(1) } else { 0 };
        let columns = WGMMA_ROWS.div_ceil(abi::CODED_MANY_ROWS as usize);
        let tile_bytes = (abi::CODED_TILE * abi::CODED_MANY_ROWS * 4) as usize;
        [
            rounded * row_bytes,
            rounded * 4,
            self.plain_slice(),
            2 * resident_blocks(context) * tile_bytes,
            columns * self.tiles * 4,
        ]
    }
}

/// What products of codes whose inputs are so wide take beside weights, at most: rounded inputs of a
/// step, those that norms make, and what does not depend on the step.
pub fn extra_bytes(step_tokens: usize, act: DType, inputs: usize) -> usize {
    const REST_BYTES: usize = 64 << 20;
    if inputs == 0 {
        return 0;
    }
    2 * step_tokens * (inputs * act.bytes() + 4) + SLICE_BYTES + REST_BYTES
}

/// Blocks of coded_wgmma that a card holds.
fn resident_blocks(context: &Context) -> usize {
    (abi::CODED_BLOCKS_PER_MULTIPROCESSOR * context.multiprocessors) as usize
}

/// The kernels take the shared memory that they need.
pub fn prepare(context: &Context, k: &Kernels) -> Result<()> {
    if context.capability < BULK_COPIES {
        return Ok(());
    }
    let shared = abi::CODED_SMALL_SHARED_BYTES as usize;
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1, CodeKind::Table] {
        small(k, kind).allow_shared(shared)?;
    }
    k.coded_small_e4m3_bytes.allow_shared(shared)?;
    if context.capability != WGMMA {
        return Ok(());
    }
    for kind in [CodeKind::E4m3, CodeKind::Int8, CodeKind::Int4, CodeKind::E2m1] {
        for rows in [1, abi::CODED_MANY_ROWS as usize] {
            for kernel in [wgmma(k, kind, rows), experts(k, kind, rows)].into_iter().flatten() {
                kernel.kernel.allow_shared(kernel.shared)?;
            }
        }
    }
    Ok(())
}

fn small(k: &Kernels, kind: CodeKind) -> &Kernel<CodedProduct> {
    match kind {
        CodeKind::E4m3 => &k.coded_small_e4m3,
        CodeKind::Int8 => &k.coded_small_int8,
        CodeKind::Int4 => &k.coded_small_int4,
        CodeKind::E2m1 => &k.coded_small_e2m1,
        CodeKind::Table => &k.coded_small_table,
    }
}

/// A kernel of tiles.
#[derive(Clone, Copy)]
struct Tiled<'a> {
    kernel: &'a Kernel<CodedProduct>,
    shared: usize,
    /// Rows of x of a tile.
    columns: usize,
}

fn tiled(kernel: &Kernel<CodedProduct>, few: bool) -> Tiled<'_> {
    let (shared, columns) = if few {
        (abi::CODED_FEW_SHARED_BYTES, abi::CODED_FEW_ROWS)
    } else {
        (abi::CODED_MANY_SHARED_BYTES, abi::CODED_MANY_ROWS)
    };
    Tiled { kernel, shared: shared as usize, columns: columns as usize }
}

/// The kernel for so many rows; none for tables.
fn wgmma(k: &Kernels, kind: CodeKind, rows: usize) -> Option<Tiled<'_>> {
    let few = rows <= abi::CODED_FEW_ROWS as usize;
    let kernel = match (kind, few) {
        (CodeKind::E4m3, true) => &k.coded_few_e4m3,
        (CodeKind::Int8, true) => &k.coded_few_int8,
        (CodeKind::Int4, true) => &k.coded_few_int4,
        (CodeKind::E2m1, true) => &k.coded_few_e2m1,
        (CodeKind::E4m3, false) => &k.coded_many_e4m3,
        (CodeKind::Int8, false) => &k.coded_many_int8,
        (CodeKind::Int4, false) => &k.coded_many_int4,
        (CodeKind::E2m1, false) => &k.coded_many_e2m1,
        (CodeKind::Table, _) => return None,
    };
    Some(tiled(kernel, few))
}

/// The same of experts, by the choices of a tile.
fn experts(k: &Kernels, kind: CodeKind, choices: usize) -> Option<Tiled<'_>> {
    let few = choices <= abi::CODED_FEW_ROWS as usize;
    let kernel = match (kind, few) {
        (CodeKind::E4m3, true) => &k.coded_experts_few_e4m3,
        (CodeKind::Int8, true) => &k.coded_experts_few_int8,
        (CodeKind::Int4, true) => &k.coded_experts_few_int4,
        (CodeKind::E2m1, true) => &k.coded_experts_few_e2m1,
        (CodeKind::E4m3, false) => &k.coded_experts_many_e4m3,
        (CodeKind::Int8, false) => &k.coded_experts_many_int8,
        (CodeKind::Int4, false) => &k.coded_experts_many_int4,
        (CodeKind::E2m1, false) => &k.coded_experts_many_e2m1,
        (CodeKind::Table, _) => return None,
    };
    Some(tiled(kernel, few))
}

/// Whether experts may be held as codes of this form on this card.
pub fn takes_experts(context: &Context, act: DType, desc: &WeightDesc<'_>) -> bool {
    let table = matches!(desc.quant.map(|form| form.codes), Some(CodeType::Table(_)));
    context.capability == WGMMA && act != DType::F32 && desc.inputs.is_multiple_of(8) && !table
}

/// What the choices of a mixture's rows are (experts.rs): addresses of the GPU.
pub(super) struct Choices {
    pub order: DevicePtr,
    pub tiles: DevicePtr,
    pub tile_count: DevicePtr,
    /// Tiles at most, and choices of each.
    pub most_tiles: usize,
    pub tile_rows: usize,
    pub experts: usize,
    pub top_k: usize,
}

/// A product's inputs as it takes them.
struct Inputs {
    x: DevicePtr,
    /// Null: 1 for all rows.
    steps: DevicePtr,
}

/// Where an op writes what products make of its rows; null: nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub codes: DevicePtr,
    pub bytes: DevicePtr,
    pub steps: DevicePtr,
}

impl Default for Made {
    fn default() -> Made {
        Made { codes: DevicePtr::NULL, bytes: DevicePtr::NULL, steps: DevicePtr::NULL }
    }
}

/// Bytes of a row of E4M3 codes in the order of a coded matrix.
pub(super) fn padded_inputs(inputs: usize) -> usize {
    inputs.next_multiple_of(abi::CODE_BLOCK_BYTES as usize)
}

fn rounding(inputs: Option<InputQuant>) -> (InputRounding, f32, f32) {
    match inputs {
        None => (InputRounding::None, 1.0, 0.0),
        Some(InputQuant::E4m3Tensor { step }) => (InputRounding::E4m3Tensor, step, 0.0),
        Some(InputQuant::E4m3Row) => (InputRounding::E4m3Row, 1.0, 0.0),
        Some(InputQuant::E4m3Block) => (InputRounding::E4m3Block, 1.0, 0.0),
        Some(InputQuant::Int8Tensor { step, zero: None }) => (InputRounding::Int8Tensor, step, 0.0),
        Some(InputQuant::Int8Tensor { step, zero: Some(zero) }) => {
            (InputRounding::Int8TensorWithZero, step, f32::from(zero))
        }
        Some(InputQuant::Int8Row) => (InputRounding::Int8Row, 1.0, 0.0),
        Some(InputQuant::Int8RowWithZero) => (InputRounding::Int8RowWithZero, 1.0, 0.0),
    }
}

impl Cuda {
    /// y = end(x W^T + bias) over `rows` rows, W of codes; addresses as in [`Cuda::product`].
    pub(super) fn coded_product(
        &mut self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        x: Input,
        y: DevicePtr,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let context = self.context.clone();
        self.coded.reserve(&context, self.dtype, rows)?;
        if self.takes_e4m3(coded) {
            if self.takes_few(rows, coded, 1) {
                let kernel = &self.kernels.coded_small_e4m3_bytes;
                let by_row = coded.inputs == Some(InputQuant::E4m3Row);
                let inputs = if by_row && x.holds == Holds::Bytes {
                    Inputs { x: x.codes, steps: x.steps }
                } else {
                    Inputs { x: x.x, steps: DevicePtr::NULL }
                };
                return self.small_product(kernel, rows, coded, bias, end, &inputs, y);
            }
            let library = coded.matrix.outputs.is_multiple_of(16) && end != End::Logits;
            if library && self.rounds_to_bytes(rows) {
                let inputs = self.rounded(rows, coded, true, x)?;
                return self.e4m3_product(rows, coded, bias, end, &inputs, y);
            }
        }

        let inputs = self.rounded(rows, coded, false, x)?;
        let kernels = self.kernels.clone();
        let capability = self.context.capability;
        let on_tensor_cores = self.dtype != DType::F32
            && capability >= BULK_COPIES
            && coded.matrix.inputs.is_multiple_of(8);
        let act = self.dtype.bytes();
        if on_tensor_cores && rows <= SMALL_ROWS && self.takes_few(rows, coded, act) {
            let kernel = small(&kernels, coded.matrix.kind);
            return self.small_product(kernel, rows, coded, bias, end, &inputs, y);
        }
        if on_tensor_cores && capability == WGMMA && rows <= WGMMA_ROWS {
            if let Some(tiled) = wgmma(&kernels, coded.matrix.kind, rows) {
                let product = self.describe(rows, coded, bias, end, &inputs, y)?;
                return self.wgmma_product(tiled, &product);
            }
        }
        if on_tensor_cores && self.takes_few(rows, coded, act) {
            let kernel = small(&kernels, coded.matrix.kind);
            return self.small_product(kernel, rows, coded, bias, end, &inputs, y);
        }
        self.unpacked_product(rows, coded, bias, end, &inputs, y)
    }

    /// Whether these codes may be multiplied by codes of the inputs.
    fn takes_e4m3(&self, coded: &Coded) -> bool {
        matches!(coded.inputs, Some(InputQuant::E4m3Row | InputQuant::E4m3Tensor { .. }))
            && coded.matrix.kind == CodeKind::E4m3
            && coded.matrix.scales == 0
            && coded.matrix.inputs.is_multiple_of(8)
            && coded.order.is_none()
    }

    /// Whether coded_small_m takes so many rows: it holds x, of so many bytes an input, in shared
    /// memory.
    fn takes_few(&self, rows: usize, coded: &Coded, bytes: usize) -> bool {
        let block = abi::CODE_BLOCK_BYTES as usize * if coded.wide() { 1 } else { 2 };
        let pitch = (coded.matrix.blocks as usize * block * bytes + 63) / 128 * 128 + 64;
        self.dtype != DType::F32
            && self.context.capability >= BULK_COPIES
            && rows <= abi::CODED_SMALL_ROWS as usize
            && rows * pitch <= abi::CODED_SMALL_X_BYTES as usize
    }

    /// Whether inputs that are rounded to E4M3 become bytes, which cuBLASLt multiplies.
    fn rounds_to_bytes(&self, rows: usize) -> bool {
        // Sums of f16 would be beyond its range before they are scaled.
        rows >= E4M3_ROWS && self.dtype == DType::BF16 && self.context.capability >= E4M3_PRODUCTS
    }

    /// What the op that writes `out` is to make of it beside, so many rows. Called when `out` was
    /// taken to be written.
    pub(super) fn made_of(&self, rows: usize, out: &mut Tensor) -> Made {
        let Some(rounded) = &mut out.rounded else { return Made::default() };
        let few = rows <= abi::CODED_SMALL_ROWS as usize
            && self.dtype != DType::F32
            && self.context.capability >= BULK_COPIES;
        let bytes = few || self.rounds_to_bytes(rows);
        rounded.holds = if bytes { Holds::Bytes } else { Holds::Activations };
        let (codes, steps) = (rounded.codes.address, rounded.steps.address);
        if bytes {
            Made { bytes: codes, codes: DevicePtr::NULL, steps }
        } else {
            Made { codes, bytes: DevicePtr::NULL, steps }
        }
    }

    fn buffers(&self) -> Result<&Buffers> {
        self.coded.buffers.as_ref().ok_or_else(|| internal!("a product of codes before reserve"))
    }

    /// The inputs in the weight's order and rounded as it wants them.
    fn rounded(&self, rows: usize, coded: &Coded, bytes: bool, x: Input) -> Result<Inputs> {
        let Input { x, holds, codes, steps } = x;
        if coded.inputs.is_none() && coded.order.is_none() {
            return Ok(Inputs { x, steps: DevicePtr::NULL });
        }
        let wanted = if bytes { Holds::Bytes } else { Holds::Activations };
        let usual = coded.inputs == Some(InputQuant::E4m3Row) && coded.order.is_none();
        if usual && holds == wanted {
            return Ok(Inputs { x: codes, steps });
        }
        let buffers = self.buffers()?;
        let to = buffers.codes.address;
        let order = coded.order.as_ref().map_or(DevicePtr::NULL, |order| order.address);
        let (kind, step, zero) = rounding(coded.inputs);
        self.kernels.round_inputs.launch(
            &self.context,
            [rows, 1],
            abi::ROUND_THREADS,
            &abi::RoundInputs {
                x,
                order,
                codes: if bytes { DevicePtr::NULL } else { to },
                bytes: if bytes { to } else { DevicePtr::NULL },
                steps: buffers.steps.address,
                inputs: coded.matrix.inputs,
                padded_inputs: coded.padded_inputs() as u32,
                step,
                zero,
                kind,
                values: 0,
            },
        )?;
        Ok(Inputs { x: to, steps: buffers.steps.address })
    }

    /// Inputs of a weight that is not held as codes, as its products are to see them: rounded, and
    /// activations again.
    pub(super) fn rounded_values(
        &mut self,
        rows: usize,
        inputs: usize,
        rule: Option<InputQuant>,
        x: DevicePtr,
    ) -> Result<DevicePtr> {
        let Some(rule) = rule else { return Ok(x) };
        let context = self.context.clone();
        self.coded.reserve(&context, self.dtype, rows.div_ceil(self.coded.top_k.max(1)))?;
        let buffers = self.buffers()?;
        let (kind, step, zero) = rounding(Some(rule));
        let to = buffers.codes.address;
        self.kernels.round_inputs.launch(
            &self.context,
            [rows, 1],
            abi::ROUND_THREADS,
            &abi::RoundInputs {
                x,
                order: DevicePtr::NULL,
                codes: to,
                bytes: DevicePtr::NULL,
                steps: buffers.steps.address,
                inputs: inputs as u32,
                padded_inputs: padded_inputs(inputs) as u32,
                step,
                zero,
                kind,
                values: 1,
            },
        )?;
        Ok(to)
    }

    fn describe(
        &self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        inputs: &Inputs,
        y: DevicePtr,
    ) -> Result<CodedProduct> {
        let buffers = self.buffers()?;
        let (end, kind) = match end {
            End::Act(kind) => (CodedEnd::Act, kind),
            End::Gated(kind) => (CodedEnd::Gated, kind),
            End::Logits => (CodedEnd::Logits, abi::Activation::None),
        };
        Ok(CodedProduct {
            w: coded.matrix,
            x: inputs.x,
            steps: inputs.steps,
            bias,
            y,
            partial: buffers.partial.address,
            arrivals: buffers.arrivals.address,
            order: DevicePtr::NULL,
            expert_tiles: DevicePtr::NULL,
            expert_tile_count: DevicePtr::NULL,
            rows: rows as u32,
            step: match coded.inputs {
                Some(InputQuant::E4m3Tensor { step }) => step,
                _ => 0.0,
            },
            outputs: coded.matrix.outputs,
            top_k: 1,
            end,
            kind,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what `product` takes, and the kernel")]
    fn small_product(
        &self,
        kernel: &Kernel<CodedProduct>,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        inputs: &Inputs,
        y: DevicePtr,
    ) -> Result<()> {
        let product = self.describe(rows, coded, bias, end, inputs, y)?;
        let outputs = coded.matrix.outputs as usize;
        let tiles = match end {
            End::Gated(_) => (outputs / 2).div_ceil(abi::SMALL_M_GATED_TILE as usize),
            End::Act(_) | End::Logits => outputs.div_ceil(abi::SMALL_M_TILE as usize),
        };
        let most = abi::SMALL_M_BLOCKS_PER_MULTIPROCESSOR * self.context.multiprocessors;
        let shared = abi::CODED_SMALL_SHARED_BYTES as usize;
        let blocks = [tiles.min(most as usize), 1];
        kernel.launch_shared(&self.context, blocks, abi::SMALL_M_THREADS, shared, &product)
    }

    /// y = end(x W^T) of the choices of each expert; x has `rows` rows.
    pub(super) fn coded_experts(
        &mut self,
        rows: usize,
        coded: &Coded,
        end: End,
        choices: &Choices,
        x: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let context = self.context.clone();
        self.coded.reserve(&context, self.dtype, rows.div_ceil(self.coded.top_k.max(1)))?;
        let inputs = self.rounded(rows, coded, false, x.into())?;
        let kernels = self.kernels.clone();
        let tiled = experts(&kernels, coded.matrix.kind, choices.tile_rows);
        let Tiled { kernel, shared, columns } =
            tiled.ok_or_else(|| internal!("experts of a table"))?;
        let outputs = coded.matrix.outputs as usize / choices.experts;
        if choices.tile_rows > columns {
            return Err(internal!("{} choices in a tile of {columns}", choices.tile_rows));
        }

        let product = CodedProduct {
            order: choices.order,
            expert_tiles: choices.tiles,
            expert_tile_count: choices.tile_count,
            outputs: outputs as u32,
            top_k: choices.top_k as u32,
            ..self.describe(rows, coded, DevicePtr::NULL, end, &inputs, y)?
        };
        let tile = abi::CODED_TILE as usize;
        let across = match product.end {
            CodedEnd::Gated => (outputs / 2).div_ceil(tile / 2),
            CodedEnd::Act | CodedEnd::Logits => outputs.div_ceil(tile),
        };
        let blocks = [across, choices.most_tiles];
        kernel.launch_shared(&self.context, blocks, abi::CODED_THREADS, shared, &product)
    }

    fn wgmma_product(&self, tiled: Tiled<'_>, product: &CodedProduct) -> Result<()> {
        let Tiled { kernel, shared, columns } = tiled;
        let across = (product.rows as usize).div_ceil(columns);
        let outputs = product.w.outputs as usize;
        let tile = abi::CODED_TILE as usize;
        let tiles = match product.end {
            CodedEnd::Gated => (outputs / 2).div_ceil(tile / 2),
            CodedEnd::Act | CodedEnd::Logits => outputs.div_ceil(tile),
        };
        // Each block has at least one unit of work.
        let units = tiles * product.w.blocks as usize;
        let blocks = (resident_blocks(&self.context) / across).clamp(1, units);
        kernel.launch_shared(&self.context, [blocks, across], abi::CODED_THREADS, shared, product)
    }

    fn e4m3_product(
        &mut self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        inputs: &Inputs,
        y: DevicePtr,
    ) -> Result<()> {
        let outputs = coded.matrix.outputs as usize;
        let gated = matches!(end, End::Gated(_));
        let sums = if gated { self.scratch(rows * outputs * self.dtype.bytes())? } else { y };
        let product = Product {
            rows,
            outputs,
            inputs: coded.padded_inputs(),
            stride: outputs,
            logits: false,
            operands: Operands::E4m3,
            x: inputs.x,
            w: coded.matrix.rows,
            y: sums,
        };
        let factor = coded.matrix.factor;
        if self.gemm.run_scaled(&self.kernels, &product, factor, inputs.steps)? {
            return self.finish(rows, outputs, bias, end, sums, y);
        }
        self.gemm.run(&self.kernels, &product)?;
        self.finish_scaled(rows, outputs, inputs.steps, coded.matrix.factor, bias, end, sums, y)
    }

    /// Slices of W as plain weights, each multiplied before the next takes its place.
    fn unpacked_product(
        &mut self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        inputs: &Inputs,
        y: DevicePtr,
    ) -> Result<()> {
        let matrix = coded.matrix;
        let (outputs, width) = (matrix.outputs as usize, matrix.inputs as usize);
        let act = self.dtype.bytes();
        let logits = end == End::Logits;
        let gated = matches!(end, End::Gated(_));
        let sums = if gated { self.scratch(rows * outputs * act)? } else { y };
        let plain = self.buffers()?.plain.address;
        let slice = self.coded.plain_slice() / (width * act);
        // Whole tiles of cuBLASLt's kernels where there are several.
        let slice = if slice > 128 { slice / 128 * 128 } else { slice.max(1) };

        for first in (0..outputs).step_by(slice) {
            let count = slice.min(outputs - first);
            let lanes = count * matrix.blocks as usize * 4;
            self.kernels.unpack_codes.launch(
                &self.context,
                [lanes.div_ceil(256), 1],
                256,
                &abi::UnpackCodes {
                    from: matrix,
                    to: plain,
                    first_row: first as u32,
                    rows: count as u32,
                },
            )?;
            let product = Product {
                rows,
                outputs: count,
                inputs: width,
                stride: outputs,
                logits,
                operands: Operands::Activations,
                x: inputs.x,
                w: plain,
                y: sums.offset_bytes(first * if logits { 4 } else { act }),
            };
            self.gemm.run(&self.kernels, &product)?;
        }

        if inputs.steps.is_null() {
            return self.finish(rows, outputs, bias, end, sums, y);
        }
        self.finish_scaled(rows, outputs, inputs.steps, DevicePtr::NULL, bias, end, sums, y)
    }

    /// As [`Cuda::finish`], with sums that are to be multiplied by the steps of their rows and the
    /// factors of their columns (or null).
    #[expect(clippy::too_many_arguments, reason = "what `finish` takes, and two addresses")]
    fn finish_scaled(
        &self,
        rows: usize,
        outputs: usize,
        steps: DevicePtr,
        factor: DevicePtr,
        bias: DevicePtr,
        end: End,
        sums: DevicePtr,
        y: DevicePtr,
    ) -> Result<()> {
        let blocks = |width: usize| [rows, columns(width)];
        match end {
            End::Act(kind) => {
                let width = outputs as u32;
                let parameters = abi::ScaleAct { y, steps, factor, bias, width, kind };
                let kernel = &self.kernels.scale_act;
                kernel.launch(&self.context, blocks(outputs), ROW_THREADS, &parameters)
            }
            End::Gated(kind) => {
                let half = outputs / 2;
                let parameters = abi::ScaleGated {
                    x: sums,
                    steps,
                    factor,
                    bias,
                    out: y,
                    half: half as u32,
                    kind,
                };
                let kernel = &self.kernels.scale_gated;
                kernel.launch(&self.context, blocks(half), ROW_THREADS, &parameters)
            }
            End::Logits => {
                let parameters = abi::ScaleLogits { logits: y, steps, vocab: outputs as u32 };
                let kernel = &self.kernels.scale_logits;
                let blocks = [rows, outputs.div_ceil(ROW_THREADS as usize)];
                kernel.launch(&self.context, blocks, ROW_THREADS, &parameters)
            }
        }
    }
}
