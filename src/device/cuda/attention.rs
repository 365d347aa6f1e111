//! Attention on the GPU: norms of heads, rotation and the store to pages, attention over pages or
//! over the sequences of a step. Which kernel runs over pages `paged_attention` decides.

use super::abi;
use super::dense::norm_threads;
use super::device_ptr::DevicePtr;
use super::paged_attention::{head_fits, AttendPages};
use super::weights::Weight;
use super::{Cuda, Tensor, ROW_THREADS};
use crate::device::{AttentionOps, AttnSpec, DType, DeviceTypes, Join, Norm, Rope};
use crate::error::Result;
use crate::internal;

/// Pairs that rope_store takes at most (its parameter space and shared memory).
const MAX_ROPE_PAIRS: usize = abi::ROPE_MAX_PAIRS as usize;
/// Of the most threads, that a multiprocessor holds: by its registers.
const ROW_BLOCKS_PER_MULTIPROCESSOR: u32 = 2;
const WARP: u32 = 32;

impl AttentionOps for Cuda {
    fn norm_heads(
        &mut self,
        spec: &AttnSpec,
        q: &Norm<Weight>,
        k: &Norm<Weight>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let (q_width, k_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let stride = q_width + 2 * k_width;
        let x = qkv.to(rows, stride, "norm_heads");
        let squares = match q.weight.join {
            Join::Sum => {
                let widths = [q_width, k_width];
                Some(self.squares_of_ranks(&q.weight.name, rows, x, stride, widths)?)
            }
            Join::None | Join::Rows { .. } => None,
        };
        let ranks = self.rank().of;

        for (part, (norm, first, total)) in
            [(q, 0, q_width), (k, q_width, k_width)].into_iter().enumerate()
        {
            let weights = norm.weight.outputs;
            let width = spec.norm_part(norm.kind, weights);
            assert!(width > 0 && total % width == 0, "norm of {width} over heads of {total}");

            self.kernels.norm_parts.launch(
                &self.context,
                [rows, total / width],
                norm_threads(width),
                &abi::NormParts {
                    x,
                    weight: norm.weight.vector(weights),
                    squares: squares.map_or(DevicePtr::NULL, |sums| sums.offset_words(part)),
                    stride: stride as u32,
                    first: first as u32,
                    width: width as u32,
                    eps: norm.eps,
                    kind: norm.kind.into(),
                    count: (ranks * width) as f32,
                    weight_step: if weights > width { width as u32 } else { 0 },
                    unused: 0,
                },
            )?;
        }
        Ok(())
    }

    fn values_of_keys(&mut self, spec: &AttnSpec, qk: &Tensor, qkv: &mut Tensor) -> Result<()> {
        let (q, k) = (spec.q_width(), spec.kv_heads * spec.head_dim);
        let rows = self.rows();
        let parameters = abi::ValuesOfKeys {
            qk: qk.at(rows, q + k, "values_of_keys"),
            qkv: qkv.to(rows, q + 2 * k, "values_of_keys"),
            q_width: q as u32,
            k_width: k as u32,
        };
        let blocks = [rows, (q + k).div_ceil(abi::LAYER_THREADS as usize)];
        let kernel = &self.kernels.values_of_keys;
        kernel.launch(&self.context, blocks, abi::LAYER_THREADS, &parameters)
    }

    fn rope_store(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
    ) -> Result<()> {
        let reserved = self.reserved()?;
        let plain = reserved.limits.kv.dtype.plain().is_some();
        let parameters =
            abi::RopeStore { pool: reserved.layer(layer), ..self.rotation(spec, rope, qkv)? };
        let blocks = self.rope_blocks(spec);
        if self.rotates_on_the_way(layer, spec, parameters.half as usize)? {
            self.defer_rope(blocks, parameters);
            return Ok(());
        }
        let kernels = &self.kernels;
        if let Some(threads) = self.threads_of_whole_rows(&parameters) {
            let kernel =
                if plain { &kernels.rope_store_rows } else { &kernels.rope_store_rows_fp8 };
            return kernel.launch(&self.context, [self.rows(), 1], threads, &parameters);
        }
        let kernel = if plain { &kernels.rope_store } else { &kernels.rope_store_fp8 };
        kernel.launch(&self.context, blocks, ROW_THREADS, &parameters)
    }

    fn rotate(&mut self, spec: &AttnSpec, rope: &Rope, qkv: &mut Tensor) -> Result<()> {
        let parameters = self.rotation(spec, Some(rope), qkv)?;
        let blocks = self.rope_blocks(spec);
        self.kernels.rotate.launch(&self.context, blocks, ROW_THREADS, &parameters)
    }

    fn attend(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        sinks: Option<&Weight>,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let sinks = sinks.map_or(DevicePtr::NULL, |sinks| sinks.vector(spec.heads));
        self.attend_pages(layer, spec, [sinks, DevicePtr::NULL], qkv, out)
    }

    fn attend_alibi(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        slopes: &Weight,
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let slopes = slopes.vector(spec.heads);
        self.attend_pages(layer, spec, [DevicePtr::NULL, slopes], qkv, out)
    }

    fn gate_output(&mut self, gate: &Tensor, out: &mut Tensor) -> Result<()> {
        let (rows, width) = (self.rows(), out.width);
        let parameters = abi::GateRows {
            x: out.to(rows, width, "gate_output"),
            z: gate.at(rows, width, "gate_output"),
            width: width as u32,
            unused: 0,
        };
        let blocks = [rows, width.div_ceil(ROW_THREADS as usize)];
        self.kernels.gate_rows.launch(&self.context, blocks, ROW_THREADS, &parameters)
    }

    fn attend_all(&mut self, spec: &AttnSpec, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        self.slots.batch().whole_sequences("attend_all")?;
        head_fits(spec, abi::ATTEND_MAX_HEAD_DIM)?;
        let (rows, width) = (self.rows(), (spec.heads + 2 * spec.kv_heads) * spec.head_dim);
        let device = &self.reserved()?.steps.device;
        self.kernels.attend_all.launch(
            &self.context,
            [rows, spec.heads],
            abi::ATTEND_THREADS,
            &abi::AttendAll {
                qkv: qkv.at(rows, width, "attend_all"),
                position: device.position.address,
                slot_of: device.slot_of.address,
                slots: device.slot_rows(self.slots.layout()),
                out: out.to(rows, spec.heads * spec.head_dim, "attend_all"),
                heads: spec.heads as u32,
                kv_heads: spec.kv_heads as u32,
                dim: spec.head_dim as u32,
                window: spec.window.map_or(0, |window| window as u32),
                scale: spec.scale,
                softcap: spec.softcap.unwrap_or(0.0),
            },
        )
    }
}

impl Cuda {
    /// Attention over pages; sinks and slopes of the heads, or null.
    fn attend_pages(
        &mut self,
        layer: usize,
        spec: &AttnSpec,
        [sinks, slopes]: [DevicePtr; 2],
        qkv: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        let qkv = qkv.at(rows, spec.row_width(), "attend");
        // Slopes are for the plain kernel, which rotates nothing.
        let rope = match slopes.is_null() {
            true => self.take_rope(layer, spec, qkv, self.reserved()?.layer(layer))?,
            false => None,
        };
        let Some(reserved) = &mut self.reserved else {
            return Err(internal!("a step before reserve"));
        };

        let device = &reserved.steps.device;
        let both_ways = self.slots.sees_both_ways(spec.window.is_some());
        let call = AttendPages {
            rows,
            spec,
            sinks,
            slopes,
            seen: if both_ways { device.places.address } else { DevicePtr::NULL },
            slots: reserved.steps.device.slot_rows(self.slots.layout()),
            device,
            rope: rope.as_deref(),
            qkv,
            pool: reserved.layer(layer),
            out: out.to(rows, spec.heads * spec.head_dim, "attend"),
        };
        reserved.attention.heads(layer)?.run(&self.context, &self.kernels, &call)
    }

