//! A device without some of its ops' calls: `shares` and `gpu_images` learn from it what they
//! cost, and drive it as they drive any other. Buffers keep what they held, so the numbers of such
//! a step mean nothing; its time does.

use std::ops::Range;

use triton_vllm::device::ops::*;
use triton_vllm::device::{
    Activation, AdapterCapacity, AdapterPart, AttnSpec, ChannelScanSpec, Columns, ConvSpec,
    DeltaSpec, DeltaWeights, DeviceInfo, DeviceLimits, GatedNorm, LatentSpec, LogitsRows, Norm,
    Pooling, Rank, Rope, Routing, RowBlend, RowCopy, ScanSpec, ScanWeights, Seam, Span, TablePart,
    TowerLimits, TowerRows, WeightDesc,
};
use triton_vllm::error::Result;
use triton_vllm::ids::AdapterSlotId;
use triton_vllm::plan::{StepPlan, StepResult, TokenMasks};

pub struct Without<D> {
    pub device: D,
    /// Which calls between `begin` and `sample` are left out, by number; those beyond are made.
    left_out: Vec<bool>,
    /// Calls of the current step so far.
    calls: usize,
    /// Ops over rows of a tower that are left out.
    left_out_of_tower: Vec<&'static str>,
    /// The next ops are over rows of a tower.
    in_tower: bool,
}

/// An op over rows of a tower that is told apart by its span.
pub const ATTEND_WINDOWS: &str = "attend_spans: windows";
/// The other one.
pub const ATTEND_IMAGES: &str = "attend_spans: images";

impl<D> Without<D> {
    /// `device` with all its calls.
    pub fn new(device: D) -> Without<D> {
        Without {
            device,
            left_out: Vec::new(),
            calls: 0,
            left_out_of_tower: Vec::new(),
            in_tower: false,
        }
    }

    /// From the next step on leave out all of these ops that are over rows of a tower.
    pub fn leave_out_of_tower(&mut self, ops: &[&'static str]) {
        self.left_out_of_tower = ops.to_vec();
    }

    /// From the next step on leave out these calls and no others; the first after `begin` is 0.
    pub fn leave_out(&mut self, calls: &[usize]) {
        self.left_out.clear();
        for &call in calls {
            self.left_out.resize(self.left_out.len().max(call + 1), false);
            self.left_out[call] = true;
        }
    }

    /// Whether the call that is being made is left out; it is counted.
    fn omits(&mut self, op: &str) -> bool {
        self.calls += 1;
        if self.in_tower && self.left_out_of_tower.contains(&op) {
            return true;
        }
        self.left_out.get(self.calls - 1).copied().unwrap_or(false)
    }
}

macro_rules! pass_on {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        fn $name(&mut self, $($argument: $type),*) -> $result {
            self.device.$name($($argument),*)
        }
    )*};
}

macro_rules! pass_on_or_omit {
    ($(fn $name:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $name(&mut self, $($argument: $type),*) -> Result<()> {
            if self.omits(stringify!($name)) {
                return Ok(());
            }
            self.device.$name($($argument),*)
        }
    )*};
}

impl<D: Device> DeviceTypes for Without<D> {
    type Tensor = D::Tensor;
    type Weight = D::Weight;

    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn rank(&self) -> Rank {
        self.device.rank()
    }
}

#[rustfmt::skip]
impl<D: Device> LoadOps for Without<D> {
    pass_on! {
        fn upload(weight: WeightDesc<'_>) -> Result<D::Weight>;
        fn tensor(rows: usize, width: usize) -> Result<D::Tensor>;
        fn reshape(tensor: &mut D::Tensor, width: usize) -> Result<()>;
        fn logits_tensor(rows: usize, vocab: usize) -> Result<D::Tensor>;
        fn feeds(tensor: &mut D::Tensor, weight: &D::Weight) -> Result<()>;
        fn reserve(limits: &DeviceLimits) -> Result<()>;
        fn read(tensor: &D::Tensor, rows: usize) -> Result<Vec<f32>>;
    }

    fn sizes_to_rehearse(&self, step_tokens: usize) -> Vec<usize> {
        self.device.sizes_to_rehearse(step_tokens)
    }

    fn keep_choices(&mut self) {
        self.device.keep_choices();
    }
}

#[rustfmt::skip]
impl<D: Device> StepOps for Without<D> {
    fn begin(&mut self, plan: &StepPlan) -> Result<()> {
        self.calls = 0;
        self.device.begin(plan)
    }

