//! The trace device: it computes nothing and writes down what a real one would launch, read, write
//! and hold. `model::budget` sizes the page pool by it, tests hold the decoder's launches to it.
//! Each file is a chapter of [`super::Device`].
//!
//! Bytes are those a perfect kernel moves: each input and output once, each weight once, the K and
//! V that a sequence sees once. FLOPs count a multiply-add as two.

mod adapters;
mod attention;
mod dense;
mod drafts;
mod experts;
mod latent;
mod load;
mod pooling;
mod state;
mod step;
mod vision;

use std::collections::VecDeque;

use super::host_slots::HostSlots;
use super::{AdapterCapacity, DType, DeviceInfo, DeviceKind, DeviceTypes, Join, KvShape, Rank};
use crate::plan::StepResult;

/// One op's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Name of the op.
    pub op: &'static str,
    /// Rows it ran over: token rows, or sampling rows.
    pub rows: usize,
    /// Elements of an input row.
    pub inputs: usize,
    /// Elements of an output row.
    pub outputs: usize,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// A multiply-add counts as two.
    pub flops: u64,
}

/// A shape; `bytes` of one element.
pub struct TraceTensor {
    rows: usize,
    width: usize,
    /// The width that it was made with.
    most: usize,
    bytes: usize,
}

/// A shape and its size.
pub struct TraceWeight {
    outputs: usize,
    inputs: usize,
    bytes: u64,
    /// How many matrices are stacked.
    count: usize,
    /// What ops do with the ranks' shares.
    join: Join,
    /// Parts and capacity of adapters.
    adapters: Option<(usize, AdapterCapacity)>,
    /// Room of adapters of a table.
    table_adapters: Option<AdapterCapacity>,
}

impl TraceWeight {
    fn row_bytes(&self) -> u64 {
        self.bytes / self.outputs.max(1) as u64
    }
}

/// Memory a device must give, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Of all weights.
    pub weights: u64,
    /// Activations and logits.
    pub tensors: u64,
    /// Page tables, lengths, last tokens and step inputs.
    pub slots: u64,
    /// Adapter slots of adapters, and A x of a step's rows.
    pub adapters: u64,
    /// What layers keep of one sequence beside pages; in no sum.
    pub state: u64,
    /// The KV pool.
    pub pages: u64,
    /// Some weights are codes.
    pub codes: bool,
    /// What experts of codes take more where they must be plain weights; in no sum.
    pub plain_experts: u64,
}

impl Held {
    /// Everything but pages and states.
    pub fn without_pages(&self) -> u64 {
        let parts = [self.weights, self.tensors, self.slots, self.adapters];
        parts.iter().fold(0, |sum: u64, &part| sum.saturating_add(part))
    }

    /// With what another model holds beside it, which has no state and no adapters.
    pub fn and(self, other: Held) -> Held {
        Held {
            weights: self.weights.saturating_add(other.weights),
            tensors: self.tensors.saturating_add(other.tensors),
            slots: self.slots.saturating_add(other.slots),
            codes: self.codes || other.codes,
            plain_experts: self.plain_experts.saturating_add(other.plain_experts),
            ..self
        }
    }

    /// What so many ranks hold together, each as much.
    pub fn times(self, ranks: usize) -> Held {
        let all = |part: u64| part.saturating_mul(ranks as u64);
        Held {
            weights: all(self.weights),
            tensors: all(self.tensors),
            slots: all(self.slots),
            adapters: all(self.adapters),
            state: all(self.state),
            pages: all(self.pages),
            codes: self.codes,
            plain_experts: all(self.plain_experts),
        }
    }
}

/// The trace device.
pub struct Trace {
    activation: DType,
    rank: Rank,
    slots: HostSlots,
    kv: Option<KvShape>,
    results: VecDeque<StepResult>,
    launches: Vec<Launch>,
    held: Held,
    /// Widest A x of a row.
    low_width: usize,
}

impl Trace {
    /// Count for a device whose activations are of this type.
    pub fn new(activation: DType) -> Trace {
        Trace::of_rank(activation, Rank::ALONE)
    }

    /// The same for one of several that share a model.
    pub fn of_rank(activation: DType, rank: Rank) -> Trace {
        Trace {
            activation,
            rank,
            slots: HostSlots::default(),
            kv: None,
            results: VecDeque::new(),
            launches: Vec::new(),
            held: Held::default(),
            low_width: 0,
        }
    }

    /// All that was launched since the last call.
    pub fn take_launches(&mut self) -> Vec<Launch> {
        std::mem::take(&mut self.launches)
    }

    /// All that is held. Everything is allocated at load, so this is the peak too.
    pub fn held(&self) -> Held {
        self.held
    }

    fn hold_tensor(&mut self, rows: usize, tensor: &TraceTensor) {
        self.held.tensors = self.held.tensors.saturating_add(bytes(rows, tensor));
    }

    fn rows(&self) -> usize {
        self.slots.tokens()
    }

    /// What ranks do together behind an op with this weight, if anything.
    fn join_launch(
        &mut self,
        op: &'static str,
        weight: &TraceWeight,
        rows: usize,
        out: &TraceTensor,
    ) {
        if weight.join == Join::None {
            return;
        }
        let all = bytes(rows, out);
        self.launch(op, (rows, out.width, out.width), all, all, (rows * out.width) as u64);
    }

    fn launch(
        &mut self,
        op: &'static str,
        (rows, inputs, outputs): (usize, usize, usize),
        read_bytes: u64,
        written_bytes: u64,
        flops: u64,
    ) {
        let launch = Launch { op, rows, inputs, outputs, read_bytes, written_bytes, flops };
        self.launches.push(launch);
    }
}

/// A checkpoint may ask for more than a number holds; then it is too much for any device.
fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
}

fn bytes(rows: usize, tensor: &TraceTensor) -> u64 {
    product(&[rows, tensor.width, tensor.bytes])
}

impl DeviceTypes for Trace {
    type Tensor = TraceTensor;
    type Weight = TraceWeight;

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            kind: DeviceKind::Trace,
            name: "trace".to_string(),
            total_bytes: 0,
            free_bytes: 0,
            depth: 1,
            experts_of_codes: true,
        }
    }

    fn rank(&self) -> Rank {
        self.rank
    }
}
