//! Weights on the GPU, and how they get there: through two pinned buffers that take turns, so that
//! the host fills one, by several threads, while the other is copied. Values that already have the
//! device's type and orientation are copied to their place; others go through a staging buffer and
//! a kernel. `Cuda::upload` calls it; it knows no op.

use std::sync::Arc;

use super::abi;
use super::coded::{self, Coded};
use super::coded_kernels::takes_experts;
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::launch::Kernel;
use super::low_rank::{AdapterMatrices, TableAdapterMatrices};
use super::memory::Memory;
use super::module::Kernels;
use super::staging::{blocks, chunks, Staging, CHUNK_BYTES, THREADS};
use crate::device::{
    unpacked, DType, HostTensor, InputQuant, Join, ScaleOver, Source, WeightDesc, WeightKind,
};
use crate::error::Result;
use crate::{internal, invalid};

/// How a weight lies on the GPU.
pub(super) enum Held {
    /// Row-major `[outputs, inputs]` of the device's type; vectors are f32.
    Plain(Memory),
    /// As codes.
    Coded(Coded),
}

/// A weight.
pub struct Weight {
    pub(super) held: Held,
    /// In the checkpoint, for messages.
    pub name: String,
    /// How its rows are read.
    pub kind: WeightKind,
    /// Rows: outputs of a linear (gates and ups, or all experts together), rows of a table,
    /// elements of a vector.
    pub outputs: usize,
    /// Elements of a row.
    pub inputs: usize,
    /// What ops do with the ranks' shares.
    pub(super) join: Join,
    /// How its products round their inputs, where it is quantised and not held as codes.
    pub(super) rounding: Option<InputQuant>,
    /// Adapters, where there is room for them.
    pub(super) adapters: Option<AdapterMatrices>,
    pub(super) table_adapters: Option<TableAdapterMatrices>,
}

impl Weight {
    /// Where a matrix or table lies.
    ///
    /// # Panics
    /// If it was loaded as a vector or is held as codes: a mistake in the decoder.
    pub(super) fn matrix(&self) -> DevicePtr {
        assert!(self.kind != WeightKind::Vector, "{} is a vector", self.name);
        match &self.held {
            Held::Plain(memory) => memory.address,
            Held::Coded(_) => panic!("{} is held as codes", self.name),
        }
    }

