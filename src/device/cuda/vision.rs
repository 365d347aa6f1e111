//! Vision towers on the GPU: what the host knows of a tower's rows, sent once for all layers, and
//! the kernels over it (kernels/vision.cu, kernels/attention_spans.cu).

use super::abi::{self, RowPair};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::span_attention::Tile;
use super::tower_inputs::TowerInputs;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::{AttnSpec, DType, RowBlend, RowCopy, Span, TowerLimits, TowerRows, VisionOps};
use crate::error::Result;
use crate::internal;

const THREADS: u32 = abi::VISION_THREADS;

impl Cuda {
    fn tower(&self) -> Result<(&TowerInputs, &Context)> {
        let tower = self.tower.as_ref().ok_or_else(|| internal!("a tower before its reserve"))?;
        Ok((tower, &self.context))
    }

    /// Send pairs of rows: parameters and blocks of the kernels over them.
    fn pairs(
        &mut self,
        x: &Tensor,
        copies: &[RowCopy],
        out: &mut Tensor,
    ) -> Result<(abi::CopyRows, [usize; 2])> {
        let tower = self.tower.as_mut().ok_or_else(|| internal!("a tower before its reserve"))?;
        let last = |row: fn(&RowCopy) -> usize| copies.iter().map(row).max().map_or(0, |r| r + 1);
        let from = last(|copy| copy.from);
        let to = last(|copy| copy.to);

        let pair = |copy: &RowCopy| RowPair { from: copy.from as u32, to: copy.to as u32 };
        let pairs = tower.send_pairs(copies.iter().map(pair))?;
        let parameters = abi::CopyRows {
            x: x.at(from, out.width, "copy_rows"),
            pairs,
            out: out.to(to, x.width, "copy_rows"),
            width: x.width as u32,
            unused: 0,
        };
        Ok((parameters, [copies.len(), 1]))
    }
}

impl VisionOps for Cuda {
    fn reserve_tower(&mut self, limits: &TowerLimits) -> Result<()> {
        self.scratch(limits.rows * limits.gate_up * self.dtype.bytes())?;
        self.tower = Some(TowerInputs::new(&self.context, limits)?);
        Ok(())
    }

    fn begin_tower(&mut self, rows: TowerRows) -> Result<()> {
        let tower = self.tower.as_mut().ok_or_else(|| internal!("a tower before its reserve"))?;
        tower.send(&rows)?;
        self.tower_rows = Some(rows.patches.len());
        Ok(())
    }

    fn begin_rows(&mut self, rows: usize) -> Result<()> {
        self.tower_rows = Some(rows);
        Ok(())
    }

    fn end_rows(&mut self) {
        self.tower_rows = None;
    }

    fn put_patches(&mut self, out: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        let (tower, context) = self.tower()?;
        let width = out.width;
        let parameters = abi::PutPatches {
            bytes: tower.bytes,
            patch: tower.patch,
            numbers: tower.numbers,
            out: out.to(rows, width, "put_patches"),
            width: width as u32,
            unused: 0,
        };
        let blocks = [rows, width.div_ceil(THREADS as usize)];
        self.kernels.put_patches.launch(context, blocks, THREADS, &parameters)
    }

