//! From a Triton request to what the engine takes: prompts, sampling parameters, what it asks for.
//! Everything illegal is refused here, with the text the client sees. Called by `model`; it never
//! sends anything.

use serde_json::{Map, Value};

use super::config::ModelConfig;
use super::embedding::Embedding;
use super::handles::{Parameter, Tensor};
use super::inputs;
use super::response::RequestedOutputs;
use super::roles::TextStyle;
use super::tensors::{booleans, byte_strings, utf8};
use crate::error::{brief, Error, Result};
use crate::invalid;
use crate::sampling::{python, python_repr, SamplingLimits, SamplingParams};

/// Of a name that a message repeats.
const SHOWN_NAME_BYTES: usize = 200;

/// In front of what the engine or a parameter refuses; existing clients look for it.
pub(super) const PREFIX: &str = "Error generating stream: ";

/// One Triton request after validation.
#[derive(Debug)]
pub(super) struct Parsed {
    /// One generation each. Exactly one unless the model has a batch dimension.
    pub rows: Vec<PromptRow>,
    /// Instead of `rows`: one vector each.
    pub embeddings: Vec<Embedding>,
    /// Several responses, with the text that is new.
    pub stream: bool,
    /// Put the prompt before the text.
    pub echo: bool,
    pub outputs: RequestedOutputs,
}

/// One prompt.
#[derive(Debug)]
pub(super) struct PromptRow {
    pub prompt: String,
    /// Files in base64, as sent.
    pub images: Vec<String>,
    pub params: SamplingParams,
}

/// What parsing must know of the model.
pub(super) struct Context<'a> {
    pub name: &'a str,
    pub config: &'a ModelConfig,
    pub limits: &'a SamplingLimits,
    /// For requests that do not say; None = vLLM's own 16.
    pub default_max_tokens: Option<u32>,
    /// The model embeds and generates nothing.
    pub embeds: bool,
    /// Prompts may have images.
    pub images: bool,
    /// Names of LoRA adapters; None: LoRA is off.
    pub adapters: Option<&'a [String]>,
}

/// The inputs by their part.
#[derive(Default)]
struct Inputs<'a> {
    text: Option<&'a Tensor>,
    sampling: Option<&'a Tensor>,
    embedding: Option<&'a Tensor>,
    images: Option<&'a Tensor>,
    stream: Option<Vec<bool>>,
    exclude_prompt: Option<bool>,
    outputs: RequestedOutputs,
    /// Sampling parameters that are inputs of their own.
    parameters: Vec<&'a Tensor>,
}

/// # Errors
/// With the whole text that the client is to see.
pub(super) fn parse(
    context: &Context,
    tensors: &[Tensor],
    parameters: Vec<(String, Parameter)>,
) -> Result<Parsed> {
    let parsed = read(context, tensors, parameters).map_err(|e| e.context(PREFIX))?;
    for name in parsed.rows.iter().filter_map(|row| row.params.lora_name.as_deref()) {
        check_adapter(context, name)?;
    }
    Ok(parsed)
}

/// # Errors
/// Whole texts that clients of the Python backend know: no prefix.
fn check_adapter(context: &Context, name: &str) -> Result<()> {
    let Some(known) = context.adapters else {
        tracing::info!("LoRA is not enabled, please restart the backend with LoRA enabled.");
        return Err(invalid!("LoRA feature is not enabled."));
    };
    if known.iter().any(|one| one == name) {
        return Ok(());
    }
    let known = python_repr(&known.into());
    // As it is, but a client's text is neither long nor on lines of its own.
    let name = brief(name, SHOWN_NAME_BYTES, &[]);
    let text = format!("LoRA {name} is not supported, we currently support {known}");
    tracing::info!("{text}");
    Err(Error::InvalidArgument(text))
}

