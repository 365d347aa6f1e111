//! What a vision tower's kernels read beside activations: bytes of patches, angles, tiles of
//! attention, rows to copy. `vision` sends it; memory is made at load, for the largest images.

use std::sync::Arc;

use super::abi::{self, Corner, RowPair, SpanTile, NO_PATCH};
use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::memory::{Memory, Pinned};
use super::span_attention::tiles;
use crate::device::{PatchOf, RowBlend, Span, TowerLimits, TowerRows};
use crate::error::Result;
use crate::internal;
use crate::plan::PatchRows;

/// f32 that bytes of three colours stand for.
const NUMBERS: usize = 3 * 256;
/// Corners of a row.
const CORNERS: usize = 4;
/// Buffers of the host: one is written while the GPU reads others.
const RING: usize = 3;

/// Memory of the GPU, and buffers of the host on the way to it.
struct Channel {
    memory: Memory,
    ring: Vec<(Pinned, Event)>,
    next: usize,
}

impl Channel {
    fn new(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Channel> {
        let buffer = || Ok((Pinned::new(context, bytes)?, Event::new(context, false)?));
        let ring = (0..RING).map(|_| buffer()).collect::<Result<_>>()?;
        Ok(Channel { memory: Memory::new(context, bytes, what)?, ring, next: 0 })
    }

    /// Send what `write` puts into the front of a buffer, in bytes.
    fn send(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) -> Result<()> {
        if bytes > self.memory.bytes {
            return Err(internal!("{bytes} bytes of a tower's inputs, at most what was reserved"));
        }
        self.next = (self.next + 1) % RING;
        let (pinned, read) = &mut self.ring[self.next];
        read.wait()?;
        write(&mut pinned.bytes_mut()[..bytes]);
        self.memory.write_at(0, pinned, bytes)?;
        read.record()
    }
}

/// The current rows' inputs, and where they lie.
pub struct TowerInputs {
    limits: TowerLimits,
    rows: Channel,
    pairs: Channel,
    blends: Option<Channel>,
    pub numbers: DevicePtr,
    pub patch: DevicePtr,
    pub angles: DevicePtr,
    pub corners: DevicePtr,
    pub bytes: DevicePtr,
    windows: (DevicePtr, usize),
    images: (DevicePtr, usize),
}

impl TowerInputs {
    /// Room for a tower.
    pub fn new(context: &Arc<Context>, limits: &TowerLimits) -> Result<TowerInputs> {
        let TowerLimits { rows, patch_width, angles, places, copies, .. } = *limits;
        // A row has a patch, angles, and at most a tile of each kind.
        let corners = if places { CORNERS * size_of::<Corner>() } else { 0 };
        let of_row = 4 + 4 * angles + corners + 2 * size_of::<SpanTile>() + patch_width;
        let bytes = 4 * NUMBERS + rows * of_row;
        let pairs = copies * size_of::<RowPair>();
        let blends = limits.blends * size_of::<abi::RowBlend>();
        let blends = (blends > 0).then(|| Channel::new(context, blends, "rows made of others"));
        Ok(TowerInputs {
            limits: *limits,
            rows: Channel::new(context, bytes, "patches of images")?,
            pairs: Channel::new(context, pairs, "rows of images")?,
            blends: blends.transpose()?,
            numbers: DevicePtr::NULL,
            patch: DevicePtr::NULL,
            angles: DevicePtr::NULL,
            corners: DevicePtr::NULL,
            bytes: DevicePtr::NULL,
            windows: (DevicePtr::NULL, 0),
            images: (DevicePtr::NULL, 0),
        })
    }

    /// Rows that run together at most.
    pub fn most_rows(&self) -> usize {
        self.limits.rows
    }

    /// Tiles of attention: where they lie and how many there are.
    pub fn tiles(&self, span: Span) -> (DevicePtr, usize) {
        match span {
            Span::Window => self.windows,
            Span::Image => self.images,
        }
    }

