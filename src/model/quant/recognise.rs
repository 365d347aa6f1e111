//! How a checkpoint is quantised -> [`QuantScheme`]: by config.json, by the files beside it, by the
//! argument `quantization`, and what each of them means where another says something too. Called by
//! `config`. It knows no key of any method but that which names it.

use std::path::Path;

use super::files;
use super::format::Format;
use super::methods::{self, modelopt, Method, Read, METHODS, ONLINE};
use super::scheme::{Answer, QuantScheme};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{cut, Object};

const CONFIG: &str = "quantization_config";
/// As compressed-tensors once called it.
const OLD_CONFIG: &str = "compression_config";
const METHOD: &str = "quant_method";
/// Weights as one of vLLM's kernels once wanted them.
const MARLIN: &str = "marlin";

/// Where it may be said.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// `quantization` in small letters; empty: not set.
    pub argument: &'a str,
    /// The file that it stands in.
    pub file: &'a str,
    /// The model's folder, where files beside config.json lie.
    pub folder: Option<&'a Path>,
    /// The object in config.json stands under its text model.
    pub nested: bool,
    /// In front of the family's names.
    pub prefixes: &'static [&'static str],
}

/// None: the checkpoint is not quantised, and is not to be.
///
/// # Errors
/// One line that names file and key: a method or a value of it that is not supported, or an
/// argument that contradicts the checkpoint.
pub fn scheme(config: &Object, said: Said) -> Result<Option<QuantScheme>> {
    let own = match config.object(CONFIG)? {
        Some(quant) => Some((quant, CONFIG)),
        None => config.object(OLD_CONFIG)?.map(|quant| (quant, OLD_CONFIG)),
    };
    let is_first = matches!(own, Some((_, CONFIG))) && !said.nested;
    let beside = if is_first { None } else { files::modelopt(said.folder)? };
    if let Some((path, object)) = &beside {
        return of_checkpoint(config, &Object::new(path, object), path.clone(), said).map(Some);
    }
    match own {
        Some((quant, key)) => of_checkpoint(config, &quant, config.name(key), said).map(Some),
        None => of_argument(said),
    }
}

/// What the object `quant` says, which stands at `named`.
fn of_checkpoint(
    config: &Object,
    quant: &Object,
    named: String,
    said: Said,
) -> Result<QuantScheme> {
    let name = method_name(quant, &named)?;
    if methods::OTHER_KERNELS.contains(&said.argument) {
        return Err(unsupported(said.argument, &at_argument(said)));
    }
    let row = METHODS.iter().find(|row| row.name == name);
    let obeyed = row.is_some_and(|row| row.arguments.is_empty());
    let agrees = |row: &Method| row.arguments.contains(&said.argument);
    if !said.argument.is_empty() && !obeyed && !row.is_some_and(agrees) && said.argument != name {
        return Err(invalid!(
            "{}: Quantization method specified in the model config ({}) does not match the \
             quantization method specified in the `quantization` argument ({}).",
            at_argument(said),
            cut(&name),
            cut(said.argument)
        ));
    }

    let model_type = config.text("model_type")?;
    let fits = |row: &&Method| row.model_type.is_none() || row.model_type == model_type;
    let Some(row) = row.filter(fits) else {
        let named = quant.name(METHOD);
        return Err(match name.as_str() {
            MARLIN => invalid!(
                "{named}: '{MARLIN}' weights are packed for one kernel; convert the checkpoint to \
                 gptq."
            ),
            _ => no_method(&name, &named),
        });
    };
    // Older ModelOpt names the layers of a mixture in its own file only.
    let layers_missing = row.name == "modelopt"
        && modelopt::algo(quant)?.as_deref() == Some(modelopt::MIXED)
        && quant.given(modelopt::LAYERS).is_none();
    if layers_missing {
        if let Some((path, object)) = files::modelopt(said.folder)? {
            let read = (row.read)(&Object::new(&path, &object))?;
            return Ok(with(read, path, said));
        }
    }
    Ok(with((row.read)(quant)?, named, said))
}

/// The value of `quant_method`, as vLLM writes it; ModelOpt's own file has none.
fn method_name(quant: &Object, named: &str) -> Result<String> {
    let producer = quant.object("producer")?;
    let producer = producer.map(|producer| producer.text("name")).transpose()?.flatten();
    let is_modelopt = producer == Some("modelopt") && quant.given("quantization").is_some();
    if is_modelopt {
        return Ok("modelopt".into());
    }
    let name = quant.text(METHOD)?.unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() {
        let known: Vec<&str> = METHODS.iter().map(|row| row.name).collect();
        return Err(invalid!(
            "{named}: '{METHOD}' is missing; it must be one of {}.",
            known.join(", ")
        ));
    }
    // vLLM's names of ModelOpt's algorithms are those of files that it has read once.
    if name.starts_with("modelopt") {
        return Ok("modelopt".into());
    }
    Ok(name.replace("compressed_tensors", "compressed-tensors"))
}

/// What the argument alone makes of a checkpoint that says nothing.
fn of_argument(said: Said) -> Result<Option<QuantScheme>> {
    let argument = said.argument;
    if argument.is_empty() {
        return Ok(None);
    }
    let at = |e: Error| e.context(&format!("{}: ", at_argument(said)));
    if let Some(&(_, over, inputs)) = ONLINE.iter().find(|(name, ..)| *name == argument) {
        if argument == methods::DEPRECATED_ONLINE {
            tracing::warn!(
                "{}: 'fp8' is deprecated for a checkpoint that is not quantised; write \
                 'fp8_per_tensor'",
                at_argument(said)
            );
        }
        let format = Answer::Has(Format::Online { over, inputs });
        let read = methods::read("online", vec![methods::plain_head()], format);
        let scheme = with(read, at_argument(said), said);
        return Ok(Some(QuantScheme { online: true, ..scheme }));
    }

    let Some(row) = METHODS.iter().find(|row| row.searched_by.contains(&argument)) else {
        return Err(no_method(argument, &at_argument(said)));
    };
    let (path, object) = files::ending(said.folder, row.files, argument).map_err(at)?;
    let read = (row.read)(&Object::new(&path, &object))?;
    Ok(Some(with(read, path, said)))
}

fn with(read: Read, named: String, said: Said) -> QuantScheme {
    let Read { method, layers, kv, dtypes } = read;
    QuantScheme { method, kv, dtypes, online: false, named, prefixes: said.prefixes, layers }
}

fn at_argument(said: Said) -> String {
    format!("{}: 'quantization'", said.file)
}

/// A method that has no row.
fn no_method(name: &str, named: &str) -> Error {
    let shown = cut(name);
    if methods::DEPRECATED.contains(&name) {
        return Error::Unsupported(format!(
            "{named}: The quantization method {shown} is deprecated and will be removed in future \
             versions of vLLM. To bypass, set `--allow-deprecated-quantization`. Here it is not \
             supported at all."
        ));
    }
    if methods::UNSUPPORTED.contains(&name) {
        return unsupported(name, named);
    }
    let known = methods::supported().iter().map(|name| format!("'{name}'")).collect::<Vec<_>>();
    Error::Unsupported(format!(
        "{named}: Unknown quantization method: {shown}. Must be one of [{}].",
        known.join(", ")
    ))
}

fn unsupported(name: &str, named: &str) -> Error {
    Error::Unsupported(format!(
        "{named}: quantization '{}' is not supported. Supported: {}.",
        cut(name),
        methods::supported().join(", ")
    ))
}
