//! Weights on the GPU, and how they get there: through two pinned buffers that take turns, so that
//! the host fills one, by several threads, while the other is copied. Values that already have the
//! device's type and orientation are copied to their place; others go through a staging buffer and
//! a kernel. `Cuda::upload` calls it; it knows no op.

use std::sync::Arc;

use rayon::prelude::*;

use super::abi;
use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::launch::Kernel;
use super::low_rank::{AdapterMatrices, TableAdapterMatrices};
use super::memory::{Memory, Pinned};
use super::module::Kernels;
use crate::device::cpu::workers::Workers;
use crate::device::{Bytes, DType, HostTensor, Source, WeightDesc, WeightKind};
use crate::error::Result;
use crate::{internal, invalid};

/// Bytes of one pinned buffer.
const CHUNK_BYTES: usize = 16 << 20;
/// What one thread reads into it at a time.
const SLICE_BYTES: usize = 1 << 20;
/// Threads that read; more gain nothing, one buffer has 16 slices.
const READERS_MAX: usize = 16;
const THREADS: u32 = 256;

/// A weight, row-major `[outputs, inputs]`; vectors are f32.
pub struct Weight {
    memory: Memory,
    /// In the checkpoint, for messages.
    pub name: String,
    /// How its rows are read.
    pub kind: WeightKind,
    /// Rows: outputs of a linear (gates and ups, or all experts together), rows of a table,
    /// elements of a vector.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// Adapters, where there is room for them.
    pub(super) adapters: Option<AdapterMatrices>,
    pub(super) table_adapters: Option<TableAdapterMatrices>,
}

impl Weight {
    /// Where a matrix or table lies.
    ///
    /// # Panics
    /// If it was loaded as a vector: a mistake in the decoder.
    pub(super) fn matrix(&self) -> DevicePtr {
        assert!(self.kind != WeightKind::Vector, "{} is a vector", self.name);
        self.memory.address
    }

    /// Where a vector of f32 lies.
    ///
    /// # Panics
    /// If it was not loaded as a vector of this length: a mistake in the decoder.
    pub(super) fn vector(&self, length: usize) -> DevicePtr {
        assert!(self.kind == WeightKind::Vector, "{} is no vector", self.name);
        assert!(self.outputs == length, "{} has {} of {length}", self.name, self.outputs);
        self.memory.address
    }
}

impl From<DType> for abi::ElementType {
    fn from(dtype: DType) -> abi::ElementType {
        match dtype {
            DType::F32 => abi::ElementType::F32,
            DType::F16 => abi::ElementType::F16,
            DType::BF16 => abi::ElementType::Bf16,
        }
    }
}

/// A pinned buffer with its place on the device.
struct StagingBuffers {
    pinned: Pinned,
    on_device: Memory,
    /// The GPU has read both.
    free: Event,
}

pub(super) struct Uploader {
    context: Arc<Context>,
    ring: Vec<StagingBuffers>,
    next: usize,
    /// They read. Its own: a file that hangs must not hold up another model's load. None with no
    /// ring.
    readers: Option<Workers>,
}

impl Uploader {
    pub fn new(context: &Arc<Context>) -> Uploader {
        Uploader { context: context.clone(), ring: Vec::new(), next: 0, readers: None }
    }

    /// Give the buffers back. A later upload makes new ones.
    pub fn release(&mut self) {
        self.ring.clear();
        self.readers = None;
    }

    /// # Errors
    /// Parts that do not add up, a type that the device was not opened for, no room.
    pub fn upload(
        &mut self,
        kernels: &Kernels,
        act: DType,
        desc: &WeightDesc<'_>,
    ) -> Result<Weight> {
        let vector = desc.kind == WeightKind::Vector;
        let dtype = if vector { DType::F32 } else { act };
        if !vector && desc.dtype != act {
            return Err(internal!(
                "{}: {:?} on a device that computes in {act:?}",
                desc.name,
                desc.dtype
            ));
        }

        self.context.bind()?;
        let count = desc.outputs * desc.inputs;
        let memory = Memory::new(&self.context, count * dtype.bytes(), desc.name)?;
        let target = Target { address: memory.address, dtype, vector, kernels };
        match &desc.source {
            Source::Parts(parts) => self.parts(desc, parts, &memory, &target)?,
            Source::Dummy { seed, scale } => {
                let kernel = target.pick(&kernels.dummy_matrix, &kernels.dummy_vector);
                let parameters = abi::DummyWeight {
                    to: memory.address,
                    seed: *seed,
                    count: count as u64,
                    scale: *scale,
                };
                kernel.launch(&self.context, [blocks(count), 1], THREADS, &parameters)?;
            }
            Source::Codes { .. } | Source::Quantise { .. } => {
                return Err(internal!("{}: codes are not held here yet", desc.name));
            }
            Source::Constant(value) => {
                let kernel = target.pick(&kernels.constant_matrix, &kernels.constant_vector);
                let parameters =
                    abi::ConstantWeight { to: memory.address, count: count as u64, value: *value };
                kernel.launch(&self.context, [blocks(count), 1], THREADS, &parameters)?;
            }
        }

        let name = desc.name.to_string();
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let (kind, adapters, table_adapters) = (desc.kind, None, None);
        Ok(Weight { memory, name, kind, outputs, inputs, adapters, table_adapters })
    }

