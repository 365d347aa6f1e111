//! LoRA adapters: a PEFT folder -> matrices in the order and type in which a device takes them.
//! Called by `engine` on a thread of its own; `decoder` puts what was read into a bank. Which
//! modules a family has is said by its row ([`projections`]); nothing here depends on a device.
//!
//! An adapter adds scale * B (A x) to a linear, scale = lora_alpha / r (or / sqrt(r), rsLoRA). Here
//! the scale is multiplied into B, in f32, before B is rounded to the model's type.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::config::ModelSpec;
use super::families::Fused;
use super::weights::Checkpoint;
use crate::device::{AdapterPart, AdapterRoom, DType, HostTensor};
use crate::error::{Error, Result};
use crate::files::Kind;
use crate::invalid;
use crate::json::{self, Object};

/// What a model is told of its adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterOptions {
    pub room: AdapterRoom,
    /// Last parts of module names (`lora_target_modules`); None: every linear of a layer.
    pub modules: Option<Vec<String>>,
}

/// One matrix of each layer as adapters see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Modules behind `<layers>.<i>.`, one per part.
    pub modules: &'static [&'static str],
    /// Of each part.
    pub outputs: Vec<usize>,
    pub inputs: usize,
    /// The rows of B are q, k and v of head 0, of head 1, ...
    by_head: bool,
    /// What the incumbent calls all parts together.
    packed: &'static str,
}

/// How many matrices of a layer take adapters: q|k|v, attention's output, gate|up, down.
pub const PROJECTIONS: usize = 4;
/// From here on they belong to the MLP.
const FIRST_OF_MLP: usize = 2;

/// Whether a layer has this projection as a linear: experts take no adapters, nor does the one that
/// all rows share.
pub fn takes_adapters(spec: &ModelSpec, layer: usize, projection: usize) -> bool {
    projection < FIRST_OF_MLP || spec.mixture_of(layer).is_none()
}

/// In the order of [`super::load::Layer::linears_mut`].
pub fn projections(spec: &ModelSpec) -> [Projection; PROJECTIONS] {
    let names = &spec.family.names;
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let up = if spec.family.gated { vec![spec.ffn; 2] } else { vec![spec.ffn] };
    let projection = |modules: &'static [&'static str], outputs: Vec<usize>, inputs, packed| {
        let fused = modules.len() < outputs.len();
        let by_head = fused && outputs.len() == 3 && spec.family.fused == Fused::PerHead;
        let outputs = if fused { vec![outputs.iter().sum()] } else { outputs };
        Projection { modules, outputs, inputs, by_head, packed }
    };
    let one = std::slice::from_ref;
    [
        projection(names.qkv, vec![q, kv, kv], spec.hidden, "qkv_proj"),
        projection(one(&names.attn_out), vec![spec.hidden], q, ""),
        projection(names.up, up, spec.hidden, "gate_up_proj"),
        projection(one(&names.down), vec![spec.hidden], spec.ffn, ""),
    ]
}

impl AdapterOptions {
    /// Whether adapters may change some module of the projection.
    pub fn reaches(&self, projection: &Projection) -> bool {
        projection.modules.iter().any(|module| self.allows(projection, module))
    }

    /// Whether adapters may change this module of the projection.
    pub fn allows(&self, projection: &Projection, module: &str) -> bool {
        let Some(allowed) = &self.modules else { return true };
        let last = module.rsplit('.').next().unwrap_or(module);
        allowed.iter().any(|name| name == last || name == projection.packed)
    }
}

/// One part's matrices, in the model's type.
struct Low {
    rank: usize,
    inputs: usize,
    outputs: usize,
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Low {
    fn part(&self, dtype: DType) -> AdapterPart<'_> {
        AdapterPart {
            a: HostTensor { dtype, rows: self.rank, cols: self.inputs, bytes: (&self.a).into() },
            b: HostTensor { dtype, rows: self.rank, cols: self.outputs, bytes: (&self.b).into() },
        }
    }
}