    /// Where a vector of f32 lies.
    ///
    /// # Panics
    /// If it was not loaded as a vector of this length: a mistake in the decoder.
    pub(super) fn vector(&self, length: usize) -> DevicePtr {
        assert!(self.kind == WeightKind::Vector, "{} is no vector", self.name);
        assert!(self.outputs == length, "{} has {} of {length}", self.name, self.outputs);
        match &self.held {
            Held::Plain(memory) => memory.address,
            Held::Coded(_) => panic!("{} is held as codes", self.name),
        }
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

pub(super) struct Uploader {
    context: Arc<Context>,
    staging: Staging,
    /// Plain weights that become codes.
    plain: Option<Memory>,
}

impl Uploader {
    pub fn new(context: &Arc<Context>) -> Uploader {
        Uploader { context: context.clone(), staging: Staging::new(context), plain: None }
    }

    /// Give the buffers back. A later upload makes new ones.
    pub fn release(&mut self) {
        self.staging.release();
        self.plain = None;
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
        let coded = |form| coded::layout(form, desc.outputs, desc.inputs, act).is_some();
        let expert_kernels = match desc.kind {
            WeightKind::Experts { .. } => takes_experts(act, desc),
            _ => true,
        };
        let held = match &desc.quant {
            Some(form) if coded(form) && expert_kernels => {
                Held::Coded(self.coded(kernels, act, desc)?)
            }
            Some(form) if coded(form) && matches!(desc.source, Source::Quantise { .. }) => {
                // Experts without a kernel: what the codes mean.
                let coded = self.coded(kernels, act, desc)?;
                Held::Plain(coded.values(&self.context, kernels, act, desc.name)?)
            }
            Some(_) => Held::Plain(self.unpacked(kernels, dtype, desc)?),
            None => Held::Plain(self.plain(kernels, dtype, desc)?),
        };
        let name = desc.name.to_string();
        let (outputs, inputs) = (desc.outputs, desc.inputs);
        let rounding = match &held {
            Held::Plain(_) => desc.quant.and_then(|form| form.inputs),
            Held::Coded(_) => None,
        };
        let (kind, adapters, table_adapters) = (desc.kind, None, None);
        let join = desc.join;
        Ok(Weight { held, name, kind, outputs, inputs, join, rounding, adapters, table_adapters })
    }

    /// A weight in memory of its own.
    fn plain(&mut self, kernels: &Kernels, dtype: DType, desc: &WeightDesc<'_>) -> Result<Memory> {
        let count = desc.outputs * desc.inputs;
        let memory = Memory::new(&self.context, count * dtype.bytes(), desc.name)?;
        self.fill(kernels, dtype, desc, &memory)?;
        Ok(memory)
    }

    /// The values of a weight, to `memory`.
    fn fill(
        &mut self,
        kernels: &Kernels,
        dtype: DType,
        desc: &WeightDesc<'_>,
        memory: &Memory,
    ) -> Result<()> {
        let count = desc.outputs * desc.inputs;
        let vector = desc.kind == WeightKind::Vector;
        let target = Target { address: memory.address, dtype, vector, kernels };

        match &desc.source {
            Source::Parts(parts) | Source::Quantise { parts, .. } => {
                self.parts(desc, parts, memory, &target)
            }
            Source::Dummy { seed, scale } => {
                let kernel = target.pick(&kernels.dummy_matrix, &kernels.dummy_vector);
                let parameters = abi::DummyWeight {
                    to: memory.address,
                    seed: *seed,
                    count: count as u64,
                    scale: *scale,
                };
                kernel.launch(&self.context, [blocks(count), 1], THREADS, &parameters)
            }
            Source::Constant(value) => {
                let kernel = target.pick(&kernels.constant_matrix, &kernels.constant_vector);
                let parameters =
                    abi::ConstantWeight { to: memory.address, count: count as u64, value: *value };
                kernel.launch(&self.context, [blocks(count), 1], THREADS, &parameters)
            }
            Source::Codes { .. } => Err(internal!("{}: codes as a plain weight", desc.name)),
        }
    }

    /// A weight that is held as codes.
    fn coded(&mut self, kernels: &Kernels, act: DType, desc: &WeightDesc<'_>) -> Result<Coded> {
        match &desc.source {
            Source::Codes { parts, order } => {
                Coded::upload(&mut self.staging, kernels, act, desc, parts, order)
            }
            Source::Dummy { seed, scale } => {
                Coded::dummy(&self.context, kernels, act, desc, *seed, *scale)
            }
            Source::Quantise { over, .. } => self.encoded(kernels, act, desc, *over),
            Source::Parts(_) | Source::Constant(_) => {
                Err(internal!("{}: a plain weight as codes", desc.name))
            }
        }
    }

    /// Plain parts that become codes on the GPU.
    fn encoded(
        &mut self,
        kernels: &Kernels,
        act: DType,
        desc: &WeightDesc<'_>,
        over: ScaleOver,
    ) -> Result<Coded> {
        let bytes = desc.outputs * desc.inputs * act.bytes();
        let plain = match self.plain.take().filter(|plain| plain.bytes >= bytes) {
            Some(plain) => plain,
            None => Memory::new(&self.context, bytes, "weights before they are quantised")?,
        };
        self.fill(kernels, act, desc, &plain)?;
        let coded = Coded::encode(&self.context, kernels, act, desc, plain.address, over)?;
        self.plain = Some(plain);
        Ok(coded)
    }

    /// A quantised weight for which there are no kernels, as a plain one.
    fn unpacked(
        &mut self,
        kernels: &Kernels,
        dtype: DType,
        desc: &WeightDesc<'_>,
    ) -> Result<Memory> {
        let Some((form, Source::Codes { parts, order })) =
            desc.quant.as_ref().zip(Some(&desc.source))
        else {
            return self.plain(kernels, dtype, desc);
        };
        desc.judge_codes(form, parts, order)?;
        let count = desc.outputs * desc.inputs;
        tracing::info!(
            "{}: held as {dtype:?}, {} MiB instead of {}: no kernel multiplies by these codes",
            desc.name,
            (count * dtype.bytes()) >> 20,
            (count * form.codes.bits()) >> 23
        );

        let memory = Memory::new(&self.context, count * dtype.bytes(), desc.name)?;
        let target = Target { address: memory.address, dtype, vector: false, kernels };
        let mut first = 0;
        for part in parts {
            let values = unpacked(form, part, order)?;
            self.straight(&values, first * desc.inputs, &memory, &target)?;
            first += part.rows;
        }
        Ok(memory)
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

            let staging = self.staging.fill(&chunk)?;
            let arrived = staging.on_device.address;
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
                        from: arrived,
                        to: target.address.offset_bytes(place),
                        count: count as u64,
                        kind: part.dtype.into(),
                    },
                )?;
            }
            self.staging.turn()?;
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
            let staging = self.staging.fill(&chunk)?;
            let arrived = staging.on_device.address;
            staging.on_device.write_at(0, &staging.pinned, chunk.len())?;

            let count = chunk.len() / part.dtype.bytes();
            let kernel = target.pick(&target.kernels.turn_matrix, &target.kernels.turn_vector);
            kernel.launch(
                &self.context,
                [blocks(count), 1],
                THREADS,
                &abi::TurnWeight {
                    from: arrived,
                    to,
                    count: count as u64,
                    outputs: part.cols as u64,
                    first_input: (n * rows_per_chunk) as u64,
                    all_inputs: inputs as u64,
                    kind: part.dtype.into(),
                },
            )?;
            self.staging.turn()?;
        }
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