    fn add_places(&mut self, table: &Weight, x: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), table.inputs);
        let (tower, context) = self.tower()?;
        let parameters = abi::AddPlaces {
            table: table.matrix(),
            corners: tower.corners,
            x: x.to(rows, width, "add_places"),
            table_rows: table.outputs as u32,
            width: width as u32,
        };
        let blocks = [rows, width.div_ceil(THREADS as usize)];
        self.kernels.add_places.launch(context, blocks, THREADS, &parameters)
    }

    fn turn_rows(
        &mut self,
        spec: &AttnSpec,
        bias: Option<&Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let (tower, context) = self.tower()?;
        if spec.head_dim > abi::SPAN_MAX_HEAD_DIM as usize {
            return Err(internal!("heads of {} in a tower", spec.head_dim));
        }
        let width = spec.row_width();
        let parameters = abi::TurnRows {
            qkv: qkv.to(rows, width, "turn_rows"),
            angles: tower.angles,
            bias: bias.map_or(DevicePtr::NULL, |bias| bias.vector(width)),
            heads: (spec.heads + spec.kv_heads) as u32,
            dim: spec.head_dim as u32,
            width: width as u32,
            unused: 0,
        };
        self.kernels.turn_rows.launch(context, [rows, 1], THREADS, &parameters)
    }

    fn attend_spans(
        &mut self,
        spec: &AttnSpec,
        span: Span,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let (tower, context) = self.tower()?;
        let (tiles, count) = tower.tiles(span);

        let parameters = abi::AttendSpans {
            qkv: qkv.at(rows, 3 * spec.q_width(), "attend_spans"),
            tiles,
            out: out.to(rows, spec.q_width(), "attend_spans"),
            heads: spec.heads as u32,
            dim: spec.head_dim as u32,
            scale: spec.scale,
            unused: 0,
        };
        let blocks = [count, spec.heads];

        let tile = match self.dtype {
            DType::F32 => None,
            DType::F16 | DType::BF16 => Tile::of(&self.kernels, span, spec.head_dim),
        };
        match tile {
            Some(Tile { kernel, threads, shared_bytes }) => {
                kernel.launch_shared(context, blocks, threads, shared_bytes, &parameters)
            }
            None if spec.head_dim > abi::SPAN_MAX_HEAD_DIM as usize => {
                Err(internal!("heads of {} in a tower", spec.head_dim))
            }
            None => self.kernels.attend_spans.launch(context, blocks, THREADS, &parameters),
        }
    }

    fn join_rows(&mut self, count: usize, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let rows = self.rows();
        x.at(rows, x.width, "join_rows");
        out.to(rows / count, count * x.width, "join_rows");
        out.memory.copy_from(&x.memory, rows * x.width * self.dtype.bytes())
    }

    fn mean_rows(&mut self, count: usize, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        if count == 0 {
            return Err(internal!("means of no rows"));
        }
        let means = rows / count;
        let parameters = abi::MeanRows {
            x: x.at(rows, width, "mean_rows"),
            out: out.to(means, width, "mean_rows"),
            count: count as u32,
            width: width as u32,
        };
        let blocks = [means, width.div_ceil(THREADS as usize)];
        self.kernels.mean_rows.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn standardise(
        &mut self,
        factor: f32,
        bias: &Weight,
        scale: &Weight,
        x: &mut Tensor,
    ) -> Result<()> {
        let (rows, width) = (self.rows(), x.width);
        let parameters = abi::Standardise {
            x: x.to(rows, width, "standardise"),
            bias: bias.vector(width),
            scale: scale.vector(width),
            factor,
            width: width as u32,
        };
        let blocks = [rows, width.div_ceil(THREADS as usize)];
        self.kernels.standardise.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn copy_rows(&mut self, x: &Tensor, copies: &[RowCopy], out: &mut Tensor) -> Result<()> {
        let (parameters, blocks) = self.pairs(x, copies, out)?;
        self.kernels.copy_rows.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn blend_rows(
        &mut self,
        x: &Tensor,
        rows: usize,
        table: &Weight,
        blends: &[RowBlend],
        out: &mut Tensor,
    ) -> Result<()> {
        let width = table.inputs;
        let tower = self.tower.as_mut().ok_or_else(|| internal!("a tower before its reserve"))?;
        let to = blends.iter().map(|blend| blend.to + 1).max().unwrap_or(0);
        let parameters = abi::BlendRows {
            x: x.at(rows, width, "blend_rows"),
            table: table.matrix(),
            blends: tower.send_blends(blends)?,
            out: out.to(to, width, "blend_rows"),
            x_rows: rows as u32,
            table_rows: table.outputs as u32,
            width: width as u32,
            unused: 0,
        };
        let blocks = [blends.len(), 1];
        self.kernels.blend_rows.launch(&self.context, blocks, THREADS, &parameters)
    }

    fn add_rows(&mut self, x: &Tensor, copies: &[RowCopy], out: &mut Tensor) -> Result<()> {
        let (parameters, blocks) = self.pairs(x, copies, out)?;
        self.kernels.add_row_pairs.launch(&self.context, blocks, THREADS, &parameters)
    }
}