/// An adapter, ready for any device: by layer, projection and part.
pub struct Adapter {
    layers: Vec<[Vec<Option<Low>>; PROJECTIONS]>,
    dtype: DType,
}

/// A module that an adapter changes: layer, projection, part.
type Place = (usize, usize, usize);

impl Adapter {
    /// Read and check `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
    ///
    /// # Errors
    /// One line: a missing or broken file, a rank above `max_lora_rank`, a kind of adapter that we
    /// lack, a module that this model has not, a tensor of another shape.
    pub fn read(dir: &Path, spec: &ModelSpec, options: &AdapterOptions) -> Result<Adapter> {
        let path = dir.join("adapter_config.json");
        let config = json::read_object(&path, Kind::Config)?;
        let shown = path.display().to_string();
        let config = Object::new(&shown, &config);
        let rank = config.needed("r", "a positive integer", config.count("r", RANK_MAX)?)?;
        if rank > options.room.rank {
            let limit = options.room.rank;
            return Err(invalid!("LoRA rank {rank} is greater than max_lora_rank {limit}."));
        }
        let scale = scale(&config, rank)?;
        refuse_unsupported(&config)?;
        let checkpoint = Checkpoint::adapter(dir)?;
        let projections = projections(spec);
        let places = places(&checkpoint, spec, options, &projections)
            .map_err(|e| e.context(&format!("{}: ", dir.display())))?;
        let empty =
            || std::array::from_fn(|p| projections[p].outputs.iter().map(|_| None).collect());
        let mut layers: Vec<[Vec<Option<Low>>; PROJECTIONS]> =
            (0..spec.layers).map(|_| empty()).collect();
        for ((layer, p, part), module) in places {
            let projection = &projections[p];
            let (inputs, outputs) = (projection.inputs, projection.outputs[part]);
            let a = checkpoint.tensor(&format!("{module}{A}"), rank, inputs)?;
            let b = checkpoint.tensor(&format!("{module}{B}"), outputs, rank)?;
            let heads = projection.by_head.then_some((spec.heads, spec.head_dim));
            let a = encode(spec.dtype, a.values()?.into_iter());
            let b = encode(spec.dtype, turned(&b, scale, heads)?.into_iter());
            layers[layer][p][part] = Some(Low { rank, inputs, outputs, a, b });
        }
        checkpoint.unchanged()?;
        Ok(Adapter { layers, dtype: spec.dtype })
    }

    /// What it does to one projection of a layer; None: nothing.
    pub fn parts(&self, layer: usize, projection: usize) -> Vec<Option<AdapterPart<'_>>> {
        let lows = self.layers[layer][projection].iter();
        lows.map(|low| low.as_ref().map(|low| low.part(self.dtype))).collect()
    }
}

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The modules that the tensors belong to, by the names in front of [`A`] and [`B`].
fn places(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    options: &AdapterOptions,
    projections: &[Projection; PROJECTIONS],
) -> Result<BTreeMap<Place, String>> {
    let mut found = BTreeMap::new();
    let mut left_out = 0;
    for tensor in checkpoint.names() {
        let module = tensor.strip_suffix(A).or(tensor.strip_suffix(B));
        let place = module.and_then(|m| Some((place(m, spec, projections)?, m)));
        let Some(((layer, p, part), module)) = place else {
            let known: Vec<_> = projections.iter().flat_map(|p| p.modules).copied().collect();
            return Err(invalid!(
                "tensor '{tensor}' is no lora_A or lora_B of this model; modules that take \
                 adapters: {}, in {} layers.",
                known.join(", "),
                spec.layers
            ));
        };
        if options.allows(&projections[p], projections[p].modules[part]) {
            found.insert((layer, p, part), module.to_string());
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        tracing::warn!("lora_target_modules leaves out {left_out} tensors of an adapter");
    }
    match found.is_empty() {
        true => Err(invalid!("no tensor of the adapter changes this model.")),
        false => Ok(found),
    }
}

/// `base_model.model.<prefix><layers>.<i>.<module>`
fn place(name: &str, spec: &ModelSpec, projections: &[Projection; PROJECTIONS]) -> Option<Place> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let layers = format!("{}.", spec.family.names.layers);
    let behind = |prefix: &&str| name.strip_prefix(*prefix)?.strip_prefix(layers.as_str());
    let (number, module) = spec.family.prefixes.iter().find_map(behind)?.split_once('.')?;
    let layer = number.parse().ok().filter(|&layer: &usize| layer < spec.layers)?;
    projections.iter().enumerate().find_map(|(p, projection)| {
        let part = projection.modules.iter().position(|&m| m == module)?;
        takes_adapters(spec, layer, p).then_some((layer, p, part))
    })
}

