//! Products of weights that are held as codes: how their inputs are rounded, which kernel
//! multiplies them, and what follows. `products` calls it; it knows no weight's name.
//!
//! | rows of x | how |
//! |---|---|
//! | a few | kernels/coded_small_m.cu, codes straight to tensor cores |
//! | some hundred | kernels/coded_wgmma.cu on Hopper, the same with tiles of x |
//! | 3 to 32, and 9 to 64, E4M3 by E4M3 | kernels/gemm_tiles.cu, gemm_rows.cu on Hopper |
//! | any, E4M3 by E4M3 | cuBLASLt, scales behind it |
//! | any | codes to plain weights, a slice at a time, and cuBLASLt |

use super::abi::{self, CodeKind, CodedEnd, CodedProduct, CodedTiles};
use super::coded::Coded;
use super::coded_inputs::Inputs;
use super::coded_kernels::{experts, small, wgmma, Tiled, WGMMA};
use super::coded_scratch::{padded_inputs, WGMMA_ROWS};
use super::device_ptr::DevicePtr;
use super::gemm_product::{Operands, Product};
use super::gemm_rows;
use super::gemm_small_m::{self, End, Goes};
use super::gemm_tiles::{self, TiledProduct};
use super::products::columns;
use super::row_norms::Norms;
use super::tensor::Input;
use super::tensor_map::Matrix;
use super::{Cuda, ROW_THREADS};
use crate::device::{DType, InputQuant};
use crate::error::Result;
use crate::internal;

/// Rows up to which coded_small_m is the faster one.
const SMALL_ROWS: usize = 4;
const _: () = assert!(SMALL_ROWS <= abi::CODED_SMALL_ROWS as usize);

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

/// Tiles of so many rows of W for so many outputs; half of a gated tile's are ups.
pub(super) fn tiles(end: CodedEnd, outputs: usize, tile: u32) -> usize {
    let tile = tile as usize;
    match end {
        CodedEnd::Gated => (outputs / 2).div_ceil(tile / 2),
        CodedEnd::Act | CodedEnd::Logits => outputs.div_ceil(tile),
    }
}

/// Half a tile's rows of a block of codes, in each box.
fn boxes_of_codes(product: &CodedProduct) -> Result<abi::TensorMap> {
    let w = &product.w;
    let row_bytes = w.row_bytes as usize;
    let rows = Matrix { first: w.rows, columns: row_bytes, rows: w.outputs as usize, row_bytes };
    rows.boxes_of_bytes(abi::CODE_BLOCK_BYTES as usize, abi::CODED_TILE as usize / 2)
}