    /// Send what the ops over these rows read.
    ///
    /// # Errors
    /// Internal: more than was reserved, or rows that do not fit each other.
    pub fn send(&mut self, rows: &TowerRows) -> Result<()> {
        let TowerLimits { rows: most, patch_width, angles, places, .. } = self.limits;
        let count = rows.patches.len();
        let fits = count <= most
            && rows.angles.len() == count * angles
            && rows.corners.len() == if places { count } else { 0 }
            && rows.images.iter().all(|image| image.width == patch_width)
            && [Span::Window, Span::Image].iter().all(|s| rows.ends(*s).last() == Some(&count));
        let Some(numbers) = rows.images.first().map(|image| image.numbers.clone()) else {
            return Err(internal!("a tower without images"));
        };
        if !fits {
            return Err(internal!("{count} rows of a tower do not fit what was reserved"));
        }

        let windows = tiles(rows, Span::Window);
        let images = tiles(rows, Span::Image);
        let patch = patch_indices(rows);
        let corners: Vec<[u32; 2]> = rows.corners.iter().flatten().map(corner).collect();
        let parts: [&[u8]; 6] = [
            bytemuck::cast_slice(numbers.as_flattened()),
            bytemuck::cast_slice(&windows),
            bytemuck::cast_slice(&images),
            bytemuck::cast_slice(&patch),
            bytemuck::cast_slice(&rows.angles),
            bytemuck::cast_slice(&corners),
        ];
        let pixels = rows.images.iter().map(|image| &*image.bytes);
        let parts = || parts.iter().copied().chain(pixels.clone());
        self.rows.send(parts().map(<[u8]>::len).sum(), |to| {
            let mut at = 0;
            for part in parts() {
                to[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        })?;

        let mut at = self.rows.memory.address;
        let mut behind = |bytes: usize| {
            let here = at;
            at = at.offset_bytes(bytes);
            here
        };
        self.numbers = behind(4 * NUMBERS);
        self.windows = (behind(size_of_val(&*windows)), windows.len());
        self.images = (behind(size_of_val(&*images)), images.len());
        self.patch = behind(size_of_val(&*patch));
        self.angles = behind(size_of_val(&*rows.angles));
        self.corners = behind(size_of_val(&*corners));
        self.bytes = behind(0);
        Ok(())
    }

    /// Send pairs of rows: where they lie.
    pub fn send_pairs(
        &mut self,
        pairs: impl ExactSizeIterator<Item = RowPair>,
    ) -> Result<DevicePtr> {
        let bytes = pairs.len() * size_of::<RowPair>();
        self.pairs.send(bytes, |to| {
            for (to, pair) in to.chunks_exact_mut(size_of::<RowPair>()).zip(pairs) {
                to.copy_from_slice(bytemuck::bytes_of(&pair));
            }
        })?;
        Ok(self.pairs.memory.address)
    }

    /// Send what rows are made of: where it lies.
    pub fn send_blends(&mut self, blends: &[RowBlend]) -> Result<DevicePtr> {
        let Some(channel) = &mut self.blends else {
            return Err(internal!("rows made of others, and none were reserved"));
        };
        // The words of an `abi::RowBlend`.
        let words = |blend: &RowBlend| {
            let [a, b, c, d] = blend.of.map(|of| corner(&of));
            [a, b, c, d, [blend.to as u32, 0]]
        };
        let size = size_of::<abi::RowBlend>();
        channel.send(size * blends.len(), |bytes| {
            for (bytes, blend) in bytes.chunks_exact_mut(size).zip(blends) {
                bytes.copy_from_slice(bytemuck::bytes_of(&words(blend)));
            }
        })?;
        Ok(channel.memory.address)
    }
}

/// The words of a [`Corner`].
fn corner(&(row, share): &(usize, f32)) -> [u32; 2] {
    [row as u32, share.to_bits()]
}

/// Of each row its patch, where those of all images follow each other; or that it is none.
fn patch_indices(rows: &TowerRows) -> Vec<u32> {
    let firsts = rows.images.iter().scan(0, |next, image: &Arc<PatchRows>| {
        let first = *next;
        *next += image.count();
        Some(first)
    });
    let firsts: Vec<usize> = firsts.collect();
    let of_row = |of: &PatchOf| match of.patch < rows.images[of.image].count() {
        true => (firsts[of.image] + of.patch) as u32,
        false => NO_PATCH,
    };
    rows.patches.iter().map(of_row).collect()
}