fn read(
    context: &Context,
    tensors: &[Tensor],
    parameters: Vec<(String, Parameter)>,
) -> Result<Parsed> {
    let config = context.config;
    let inputs = Inputs::sort(context, tensors)?;
    let task = if inputs.embedding.is_some() { "embed" } else { "generate" };
    if context.embeds != inputs.embedding.is_some() {
        return Err(invalid!("Model {} does not support '{task}' request", context.name));
    }
    if let Some(tensor) = inputs.embedding {
        return read_embeddings(context, tensor, inputs.outputs);
    }

    let Some(text) = inputs.text else {
        return Err(invalid!("input '{}' is missing", config.roles.text));
    };
    let batched = config.max_batch_size > 0;
    let prompts = rows_of(text, batched)?;
    let sampling = inputs.sampling.map(|tensor| rows_of(tensor, batched)).transpose()?;
    let named = inputs::sampling(&inputs.parameters, prompts.len(), batched)?;
    let params = sampling_of(context, sampling, parameters, named)?;
    let images = images_of(inputs.images, prompts.len())?;
    let rows = prompts
        .into_iter()
        .zip(params)
        .zip(images)
        .map(|((prompt, params), images)| {
            Ok(PromptRow { prompt: utf8(prompt)?.to_owned(), images, params })
        })
        .collect::<Result<Vec<_>>>()?;

    if rows.len() > 1 {
        let lists = rows.iter().map(|row| (&row.params.stop[..], &row.params.bad_words[..]));
        context.limits.lists.check_rows(lists)?;
    }
    if rows.iter().any(|row| row.params.n != rows[0].params.n) {
        return Err(invalid!("all rows of a batch must have the same 'n'"));
    }

    let stream = inputs.stream.is_some_and(|flags| flags.contains(&true));
    check_stream(config, stream, rows.len())?;
    let echo = match config.roles.style {
        TextStyle::Canonical if stream && inputs.exclude_prompt == Some(false) => {
            return Err(invalid!(
                "When streaming, `exclude_input_in_output` = False is not allowed."
            ));
        }
        TextStyle::Canonical => !stream && !inputs.exclude_prompt.unwrap_or(false),
        TextStyle::RunningTotal => true,
        TextStyle::NewOnly => false,
    };
    Ok(Parsed { rows, embeddings: Vec::new(), stream, echo, outputs: inputs.outputs })
}

/// All other inputs but the counts that are to be returned mean nothing then.
fn read_embeddings(
    context: &Context,
    tensor: &Tensor,
    outputs: RequestedOutputs,
) -> Result<Parsed> {
    let texts = rows_of(tensor, context.config.max_batch_size > 0)?;
    let limits = &context.limits.lists;
    let embeddings = texts.into_iter().map(|text| Embedding::parse(utf8(text)?, limits));
    let RequestedOutputs { num_input_tokens, num_output_tokens, .. } = outputs;
    Ok(Parsed {
        rows: Vec::new(),
        embeddings: embeddings.collect::<Result<_>>()?,
        stream: false,
        echo: false,
        outputs: RequestedOutputs {
            num_input_tokens,
            num_output_tokens,
            ..RequestedOutputs::default()
        },
    })
}

fn check_stream(config: &ModelConfig, stream: bool, rows: usize) -> Result<()> {
    if stream && !config.decoupled {
        return Err(invalid!(
            "stream = true needs several responses, but config.pbtxt says \
             model_transaction_policy {{ decoupled: false }}"
        ));
    }
    if stream && rows > 1 {
        return Err(invalid!("stream = true takes one prompt per request, got a batch of {rows}"));
    }
    Ok(())
}