/// For gemm_tiles or gemm_rows, inputs not yet there.
fn tiled_product(
    rows: usize,
    coded: &Coded,
    bias: DevicePtr,
    end: End,
    y: DevicePtr,
) -> TiledProduct {
    TiledProduct {
        kind: gemm_tiles::Kind::E4m3 { factor: coded.matrix.factor, steps: DevicePtr::NULL },
        rows,
        outputs: coded.matrix.outputs as usize,
        inputs: padded_inputs(coded.matrix.inputs as usize),
        x: DevicePtr::NULL,
        w: coded.matrix.rows,
        bias,
        y,
        end,
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
            let product = tiled_product(rows, coded, bias, end, y);
            let tiles = self.tiles_of(&product);
            if tiles.is_none() && self.takes_few(rows, coded, 1) {
                return self.few_e4m3(rows, coded, bias, end, x, y);
            }
            if let Some(plan) = tiles {
                let inputs = self.rounded(rows, coded, true, x)?;
                let kind =
                    gemm_tiles::Kind::E4m3 { factor: coded.matrix.factor, steps: inputs.steps };
                let product = TiledProduct { kind, x: inputs.x, ..product };
                let (context, kernels) = (&self.context, &self.kernels);
                if let Some(plan) = plan {
                    let (held, norms) = (&self.rows_held, Norms::default());
                    return gemm_rows::run(context, kernels, held, plan, &product, norms);
                }
                return gemm_tiles::run(context, kernels, &self.tile_shares, &product);
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
            && gemm_small_m::copies_in_bulk(&self.context, &kernels)
            && coded.matrix.inputs.is_multiple_of(8);
        let kind = coded.matrix.kind;
        let by_tiles = on_tensor_cores && capability == WGMMA && rows <= WGMMA_ROWS;
        let tiled = if by_tiles { wgmma(&kernels, kind, rows) } else { None };
        let few = on_tensor_cores && self.takes_few(rows, coded, self.dtype.bytes());
        if few && (rows <= SMALL_ROWS || tiled.is_none()) {
            let kernel = small(&kernels, kind);
            let product = self.describe(rows, coded, bias, end, &inputs, y)?;
            return self.small_product(kernel, &product, Goes::To(y), None);
        }
        if let Some(tiled) = tiled {
            let product = self.describe(rows, coded, bias, end, &inputs, y)?;
            return self.wgmma_product(tiled, product);
        }
        self.unpacked_product(rows, coded, bias, end, &inputs, y)
    }

    /// If a product of codes of E4M3 is gemm_rows' or gemm_tiles', how the former cuts it; none: it
    /// is the latter's.
    fn tiles_of(&self, product: &TiledProduct) -> Option<Option<gemm_rows::Plan>> {
        if !self.tiles_e4m3(product.rows) {
            return None;
        }
        let plan = gemm_rows::plan(&self.context, &self.rows_held, self.dtype, product);
        (plan.is_some() || gemm_tiles::takes(&self.context, self.dtype, product)).then_some(plan)
    }

    /// Whether products of so many rows with these codes, without an activation, are gemm_rows' or
    /// gemm_tiles'.
    pub(super) fn tiles_codes(&self, rows: usize, coded: &Coded) -> bool {
        let end = End::Act(abi::Activation::None);
        let product = tiled_product(rows, coded, DevicePtr::NULL, end, DevicePtr::NULL);
        self.takes_e4m3(coded) && self.tiles_of(&product).is_some()
    }

    /// Whether these codes may be multiplied by codes of the inputs.
    pub(super) fn takes_e4m3(&self, coded: &Coded) -> bool {
        matches!(coded.inputs, Some(InputQuant::E4m3Row | InputQuant::E4m3Tensor { .. }))
            && coded.matrix.kind == CodeKind::E4m3
            && coded.matrix.scales == 0
            && coded.matrix.inputs.is_multiple_of(8)
            && coded.order.is_none()
    }

    /// Whether coded_small_m takes so many rows: it holds x, of so many bytes an input, in shared
    /// memory.
    pub(super) fn takes_few(&self, rows: usize, coded: &Coded, bytes: usize) -> bool {
        self.dtype != DType::F32
            && gemm_small_m::copies_in_bulk(&self.context, &self.kernels)
            && rows <= abi::CODED_SMALL_ROWS as usize
            && self.x_bytes(rows, coded, bytes) <= abi::CODED_SMALL_X_BYTES as usize
    }

    /// What so many rows of x, of so many bytes an input, take of a block's shared memory there.
    pub(super) fn x_bytes(&self, rows: usize, coded: &Coded, bytes: usize) -> usize {
        let block = abi::CODE_BLOCK_BYTES as usize * if coded.wide() { 1 } else { 2 };
        let blocks = coded.matrix.blocks as usize;
        let pitch = (blocks * block * bytes + 63) / 128 * 128 + 64;
        // Of INT4 alone, where they are few: the sums of each group.
        let sums = blocks * coded.matrix.scales.max(1) as usize * 4;
        rows * pitch + sums * abi::CODED_SMALL_ROWS as usize
    }

    pub(super) fn describe(
        &self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
        end: End,
        inputs: &Inputs,
        y: DevicePtr,
    ) -> Result<CodedProduct> {
        let (end, kind) = end.told();

        Ok(CodedProduct {
            w: coded.matrix,
            x: inputs.x,
            steps: inputs.steps,
            bias,
            y,
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

    /// y = end(x W^T) of the choices of each expert; x has `rows` rows.
    #[expect(clippy::too_many_arguments, reason = "what `product` takes, and who chose what")]
    pub(super) fn coded_experts(
        &mut self,
        rows: usize,
        coded: &Coded,
        bias: DevicePtr,
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
            ..self.describe(rows, coded, bias, end, &inputs, y)?
        };
        let blocks = [tiles(product.end, outputs, abi::CODED_TILE), choices.most_tiles];
        let codes = boxes_of_codes(&product)?;
        // Rows of x are gathered without a map.
        let parameters = CodedTiles { codes, inputs: codes, product };
        kernel.launch_shared(&self.context, blocks, abi::CODED_THREADS, shared, &parameters)
    }

    fn wgmma_product(&self, tiled: Tiled<'_>, product: CodedProduct) -> Result<()> {
        let Tiled { kernel, shared, columns } = tiled;
        let x = Matrix {
            first: product.x,
            columns: product.w.inputs as usize,
            rows: product.rows as usize,
            row_bytes: product.w.inputs as usize * self.dtype.bytes(),
        };
        let inputs = x.panels(Some(self.dtype), columns)?;
        let parameters = CodedTiles { codes: boxes_of_codes(&product)?, inputs, product };

        let across = (product.rows as usize).div_ceil(columns);
        let outputs = product.w.outputs as usize;
        let tiles = tiles(product.end, outputs, abi::CODED_TILE);
        let shares = self.shares.best(tiles * across, product.w.blocks as usize);
        let blocks = [tiles * shares, across];
        let threads = abi::CODED_THREADS;
        kernel.launch_clusters(&self.context, blocks, shares, threads, shared, &parameters)
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
        let sums = self.place_of_sums(rows, outputs, end, y)?;
        let product = Product {
            rows,
            outputs,
            inputs: padded_inputs(coded.matrix.inputs as usize),
            stride: outputs,
            logits: false,
            operands: Operands::E4m3,
            x: inputs.x,
            w: coded.matrix.rows,
            y: sums,
            added_to: None,
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
        let sums = self.place_of_sums(rows, outputs, end, y)?;
        let plain = self.buffers()?.plain.address;
        let slice = self.coded.plain_slice() / (width * act);
        // Whole tiles of cuBLASLt's kernels where there are several.
        let slice = if slice > 128 { slice / 128 * 128 } else { slice.max(1) };

        for first in (0..outputs).step_by(slice) {
            let count = slice.min(outputs - first);
            coded.unpack(&self.context, &self.kernels, plain, first, count)?;
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
                added_to: None,
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