    /// Blocks of a kernel over the heads of each row.
    fn rope_blocks(&self, spec: &AttnSpec) -> [usize; 2] {
        let heads = spec.heads + 2 * spec.own_kv_heads();
        [self.rows(), heads.div_ceil(abi::ROPE_HEADS as usize)]
    }

    /// Threads of a block that rotates a row of this step alone; None: blocks share a row.
    fn threads_of_whole_rows(&self, rope: &abi::RopeStore) -> Option<u32> {
        let whole = rope.dim == 2 * rope.half && rope.half.is_multiple_of(8);
        if self.dtype == DType::F32 || !whole {
            return None;
        }
        let heads = rope.heads + 2 * rope.kv_heads;
        row_threads(self.rows(), heads, rope.half / 8, self.context.multiprocessors)
    }

    /// How q and k are rotated, and where k and v would go, but for the layer.
    fn rotation(
        &self,
        spec: &AttnSpec,
        rope: Option<&Rope>,
        qkv: &mut Tensor,
    ) -> Result<abi::RopeStore> {
        let mut inverse_frequency = [0f32; MAX_ROPE_PAIRS];
        let (mut half, mut magnitude) = (0, 1.0);
        if let Some(rope) = rope {
            half = rope.rotary_dim / 2;
            magnitude = rope.magnitude;
            let room =
                inverse_frequency.get_mut(..half).filter(|room| room.len() == rope.inv_freq.len());
            let room = room.ok_or_else(|| {
                internal!(
                    "rope over {} dimensions, at most {}",
                    rope.rotary_dim,
                    2 * MAX_ROPE_PAIRS
                )
            })?;
            room.copy_from_slice(&rope.inv_freq);
        }

        let axes = rope.and_then(|rope| rope.axes.as_deref());
        let growth = rope.and_then(|rope| rope.growth);
        let reserved = self.reserved()?;
        let device = &reserved.steps.device;
        Ok(abi::RopeStore {
            qkv: qkv.to(self.rows(), spec.row_width(), "rope_store"),
            position: device.position.address,
            places: axes.map_or(DevicePtr::NULL, |_| device.places.address),
            slot_of: device.slot_of.address,
            slots: device.slot_rows(self.slots.layout()),
            pool: DevicePtr::NULL,
            kv: reserved.limits.kv.dtype.into(),
            k_scale: spec.kv_scales.k,
            v_scale: spec.kv_scales.v,
            heads: spec.heads as u32,
            kv_heads: spec.own_kv_heads() as u32,
            dim: spec.head_dim as u32,
            page_size: reserved.limits.page_size as u32,
            half: half as u32,
            magnitude,
            growth: growth.map_or(0.0, |growth| growth.beta),
            growth_length: growth.map_or(1, |growth| growth.length.max(1)),
            growth_ahead: growth.map_or(0, |growth| growth.ahead),
            inverse_frequency,
            axes: packed_axes(axes.unwrap_or_default()),
        })
    }
}

/// Threads of a block of rope_store_rows: whole warps, and as many for each eight of a head's
/// pairs. Each has one head's, or several where not all rows would be on the card at once. None: no
/// number of threads is both.
fn row_threads(rows: usize, heads: u32, eights: u32, multiprocessors: u32) -> Option<u32> {
    let most = abi::ROPE_ROW_THREADS;
    let step = (1..=most / WARP).map(|warps| warps * WARP).find(|n| n.is_multiple_of(eights))?;
    let pairs = heads * eights;
    let held = (multiprocessors * ROW_BLOCKS_PER_MULTIPROCESSOR * most) as usize;
    let units = (rows * pairs as usize).div_ceil(held).clamp(1, abi::ROPE_UNITS as usize);
    Some(pairs.div_ceil(units as u32).next_multiple_of(step).min(most / step * step))
}

/// Which of a token's places each pair goes by, two bits a pair.
fn packed_axes(axes: &[u8]) -> [u32; MAX_ROPE_PAIRS / 16] {
    let mut packed = [0; MAX_ROPE_PAIRS / 16];
    for (i, &axis) in axes.iter().enumerate().take(MAX_ROPE_PAIRS) {
        packed[i / 16] |= u32::from(axis.min(2)) << (i % 16 * 2);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads divide into warps and into a head's eights of pairs, few rows have one for each of
    /// these, and many the fewest.
    #[test]
    fn threads_of_rows() {
        let of = |rows, heads, half: u32| row_threads(rows, heads, half / 8, 132);
        // Llama 8B's heads, Gemma 2B's, Qwen 0.5B's, of 96 and of 80, more than a block's threads.
        assert_eq!(
            [16, 352, 353, 4096].map(|rows| of(rows, 48, 64)),
            [384, 384, 192, 128].map(Some)
        );
        assert_eq!([16, 4096].map(|rows| of(rows, 16, 128)), [256, 96].map(Some));
        assert_eq!([16, 4096].map(|rows| of(rows, 18, 32)), [96, 32].map(Some));
        assert_eq!([16, 4096].map(|rows| of(rows, 20, 48)), [192, 96].map(Some));
        assert_eq!([16, 4096].map(|rows| of(rows, 96, 40)), [480, 160].map(Some));
        assert_eq!(of(16, 80, 64), Some(512));
        assert_eq!(of(16, 8, 31 * 8), None);
    }
}