impl<'a> Inputs<'a> {
    fn sort(context: &Context, tensors: &'a [Tensor]) -> Result<Inputs<'a>> {
        let roles = &context.config.roles;
        let mut inputs = Inputs::default();
        let flag =
            |tensor: &Tensor| booleans(tensor).map(|flags| flags.first().copied().unwrap_or(false));
        for tensor in tensors {
            match tensor.name.as_str() {
                name if name == roles.text => inputs.text = Some(tensor),
                name if name == roles.sampling => inputs.sampling = Some(tensor),
                name if name == roles.stream => inputs.stream = Some(booleans(tensor)?),
                "exclude_input_in_output" => inputs.exclude_prompt = Some(flag(tensor)?),
                "return_finish_reason" => inputs.outputs.finish_reason = flag(tensor)?,
                "return_cumulative_logprob" => inputs.outputs.cumulative_logprob = flag(tensor)?,
                "return_logprobs" => inputs.outputs.logprobs = flag(tensor)?,
                "return_num_input_tokens" => inputs.outputs.num_input_tokens = flag(tensor)?,
                "return_num_output_tokens" => inputs.outputs.num_output_tokens = flag(tensor)?,
                "image" if !context.images && tensor.shape.iter().all(|&side| side > 0) => {
                    return Err(invalid!("input 'image': model {} takes text only", context.name));
                }
                "image" => inputs.images = Some(tensor),
                "embedding_request" => inputs.embedding = Some(tensor),
                name if inputs::is_parameter(name) => inputs.parameters.push(tensor),
                // A config may declare inputs that mean nothing to us.
                _ => {}
            }
        }
        Ok(inputs)
    }
}

/// The first element of each row: `[b, …]` with a batch dimension, one row without.
fn rows_of(tensor: &Tensor, batched: bool) -> Result<Vec<&[u8]>> {
    let strings = byte_strings(tensor)?;
    let rows = match tensor.shape.first() {
        Some(&rows) if batched => usize::try_from(rows).unwrap_or(0),
        _ => 1,
    };
    let per_row = strings.len().checked_div(rows).unwrap_or(0);
    if per_row == 0 {
        return Err(invalid!("input '{}' is empty, its shape is {:?}", tensor.name, tensor.shape));
    }
    if per_row > 1 {
        let name = &tensor.name;
        tracing::warn!("input '{name}' holds {per_row} elements a row: only the first is used");
    }
    Ok(strings.into_iter().step_by(per_row).collect())
}

/// The images of each of so many prompts: all there are, or as many for each.
fn images_of(tensor: Option<&Tensor>, prompts: usize) -> Result<Vec<Vec<String>>> {
    let Some(tensor) = tensor else { return Ok(vec![Vec::new(); prompts]) };
    let files = byte_strings(tensor)?;
    let texts = files.into_iter().map(|file| Ok(utf8(file)?.to_owned()));
    let texts = texts.collect::<Result<Vec<String>>>()?;
    if texts.len() % prompts.max(1) != 0 {
        return Err(invalid!("input 'image' has {} elements for {prompts} prompts", texts.len()));
    }
    let each = texts.len() / prompts.max(1);
    let mut texts = texts.into_iter();
    Ok((0..prompts).map(|_| texts.by_ref().take(each).collect()).collect())
}

/// Sampling parameters of each row. A value stands in the tensor for all of them, in an input of
/// its own or in the request's parameters: the first of these that has it decides, and with a
/// tensor for all nobody reads the request's parameters.
fn sampling_of(
    context: &Context,
    tensor: Option<Vec<&[u8]>>,
    parameters: Vec<(String, Parameter)>,
    named: Vec<Map<String, Value>>,
) -> Result<Vec<SamplingParams>> {
    let rows = named.len();
    let tensor_given = tensor.is_some();
    let read = |mut map: Map<String, Value>| {
        if let Some(tokens) = context.default_max_tokens {
            map.entry("max_tokens").or_insert(tokens.into());
        }
        SamplingParams::parse(&map, context.limits)
    };
    // One row for all prompts stays one if no input has a value for each.
    let same = named.windows(2).all(|pair| pair[0] == pair[1]);
    let parse = || -> Result<Vec<SamplingParams>> {
        let mut maps = match tensor {
            Some(texts) => texts
                .into_iter()
                .map(|text| SamplingParams::object(utf8(text)?, &context.limits.lists))
                .collect::<Result<Vec<_>>>()?,
            None => vec![to_map(parameters)?],
        };
        if let ([one], false) = (maps.as_slice(), same) {
            maps = vec![one.clone(); rows];
        }
        for (map, named) in maps.iter_mut().zip(named) {
            for (key, value) in named {
                if !(tensor_given && map.contains_key(&key)) {
                    map.insert(key, value);
                }
            }
        }
        maps.into_iter().map(read).collect()
    };
    let mut parsed = parse().inspect_err(|e| {
        tracing::error!("Was trying to create `TritonSamplingParams`, but got exception: {e}");
    })?;
    if let ([one], true) = (parsed.as_slice(), rows > 1) {
        parsed = vec![one.clone(); rows];
    }
    if parsed.len() != rows {
        let name = context.config.roles.sampling;
        return Err(invalid!("input '{name}' has {} rows for {rows} prompts", parsed.len()));
    }
    Ok(parsed)
}

/// # Errors
/// InvalidArgument: a number that is not finite, which JSON cannot carry.
fn to_map(parameters: Vec<(String, Parameter)>) -> Result<Map<String, Value>> {
    let values = parameters.into_iter().map(|(key, value)| {
        let value = match value {
            Parameter::Text(text) => Value::String(text),
            Parameter::Int(n) => n.into(),
            Parameter::Bool(b) => b.into(),
            Parameter::Double(x) if x.is_finite() => x.into(),
            Parameter::Double(x) => {
                let (key, got) = (python::shown_text(&key), python::float_text(x));
                return Err(invalid!("parameter {key} must be a finite number, got {got}."));
            }
        };
        Ok((key, value))
    });
    values.collect()
}

/// The text that a client sees for an error of the engine.
pub(super) fn worded(error: Error) -> Error {
    match error {
        Error::Cancelled(_) => Error::Cancelled("Request was cancelled".into()),
        other => other.context(PREFIX),
    }
}

#[cfg(test)]
mod tests;