    fn parts(
        &mut self,
        desc: &WeightDesc<'_>,
        parts: &[HostTensor<'_>],
        memory: &Memory,
        target: &Target<'_>,
    ) -> Result<()> {
        let mut first = 0;
        for part in parts {
            let outputs = desc.part_outputs(part)?;
            if first + outputs > desc.outputs {
                break;
            }
            if desc.transposed {
                self.turned(part, first, desc.inputs, target)?;
            } else {
                self.straight(part, first * desc.inputs, memory, target)?;
            }
            first += outputs;
        }
        if first != desc.outputs {
            return Err(invalid!("{}: parts have not {} outputs in all.", desc.name, desc.outputs));
        }
        Ok(())
    }

    /// A part as it lies, from element `offset` of the target on.
    fn straight(
        &mut self,
        part: &HostTensor<'_>,
        offset: usize,
        memory: &Memory,
        target: &Target<'_>,
    ) -> Result<()> {
        let size = part.dtype.bytes();
        let mut at = offset;
        for chunk in chunks(&part.bytes, CHUNK_BYTES) {
            let place = at * target.dtype.bytes();

            let staging = self.fill(&chunk)?;
            let count = chunk.len() / size;
            if part.dtype == target.dtype {
                memory.write_at(place, &staging.pinned, chunk.len())?;
            } else {
                staging.on_device.write_at(0, &staging.pinned, chunk.len())?;
                let kernel =
                    target.pick(&target.kernels.convert_matrix, &target.kernels.convert_vector);
                kernel.launch(
                    &self.context,
                    [blocks(count), 1],
                    THREADS,
                    &abi::ConvertWeight {
                        from: self.ring[self.next].on_device.address,
                        to: target.address.offset_bytes(place),
                        count: count as u64,
                        kind: part.dtype.into(),
                    },
                )?;
            }
            self.turn()?;
            at += count;
        }
        Ok(())
    }

    /// A part stored `[inputs, outputs]`, to outputs `first..` of the target.
    fn turned(
        &mut self,
        part: &HostTensor<'_>,
        first: usize,
        inputs: usize,
        target: &Target<'_>,
    ) -> Result<()> {
        let row_bytes = part.cols * part.dtype.bytes();
        if row_bytes > CHUNK_BYTES {
            return Err(internal!("a row of {row_bytes} bytes is beyond the staging buffer"));
        }
        let rows_per_chunk = CHUNK_BYTES / row_bytes.max(1);
        let to = target.address.offset_bytes(first * inputs * target.dtype.bytes());
        for (n, chunk) in chunks(&part.bytes, rows_per_chunk * row_bytes).enumerate() {
            let staging = self.fill(&chunk)?;
            staging.on_device.write_at(0, &staging.pinned, chunk.len())?;

            let count = chunk.len() / part.dtype.bytes();
            let kernel = target.pick(&target.kernels.turn_matrix, &target.kernels.turn_vector);
            kernel.launch(
                &self.context,
                [blocks(count), 1],
                THREADS,
                &abi::TurnWeight {
                    from: self.ring[self.next].on_device.address,
                    to,
                    count: count as u64,
                    outputs: part.cols as u64,
                    first_input: (n * rows_per_chunk) as u64,
                    all_inputs: inputs as u64,
                    kind: part.dtype.into(),
                },
            )?;
            self.turn()?;
        }
        Ok(())
    }

    /// The next staging, free and filled with `bytes`. After an error the staging is free as
    /// before: nothing that reads it was enqueued.
    fn fill(&mut self, bytes: &Bytes<'_>) -> Result<&StagingBuffers> {
        if self.ring.is_empty() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.readers = Some(Workers::new(cores.min(READERS_MAX), "upload")?);
            for _ in 0..2 {
                self.ring.push(StagingBuffers {
                    pinned: Pinned::new(&self.context, CHUNK_BYTES)?,
                    on_device: Memory::new(&self.context, CHUNK_BYTES, "staging weights")?,
                    free: Event::new(&self.context, false)?,
                });
            }
        }
        let staging = &mut self.ring[self.next];
        staging.free.wait()?;
        let to = &mut staging.pinned.bytes_mut()[..bytes.len()];
        let slices = to.par_chunks_mut(SLICE_BYTES).enumerate();
        let read = || slices.try_for_each(|(n, to)| bytes.read(n * SLICE_BYTES, to));
        match &self.readers {
            Some(readers) => readers.install(read)?,
            None => read()?,
        }
        Ok(&self.ring[self.next])
    }

    /// Everything that reads the current staging is enqueued: go on with the other.
    fn turn(&mut self) -> Result<()> {
        self.ring[self.next].free.record()?;
        self.next = (self.next + 1) % self.ring.len();
        Ok(())
    }
}

/// Where an upload goes.
struct Target<'a> {
    address: DevicePtr,
    dtype: DType,
    vector: bool,
    kernels: &'a Kernels,
}

impl Target<'_> {
    fn pick<'k, P>(&self, matrix: &'k Kernel<P>, vector: &'k Kernel<P>) -> &'k Kernel<P> {
        if self.vector {
            vector
        } else {
            matrix
        }
    }
}

/// What follows one another in pieces of `length` bytes; the last may be shorter.
fn chunks<'a>(bytes: &Bytes<'a>, length: usize) -> impl Iterator<Item = Bytes<'a>> {
    let (bytes, total) = (bytes.clone(), bytes.len());
    let starts = (0..total).step_by(length.max(1));
    starts.map(move |at| bytes.slice(at..total.min(at + length)))
}

/// Blocks for a loop over `count` elements.
fn blocks(count: usize) -> usize {
    count.div_ceil(THREADS as usize).min(4096)
}
