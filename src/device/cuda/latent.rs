//! Ops of attention over latent vectors on the GPU: products by the matrices of heads, the store to
//! pages, attention. Which kernel attends `latent_attention` decides.

use super::abi;
use super::latent_attention::AttendLatent;
use super::weights::Weight;
use super::{Cuda, Tensor};
use crate::device::{DType, LatentOps, LatentSpec, Norm, Rope, WeightKind};
use crate::error::Result;
use crate::internal;

/// Pairs that store_latent takes at most (its parameter space and shared memory).
const MAX_PAIRS: usize = abi::LATENT_MAX_PAIRS as usize;
const STORE_HEADS: usize = abi::LATENT_STORE_HEADS as usize;
const FEW_ROWS: usize = abi::HEADS_FEW_ROWS as usize;
const MANY_ROWS: usize = abi::HEADS_MANY_ROWS as usize;

impl LatentOps for Cuda {
    fn multiply_heads(&mut self, weight: &Weight, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let WeightKind::Heads { count: heads } = weight.kind else {
            return Err(internal!("{} was not loaded for heads", weight.name));
        };
        let rows = self.rows();
        let (inputs, outputs) = (weight.inputs, weight.outputs / heads);
        let (x_dim, out_dim) = (x.width / heads, out.width / heads);
        assert!(inputs <= x_dim && outputs <= out_dim, "{}: {x_dim} to {out_dim}", weight.name);

        let parameters = abi::MultiplyHeads {
            x: x.at(rows, heads * x_dim, "multiply_heads"),
            w: weight.matrix(),
            out: out.to(rows, heads * out_dim, "multiply_heads"),
            rows: rows as u32,
            heads: heads as u32,
            x_dim: x_dim as u32,
            out_dim: out_dim as u32,
            outputs: outputs as u32,
            inputs: inputs as u32,
        };
        // Loads of 16 bytes, stores of pairs.
        let aligned = [inputs, x_dim].iter().all(|n| n.is_multiple_of(8));
        let paired = [outputs, out_dim].iter().all(|n| n.is_multiple_of(2));
        let tiled = self.dtype != DType::F32 && aligned && paired;
        let output_tiles = outputs.div_ceil(abi::HEADS_OUTPUTS as usize);
        let (kernel, blocks) = if !tiled {
            (&self.kernels.heads_plain, rows)
        } else if rows <= FEW_ROWS {
            (&self.kernels.heads_few, rows.div_ceil(FEW_ROWS) * output_tiles)
        } else {
            (&self.kernels.heads_many, rows.div_ceil(MANY_ROWS) * output_tiles)
        };
        kernel.launch(&self.context, [blocks, heads], abi::HEADS_THREADS, &parameters)
    }

    fn store_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        norm: &Norm<Weight>,
        rope: &Rope,
        q: &Tensor,
        latent: &Tensor,
        queries: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let half = spec.rotary / 2;
        let mut inverse_frequency = [0f32; MAX_PAIRS];
        let room =
            inverse_frequency.get_mut(..half).filter(|room| room.len() == rope.inv_freq.len());
        let room = room.ok_or_else(|| {
            internal!("rope over {} dimensions, at most {}", spec.rotary, 2 * MAX_PAIRS)
        })?;
        room.copy_from_slice(&rope.inv_freq);

        let reserved = self.reserved()?;
        let device = &reserved.steps.device;
        let width = spec.width();
        self.kernels.store_latent.launch(
            &self.context,
            [rows, 1 + spec.heads.div_ceil(STORE_HEADS)],
            abi::LATENT_THREADS,
            &abi::StoreLatent {
                q: q.at(rows, spec.heads * spec.q_dim(), "store_latent"),
                latent: latent.at(rows, width, "store_latent"),
                weight: norm.weight.vector(spec.rank),
                queries: queries.to(rows, spec.heads * width, "store_latent"),
                position: device.position.address,
                slot_of: device.slot_of.address,
                slots: device.slot_rows(self.slots.layout()),
                pool: reserved.layer(layer),
                heads: spec.heads as u32,
                rank: spec.rank as u32,
                nope: spec.nope as u32,
                page_size: reserved.limits.page_size as u32,
                half: half as u32,
                eps: norm.eps,
                kind: norm.kind.into(),
                magnitude: rope.magnitude,
                inverse_frequency,
            },
        )
    }

    fn attend_latent(
        &mut self,
        layer: usize,
        spec: &LatentSpec,
        queries: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };

        let call = AttendLatent {
            rows,
            spec,
            page_size: reserved.limits.page_size,
            slots: reserved.steps.device.slot_rows(self.slots.layout()),
            device: &reserved.steps.device,
            queries: queries.at(rows, spec.heads * spec.width(), "attend_latent"),
            pool: reserved.layer(layer),
            out: out.to(rows, spec.heads * spec.rank, "attend_latent"),
        };
        reserved.attention.latent()?.run(&self.context, &self.kernels, &call)
    }
}
