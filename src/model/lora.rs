//! LoRA adapters: a PEFT folder -> matrices in the order and type in which a device takes them.
//! Called by `engine` on a thread of its own; `decoder` puts what was read into an adapter slot.
//! Which modules a family has is said by its row ([`projections`]); nothing here depends on a
//! device.
//!
//! An adapter adds scale * B (A x) to a linear, scale = lora_alpha / r (or / sqrt(r), rsLoRA). Here
//! the scale is multiplied into B, in f32, before B is rounded to the model's type.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::config::ModelSpec;
use super::families::Fused;
use super::weights::Checkpoint;
use crate::device::{AdapterCapacity, AdapterPart, DType, HostTensor, TablePart};
use crate::error::{Error, Result};
use crate::files::Kind;
use crate::invalid;
use crate::json::{self, Object};

/// What a model is told of its adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterOptions {
    pub room: AdapterCapacity,
    /// Last parts of module names (`lora_target_modules`); None: every linear of a layer, the table
    /// of tokens and the head.
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
    /// What the Python backend calls all parts together.
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

/// Whether adapters may change the table of tokens: not an encoder's.
pub fn reaches_embed(spec: &ModelSpec) -> bool {
    let allows = |o: &AdapterOptions| o.allows_name(spec.family.names.embed);
    !spec.family.encoder && spec.adapters.as_ref().is_some_and(allows)
}

/// Whether adapters may change the head, if there is one. Where it is tied to the table, peft
/// adapts each for itself.
pub fn reaches_head(spec: &ModelSpec) -> bool {
    let allows = |o: &AdapterOptions| o.allows_name(spec.family.names.head);
    spec.pooling.is_none() && spec.adapters.as_ref().is_some_and(allows)
}

impl AdapterOptions {
    fn allows_name(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        self.modules.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == last))
    }

    /// Whether adapters may change some module of the projection.
    pub fn reaches(&self, projection: &Projection) -> bool {
        projection.modules.iter().any(|module| self.allows(projection, module))
    }

    /// Whether adapters may change this module of the projection.
    pub fn allows(&self, projection: &Projection, module: &str) -> bool {
        let packed = |allowed: &Vec<String>| allowed.iter().any(|name| name == projection.packed);
        self.allows_name(module) || self.modules.as_ref().is_some_and(packed)
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

/// An adapter, ready for any device.
pub struct Adapter {
    /// By layer, projection and part.
    layers: Vec<[Vec<Option<Low>>; PROJECTIONS]>,
    /// Of the table: A transposed, `[tokens, rank]`.
    embed: Option<Low>,
    head: Option<Low>,
    dtype: DType,
}

/// A module that an adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Linear { layer: usize, projection: usize, part: usize },
    Embed,
    Head,
}

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
        if dir.join(ADDED_TOKENS).exists() {
            let error = invalid!("{} lies beside it.", dir.join(ADDED_TOKENS).display());
            return Err(added_tokens(error));
        }
        let checkpoint = Checkpoint::adapter(dir)?;
        let projections = projections(spec);
        let places = places(&checkpoint, spec, options, &projections)
            .map_err(|e| e.context(&format!("{}: ", dir.display())))?;
        let empty =
            || std::array::from_fn(|p| projections[p].outputs.iter().map(|_| None).collect());
        let layers = (0..spec.layers).map(|_| empty()).collect();
        let mut adapter = Adapter { layers, embed: None, head: None, dtype: spec.dtype };
        let reader = Reader { checkpoint: &checkpoint, rank, scale, dtype: spec.dtype };
        let (vocab, width) = (spec.vocab_size, spec.embed_width);
        for (place, module) in places {
            match place {
                Place::Linear { layer, projection: p, part } => {
                    let projection = &projections[p];
                    let heads = projection.by_head.then_some((spec.heads, spec.head_dim));
                    let shape = (projection.inputs, projection.outputs[part]);
                    adapter.layers[layer][p][part] = Some(reader.linear(&module, shape, heads)?);
                }
                Place::Embed => adapter.embed = Some(reader.table(&module, vocab, width)?),
                Place::Head => {
                    let low = reader.linear(&module, (width, vocab), None);
                    adapter.head = Some(low.map_err(added_tokens)?);
                }
            }
        }
        checkpoint.unchanged()?;
        Ok(adapter)
    }

    /// What it does to the table of tokens; None: nothing.
    pub fn embed(&self) -> Option<TablePart<'_>> {
        let Low { rank, inputs: tokens, outputs: width, a, b } = self.embed.as_ref()?;
        let dtype = self.dtype;
        Some(TablePart {
            a: HostTensor { dtype, rows: *tokens, cols: *rank, bytes: a.into() },
            b: HostTensor { dtype, rows: *rank, cols: *width, bytes: b.into() },
        })
    }

    /// What it does to the head; None: nothing.
    pub fn head(&self) -> Option<AdapterPart<'_>> {
        self.head.as_ref().map(|low| low.part(self.dtype))
    }

    /// What it does to one projection of a layer; None: nothing.
    pub fn parts(&self, layer: usize, projection: usize) -> Vec<Option<AdapterPart<'_>>> {
        let lows = self.layers[layer][projection].iter();
        lows.map(|low| low.as_ref().map(|low| low.part(self.dtype))).collect()
    }
}

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const TABLE_A: &str = ".lora_embedding_A";
const TABLE_B: &str = ".lora_embedding_B";
/// Of the unchanged weight, which peft saves beside the adapter of a table or a head.
const COPY: &str = ".base_layer.weight";

/// Rows of a table that is longer than the model's.
const ADDED_TOKENS: &str = "new_embeddings.safetensors";

/// What is to be read of an adapter's tensors.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    rank: usize,
    scale: f32,
    /// The model's.
    dtype: DType,
}

