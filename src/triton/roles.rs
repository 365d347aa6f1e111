//! Which tensor plays which part. Deployments call the prompt `text_input`, `PROMPT` or `prompt`;
//! the names in config.pbtxt decide, once per model. Called by `config`, `request` and `response`.

use std::ffi::CStr;

use serde_json::Value;

/// What the text output carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextStyle {
    /// `text_output`: a stream's new text; otherwise the prompt too, unless the request excludes
    /// it.
    Canonical,
    /// `TEXT`: the prompt and all text so far, also in a stream.
    RunningTotal,
    /// `response`: new text, never the prompt.
    NewOnly,
}

/// The names that one model uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    pub text: &'static str,
    pub stream: &'static str,
    pub sampling: &'static str,
    pub output: &'static CStr,
    pub style: TextStyle,
}

const TEXT: [&str; 3] = ["text_input", "PROMPT", "prompt"];
const STREAM: [&str; 2] = ["stream", "STREAM"];
const SAMPLING: [&str; 2] = ["sampling_parameters", "SAMPLING_PARAMETERS"];
const OUTPUT: [(&CStr, TextStyle); 3] = [
    (c"text_output", TextStyle::Canonical),
    (c"TEXT", TextStyle::RunningTotal),
    (c"response", TextStyle::NewOnly),
];

impl Roles {
    /// From the model's config as JSON. The canonical name wins where a config declares several.
    pub(super) fn of(config: &Value) -> Roles {
        let input = |names: &[&'static str]| {
            names.iter().find(|n| declares(config, "input", n)).or(names.first()).copied()
        };
        let output = OUTPUT
            .iter()
            .find(|(name, _)| name.to_str().is_ok_and(|n| declares(config, "output", n)))
            .unwrap_or(&OUTPUT[0]);
        Roles {
            text: input(&TEXT).unwrap_or(TEXT[0]),
            stream: input(&STREAM).unwrap_or(STREAM[0]),
            sampling: input(&SAMPLING).unwrap_or(SAMPLING[0]),
            output: output.0,
            style: output.1,
        }
    }

    /// Another name plays the part of this canonical tensor.
    pub(super) fn replaces(&self, canonical: &str) -> bool {
        match canonical {
            "text_input" => self.text != canonical,
            "stream" => self.stream != canonical,
            "sampling_parameters" => self.sampling != canonical,
            "text_output" => self.style != TextStyle::Canonical,
            _ => false,
        }
    }
}

/// `config[list]` holds a tensor of this name.
pub(super) fn declares(config: &Value, list: &str, name: &str) -> bool {
    let tensors = config[list].as_array().map(Vec::as_slice).unwrap_or_default();
    tensors.iter().any(|tensor| tensor["name"] == name)
}