    fn steady(&mut self) {
        self.device.steady();
    }

    pass_on! {
        fn forwarded() -> Result<()>;
        fn sample(logits: &mut D::Tensor, masks: &TokenMasks) -> Result<()>;
        fn collect() -> Result<StepResult>;
    }
}

#[rustfmt::skip]
impl<D: Device> DenseOps for Without<D> {
    pass_on_or_omit! {
        fn embed(table: &D::Weight, scale: f32, out: &mut D::Tensor);
        fn add_positions(table: &D::Weight, offset: usize, x: &mut D::Tensor);
        fn norm(norm: &Norm<D::Weight>, x: &D::Tensor, out: &mut D::Tensor);
        fn norm_parts(norm: &Norm<D::Weight>, columns: Range<usize>, x: &mut D::Tensor);
        fn add_norm(norm: &Norm<D::Weight>, delta: &D::Tensor, residual: &mut D::Tensor,
                    out: &mut D::Tensor);
        fn add(delta: &D::Tensor, residual: &mut D::Tensor);
        fn clamp(limit: f32, x: &mut D::Tensor);
        fn scale(factor: f32, x: &mut D::Tensor);
        fn linear(weight: &D::Weight, bias: Option<&D::Weight>, x: &D::Tensor,
                  out: &mut D::Tensor);
        fn linear_act(weight: &D::Weight, bias: Option<&D::Weight>, act: Activation,
                      x: &D::Tensor, out: &mut D::Tensor);
        fn gather(x: &D::Tensor, out: &mut D::Tensor);
        fn linear_gathered(weight: &D::Weight, x: &D::Tensor, out: &mut D::Tensor);
        fn logits(head: &D::Weight, softcap: Option<f32>, x: &D::Tensor, logits: &mut D::Tensor);
        fn bias_logits(bias: &D::Weight, logits: &mut D::Tensor);
    }

    /// As a trace has it, whose calls these are compared with.
    fn logits_rows(&self) -> LogitsRows {
        LogitsRows::Gathered
    }