impl Reader<'_> {
    fn linear(
        &self,
        module: &str,
        (inputs, outputs): (usize, usize),
        heads: Option<(usize, usize)>,
    ) -> Result<Low> {
        let rank = self.rank;
        let a = self.checkpoint.tensor(&format!("{module}{A}"), rank, inputs)?;
        let b = self.checkpoint.tensor(&format!("{module}{B}"), outputs, rank)?;
        let a = encode(self.dtype, a.values()?.into_iter());
        let b = encode(self.dtype, turned(&b, self.scale, heads)?.into_iter());
        Ok(Low { rank, inputs, outputs, a, b })
    }

    fn table(&self, module: &str, tokens: usize, width: usize) -> Result<Low> {
        let rank = self.rank;
        let a = self.checkpoint.tensor(&format!("{module}{TABLE_A}"), rank, tokens);
        let a = a.map_err(added_tokens)?;
        let b = self.checkpoint.tensor(&format!("{module}{TABLE_B}"), width, rank)?;
        let a = encode(self.dtype, turned(&a, 1.0, None)?.into_iter());
        let b = encode(self.dtype, turned(&b, self.scale, None)?.into_iter());
        Ok(Low { rank, inputs: tokens, outputs: width, a, b })
    }
}

fn added_tokens(error: Error) -> Error {
    match error {
        Error::InvalidArgument(_) => error.context(
            "adapters must have the model's vocabulary, added tokens are not supported: merge the \
             adapter into the model. ",
        ),
        other => other,
    }
}

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
        if is_copy(checkpoint, tensor, spec)? {
            continue;
        }
        let Some((place, module)) = placed(tensor, spec, projections) else {
            return Err(no_place(tensor, spec, projections));
        };
        let allowed = match place {
            Place::Linear { projection: p, part, .. } => {
                options.allows(&projections[p], projections[p].modules[part])
            }
            Place::Embed => options.allows_name(spec.family.names.embed),
            Place::Head => options.allows_name(spec.family.names.head),
        };
        if allowed {
            found.insert(place, module.to_string());
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

/// A copy of the whole table or head, which must be the model's in shape; what is in it is not
/// looked at.
fn is_copy(checkpoint: &Checkpoint, tensor: &str, spec: &ModelSpec) -> Result<bool> {
    let Some(module) = tensor.strip_suffix(COPY) else { return Ok(false) };
    let name = bare(module);
    if !is_embed(name, spec) && !is_head(name, spec) {
        return Ok(false);
    }
    let whole = checkpoint.tensor(tensor, spec.vocab_size, spec.embed_width);
    whole.map(|_| true).map_err(added_tokens)
}

fn no_place(tensor: &str, spec: &ModelSpec, projections: &[Projection; PROJECTIONS]) -> Error {
    let name = bare(tensor).strip_suffix(".weight").unwrap_or_default();
    if is_embed(name, spec) || is_head(name, spec) {
        return Error::Unsupported(format!(
            "tensor '{tensor}' replaces one of the model's, as adapters with added tokens do: \
             merge the adapter into the model."
        ));
    }
    let mut known: Vec<_> = projections.iter().flat_map(|p| p.modules).copied().collect();
    if !spec.family.encoder {
        known.push(spec.family.names.embed);
    }
    if spec.pooling.is_none() {
        known.push(spec.family.names.head);
    }
    invalid!(
        "tensor '{tensor}' is no lora_A or lora_B of this model; modules that take adapters: {}, \
         in {} layers.",
        known.join(", "),
        spec.layers
    )
}

/// Where a tensor belongs, and its module's name.
fn placed<'a>(
    tensor: &'a str,
    spec: &ModelSpec,
    projections: &[Projection; PROJECTIONS],
) -> Option<(Place, &'a str)> {
    if let Some(module) = tensor.strip_suffix(TABLE_A).or(tensor.strip_suffix(TABLE_B)) {
        let known = is_embed(bare(module), spec) && !spec.family.encoder;
        return known.then_some((Place::Embed, module));
    }
    let module = tensor.strip_suffix(A).or(tensor.strip_suffix(B))?;
    if is_head(bare(module), spec) {
        return spec.pooling.is_none().then_some((Place::Head, module));
    }
    linear_place(bare(module), spec, projections).map(|place| (place, module))
}

/// A module's name as the model has it.
fn bare(module: &str) -> &str {
    module.strip_prefix("base_model.model.").unwrap_or(module)
}

fn is_embed(name: &str, spec: &ModelSpec) -> bool {
    let names = spec.family.prefixes.iter();
    names.filter_map(|prefix| name.strip_prefix(prefix)).any(|rest| rest == spec.family.names.embed)
}

fn is_head(name: &str, spec: &ModelSpec) -> bool {
    name.strip_prefix("language_model.").unwrap_or(name) == spec.family.names.head
}

/// `<prefix><layers>.<i>.<module>`
fn linear_place(
    name: &str,
    spec: &ModelSpec,
    projections: &[Projection; PROJECTIONS],
) -> Option<Place> {
    let layers = format!("{}.", spec.family.names.layers);
    let behind = |prefix: &&str| name.strip_prefix(*prefix)?.strip_prefix(layers.as_str());
    let (number, module) = spec.family.prefixes.iter().find_map(behind)?.split_once('.')?;
    let layer = number.parse().ok().filter(|&layer: &usize| layer < spec.layers)?;
    projections.iter().enumerate().find_map(|(p, projection)| {
        let part = projection.modules.iter().position(|&m| m == module)?;
        let place = Place::Linear { layer, projection: p, part };
        takes_adapters(spec, layer, p).then_some(place)
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
    ("ensure_weight_tying", "table and head are adapted each for itself"),
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
