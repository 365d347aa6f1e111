//! The contract of a device. [`Device`] is a sum of chapters, a small trait and a file each, and
//! every device has a file of the same name for each of them. `model::decoder` is written against
//! it once and runs on every device: `cpu` defines the numbers, `cuda` is fast, `trace` computes
//! nothing and counts. `engine` starts and ends steps. A device imports no other module but the
//! leaves; of a model it sees only shapes.
//!
//! | chapter | trait | holds |
//! |---|---|---|
//! | [`load`] | [`LoadOps`] | everything that is allocated: weights, buffers, pages |
//! | [`step`] | [`StepOps`] | the frame of a step: begin, sample, collect |
//! | [`dense`] | [`DenseOps`] | lookup, norms, linears, the head |
//! | [`attention`] | [`AttentionOps`] | heads, rotation, pages, attention |
//! | [`latent`] | [`LatentOps`] | attention over latent vectors |
//! | [`state`] | [`StateOps`] | layers that keep a state of fixed size |
//! | [`experts`] | [`ExpertOps`] | mixtures of experts |
//! | [`adapters`] | [`AdapterOps`] | low-rank adapters behind weights |
//! | [`pooling`] | [`PoolingOps`] | models that embed |
//! | [`vision`] | [`VisionOps`] | vision towers |
//! | [`drafts`] | [`DraftOps`] | heads that draft from hidden states |
//! | [`types`] | [`DeviceTypes`] | buffers, weights, and what the device is |
//! | [`dtype`] | | element types |
//! | [`batch`] | | a step's plan, checked and flattened once for all devices |
//! | [`host_slots`] | | slots of devices that keep them in the host's memory |
//! | [`samples`] | | what a step's logits rows came to, sequence by sequence |
//! | [`collective`] | | several devices that share a model |
//! | [`bytes`] | | of a tensor, wherever they are |
//! | `choices` | | what a device found out by trying, kept across starts |
//! | [`weights`] | | a weight on its way from a checkpoint to a device |
//! | [`quant`] | | the same of a quantised one |
//!
//! # A step
//! `begin(plan)` applies the slot changes and makes the plan the *current batch*: a flat list of
//! token rows (each with token id, position, slot), in the plan's order, and the plan's list of
//! logits rows. The ops then run over the current batch; `R` in their docs is its number of token
//! rows, `S` its number of logits rows. `sample` ends the enqueueing, `collect` waits for the
//! oldest step that was not yet collected. Ops are asynchronous: an error may surface at any later
//! call. After an error the device is lost.
//!
//! # Slot rows
//! Each slot has a row that lives on the device between steps: page table per group, length
//! (positions whose K and V are in pages), last sampled token, the adapter slot of its adapter,
//! sampler, and as far as the sampler needs them sparse counts of prompt and output tokens and the
//! newest outputs. Only `begin` and `sample` change it. Where layers keep a state, the slot has one
//! too, which the ops of [`state`] move on by a step's tokens.
//!
//! # Numbers
//! Activations have the device's own precision (f32 on cpu). Logits, norms' sums and softmax are
//! f32. Out of a linear's accumulation order nothing may depend on R: batch mix must not change CPU
//! tokens.

pub mod adapters;
pub mod attention;
pub mod batch;
pub mod bytes;
#[cfg(any(feature = "cuda", test))]
mod choices;
pub mod collective;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dense;
pub mod drafts;
pub mod dtype;
pub mod experts;
pub mod host_slots;
pub mod latent;
pub mod load;
pub mod pooling;
pub mod quant;
pub mod samples;
pub mod state;
pub mod step;
pub mod trace;
pub mod types;
pub mod vision;
pub mod weights;

pub use adapters::{AdapterCapacity, AdapterOps, AdapterPart, TablePart};
pub use attention::{AttentionOps, AttnSpec, QueryGrowth, Rope};
pub use bytes::{Bytes, SharedBytes, Storage};
pub use collective::{Collective, Join, Rank, RankGroup};
pub use dense::{Activation, DenseOps, LogitsRows, Norm, NormKind, Seam, Sublayer, XIelu};
pub use drafts::DraftOps;
pub use dtype::{DType, KvScales, KvType};
pub use experts::{
    ExpertOps, RouteGroups, RouteScore, Routing, MAX_EXPERTS, MAX_EXPERT_GROUPS, SPARSE_MIXER_SPAN,
};
pub use latent::{LatentOps, LatentSpec};
pub use load::{DeviceLimits, KvRow, KvShape, LoadOps};
pub use pooling::{Pooling, PoolingOps};
pub use quant::{CodeType, InputQuant, QuantForm, QuantPart, ScaleOver};
pub use state::{
    ChannelScanSpec, Columns, ConvSpec, DeltaSpec, DeltaWeights, Gate, GateOrder, GatedNorm,
    ScanSpec, ScanWeights, StateCopy, StateOps, StatePlace, StateShape, SPARES_MAX,
};
pub use step::StepOps;
pub use types::{BreakOnPurpose, DeviceInfo, DeviceKind, DeviceTypes};
pub use vision::{Corners, PatchOf, RowBlend, RowCopy, Span, TowerLimits, TowerRows, VisionOps};
pub use weights::{unpacked, HostTensor, Source, WeightDesc, WeightKind};

/// The traits of all chapters, for whoever calls ops of a device by its type.
pub mod ops {
    pub use super::{
        AdapterOps, AttentionOps, BreakOnPurpose, DenseOps, Device, DeviceTypes, DraftOps,
        ExpertOps, LatentOps, LoadOps, PoolingOps, StateOps, StepOps, VisionOps,
    };
}

/// Everything that a device can do: the sum of the chapters.
pub trait Device:
    LoadOps
    + StepOps
    + DenseOps
    + AttentionOps
    + LatentOps
    + StateOps
    + ExpertOps
    + AdapterOps
    + PoolingOps
    + VisionOps
    + DraftOps
{
}

impl<D> Device for D where
    D: LoadOps
        + StepOps
        + DenseOps
        + AttentionOps
        + LatentOps
        + StateOps
        + ExpertOps
        + AdapterOps
        + PoolingOps
        + VisionOps
        + DraftOps
{
}