/// lora_alpha / r (or / sqrt(r)); a factor below zero is one too.
fn scale(config: &Object, rank: usize) -> Result<f32> {
    const KEY: &str = "lora_alpha";
    let alpha = config.given(KEY).and_then(Value::as_f64).filter(|&a| (a as f32).is_finite());
    let alpha = alpha.ok_or_else(|| config.wrong(KEY, "a number"))?;
    let rslora = config.flag("use_rslora")?.unwrap_or(false);
    let size = if rslora { (rank as f64).sqrt() } else { rank as f64 };
    Ok((alpha / size) as f32)
}

/// A rank above all that devices take.
const RANK_MAX: usize = 1 << 16;
/// Key, the value that changes nothing, and why others cannot be served.
const FIXED: &[(&str, &str, &str)] = &[
    ("peft_type", "LORA", "only LoRA adapters can be served"),
    ("bias", "none", "biases of an adapter are not supported"),
];
/// Keys that must be absent, null, false or empty.
const OFF: &[(&str, &str)] = &[
    ("use_dora", "DoRA is not supported: merge the adapter into the model"),
    ("modules_to_save", "whole modules cannot be replaced: merge the adapter into the model"),
    ("rank_pattern", "all modules of an adapter must have one rank"),
    ("alpha_pattern", "all modules of an adapter must have one lora_alpha"),
    ("lora_bias", "biases of an adapter are not supported"),
    ("trainable_token_indices", "changed tokens are not supported"),
    ("layer_replication", "repeated layers are not supported"),
    ("alora_invocation_tokens", "activated LoRA is not supported"),
    ("target_parameters", "adapters of parameters that are no linears are not supported"),
    ("use_qalora", "QALoRA is not supported"),
    ("arrow_config", "routed adapters are not supported"),
];

fn refuse_unsupported(config: &Object) -> Result<()> {
    let lacks = |key: &str, value: &Value, why: &str| {
        let value = json::shown(value);
        Err(Error::Unsupported(format!("{} is {value}: {why}.", config.name(key))))
    };
    for &(key, only, why) in FIXED {
        match config.given(key) {
            Some(value) if value != only => return lacks(key, value, why),
            _ => {}
        }
    }
    for &(key, why) in OFF {
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        match config.value(key) {
            Some(value) if !off(value) => return lacks(key, value, why),
            _ => {}
        }
    }
    Ok(())
}

/// B transposed and times `scale`. With (heads, d) its rows are q, k and v of each head in turn and
/// become all of q, then k, then v.
fn turned(b: &HostTensor<'_>, scale: f32, heads: Option<(usize, usize)>) -> Result<Vec<f32>> {
    let (outputs, rank) = (b.rows, b.cols);
    let mut out = vec![0.0; outputs * rank];
    for (i, value) in b.values()?.into_iter().enumerate() {
        let (row, j) = (i / rank, i % rank);
        let output = match heads {
            Some((heads, d)) => (row / d % 3 * heads + row / (3 * d)) * d + row % d,
            None => row,
        };
        out[j * outputs + output] = value * scale;
    }
    Ok(out)
}

fn encode(dtype: DType, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
#[path = "lora_tests.rs"]
mod tests;