    // Two calls, as it is of texts, each of which may be left out.
    fn linear_add_norm(&mut self, weight: &D::Weight, bias: Option<&D::Weight>, x: &D::Tensor,
                       seam: Seam<'_, D::Weight, D::Tensor>) -> Result<()> {
        if !self.in_tower {
            self.linear(weight, bias, x, seam.delta)?;
            return self.add_norm(seam.norm, seam.delta, seam.residual, seam.normed);
        }
        if self.omits("linear_add_norm") {
            return Ok(());
        }
        self.device.linear_add_norm(weight, bias, x, seam)
    }
}

#[rustfmt::skip]
impl<D: Device> AttentionOps for Without<D> {
    pass_on_or_omit! {
        fn norm_heads(spec: &AttnSpec, q: &Norm<D::Weight>, k: &Norm<D::Weight>,
                      qkv: &mut D::Tensor);
        fn values_of_keys(spec: &AttnSpec, qk: &D::Tensor, qkv: &mut D::Tensor);
        fn rope_store(layer: usize, spec: &AttnSpec, rope: Option<&Rope>, qkv: &mut D::Tensor);
        fn rotate(spec: &AttnSpec, rope: &Rope, qkv: &mut D::Tensor);
        fn attend(layer: usize, spec: &AttnSpec, sinks: Option<&D::Weight>, qkv: &D::Tensor,
                  out: &mut D::Tensor);
        fn attend_alibi(layer: usize, spec: &AttnSpec, slopes: &D::Weight, qkv: &D::Tensor,
                        out: &mut D::Tensor);
        fn gate_output(gate: &D::Tensor, out: &mut D::Tensor);
        fn attend_all(spec: &AttnSpec, qkv: &D::Tensor, out: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> LatentOps for Without<D> {
    pass_on_or_omit! {
        fn multiply_heads(weight: &D::Weight, x: &D::Tensor, out: &mut D::Tensor);
        fn store_latent(layer: usize, spec: &LatentSpec, norm: &Norm<D::Weight>, rope: &Rope,
                        q: &D::Tensor, latent: &D::Tensor, queries: &mut D::Tensor);
        fn attend_latent(layer: usize, spec: &LatentSpec, queries: &D::Tensor,
                         out: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> StateOps for Without<D> {
    pass_on_or_omit! {
        fn short_convolution(layer: usize, spec: &ConvSpec, weight: &D::Weight,
                             bias: Option<&D::Weight>, x: &D::Tensor, out: &mut D::Tensor);
        fn multiply(a: Columns<'_, D::Tensor>, b: Columns<'_, D::Tensor>, out: &mut D::Tensor);
        fn delta_rule(layer: usize, spec: &DeltaSpec, weights: DeltaWeights<'_, D::Weight>,
                      mixed: &D::Tensor, rates: &D::Tensor, out: &mut D::Tensor);
        fn selective_scan(layer: usize, spec: &ScanSpec, weights: ScanWeights<'_, D::Weight>,
                          mixed: &D::Tensor, rates: Columns<'_, D::Tensor>,
                          out: &mut D::Tensor);
        fn channel_scan(layer: usize, spec: &ChannelScanSpec, weights: ScanWeights<'_, D::Weight>,
                        x: &D::Tensor, rates: &D::Tensor, bc: &D::Tensor, out: &mut D::Tensor);
        fn norm_gated(spec: &GatedNorm, norm: Option<&Norm<D::Weight>>, z: &D::Tensor,
                      x: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> ExpertOps for Without<D> {
    // Two calls, as the trace counts them.
    fn experts_sum(
        &mut self,
        down: &D::Weight,
        bias: Option<&D::Weight>,
        routes: &D::Tensor,
        x: &D::Tensor,
        parts: &mut D::Tensor,
        out: &mut D::Tensor,
    ) -> Result<()> {
        let omitted = [self.omits("experts_sum"), self.omits("experts_sum")];
        match omitted {
            [false, false] => self.device.experts_sum(down, bias, routes, x, parts, out),
            [false, true] => self.device.experts(down, bias, routes, x, parts),
            [true, false] => self.device.combine(down, routes, parts, out),
            [true, true] => Ok(()),
        }
    }

    pass_on! {
        fn routes_tensor(rows: usize, routing: &Routing) -> Result<D::Tensor>;
    }

    pass_on_or_omit! {
        fn route(gate: &D::Weight, bias: Option<&D::Weight>, choice_bias: Option<&D::Weight>,
                 routing: &Routing, x: &D::Tensor, routes: &mut D::Tensor);
        fn scale_routes(scales: &D::Weight, routing: &Routing, routes: &mut D::Tensor);
        fn weigh_inputs(routes: &mut D::Tensor, x: &D::Tensor, out: &mut D::Tensor);
        fn experts_act(weight: &D::Weight, bias: Option<&D::Weight>, act: Activation,
                       routes: &D::Tensor, x: &D::Tensor, out: &mut D::Tensor);
        fn experts(weight: &D::Weight, bias: Option<&D::Weight>, routes: &D::Tensor,
                   x: &D::Tensor, out: &mut D::Tensor);
        fn combine(down: &D::Weight, routes: &D::Tensor, parts: &D::Tensor, out: &mut D::Tensor);
        fn add_gated(gate: &D::Weight, x: &D::Tensor, delta: &D::Tensor, out: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> VisionOps for Without<D> {
    fn begin_tower(&mut self, rows: TowerRows) -> Result<()> {
        self.in_tower = true;
        self.device.begin_tower(rows)
    }

    fn end_rows(&mut self) {
        self.in_tower = false;
        self.device.end_rows();
    }

    fn attend_spans(&mut self, spec: &AttnSpec, span: Span, qkv: &D::Tensor,
                    out: &mut D::Tensor) -> Result<()> {
        let name = match span {
            Span::Window => ATTEND_WINDOWS,
            Span::Image => ATTEND_IMAGES,
        };
        if self.omits(name) {
            return Ok(());
        }
        self.device.attend_spans(spec, span, qkv, out)
    }

    pass_on! {
        fn reserve_tower(limits: &TowerLimits) -> Result<()>;
        fn begin_rows(rows: usize) -> Result<()>;
    }

    pass_on_or_omit! {
        fn put_patches(out: &mut D::Tensor);
        fn add_places(table: &D::Weight, x: &mut D::Tensor);
        fn turn_rows(spec: &AttnSpec, bias: Option<&D::Weight>, qkv: &mut D::Tensor);
        fn join_rows(count: usize, x: &D::Tensor, out: &mut D::Tensor);
        fn mean_rows(count: usize, x: &D::Tensor, out: &mut D::Tensor);
        fn standardise(factor: f32, bias: &D::Weight, scale: &D::Weight, x: &mut D::Tensor);
        fn copy_rows(x: &D::Tensor, copies: &[RowCopy], out: &mut D::Tensor);
        fn blend_rows(
            x: &D::Tensor, rows: usize, table: &D::Weight, blends: &[RowBlend], out: &mut D::Tensor
        );
        fn add_rows(x: &D::Tensor, copies: &[RowCopy], out: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> DraftOps for Without<D> {
    type Unread = D::Unread;

    fn unread_rows<'u>(&self, unread: &'u D::Unread) -> &'u D::Tensor {
        self.device.unread_rows(unread)
    }

    fn follow(&mut self, other: &Self) -> Result<()> {
        self.device.follow(&other.device)
    }

    pass_on! {
        fn unread(rows: usize, width: usize) -> Result<D::Unread>;
        fn begin_unread(at: usize, unread: &mut D::Unread) -> Result<()>;
    }

    pass_on_or_omit! {
        fn put_unread(x: &D::Tensor, first: usize, unread: &mut D::Unread);
        fn keep_unread(x: &D::Tensor, unread: &D::Unread, kept: &mut D::Tensor);
        fn put_columns(x: &D::Tensor, first: usize, blank_start: bool, out: &mut D::Tensor);
        fn keep_hidden(x: &D::Tensor, kept: &mut D::Tensor);
        fn keep_next_hidden(x: &D::Tensor, kept: &mut D::Tensor);
        fn kept_hidden(kept: &D::Tensor, out: &mut D::Tensor);
        fn spread_logits(places: &D::Weight, x: &D::Tensor, logits: &mut D::Tensor);
    }
}

#[rustfmt::skip]
impl<D: Device> AdapterOps for Without<D> {
    pass_on! {
        fn adapt(weight: &mut D::Weight, parts: &[usize], capacity: AdapterCapacity) -> Result<()>;
        fn adapt_table(table: &mut D::Weight, capacity: AdapterCapacity) -> Result<()>;
        fn install(weight: &mut D::Weight, slot: AdapterSlotId,
                   parts: &[Option<AdapterPart<'_>>]) -> Result<()>;
        fn install_table(table: &mut D::Weight, slot: AdapterSlotId,
                         part: Option<TablePart<'_>>) -> Result<()>;
    }
}

#[rustfmt::skip]
impl<D: Device> PoolingOps for Without<D> {
    pass_on_or_omit! {
        fn pool(kind: Pooling, x: &D::Tensor, out: &mut D::Tensor);
    }

    pass_on! {
        fn hand_over(pooled: &D::Tensor) -> Result<()>;
    }
}
