//! Inputs that config.pbtxt declares. Those named like a sampling parameter are that parameter, and
//! `priority` and `timeout` are the request's; what nobody reads is said when the model is loaded,
//! and what would make every request fail fails the load. Called by `model` and `request`.

use serde_json::{Map, Value};

use super::config::{tensor_type, OUTPUTS};
use super::handles::{Parameter, Tensor};
use super::roles::Roles;
use super::tensors::values;
use crate::error::Result;
use crate::invalid;
use crate::sampling::SamplingParams;

/// What a request asks of its serving, by input or by parameter.
const OPTIONS: [&str; 2] = ["priority", "timeout"];
/// Parameters that take all elements of their input; the others take the first of each row.
const LISTS: [&str; 5] =
    ["stop", "stop_token_ids", "bad_words", "allowed_token_ids", "logprob_token_ids"];
/// Types of inputs that are parameters.
const TYPES: [&str; 12] = [
    "TYPE_BOOL",
    "TYPE_UINT8",
    "TYPE_UINT16",
    "TYPE_UINT32",
    "TYPE_UINT64",
    "TYPE_INT8",
    "TYPE_INT16",
    "TYPE_INT32",
    "TYPE_INT64",
    "TYPE_FP32",
    "TYPE_FP64",
    "TYPE_STRING",
];

/// An input of this name is a sampling parameter.
pub(super) fn is_parameter(name: &str) -> bool {
    // `id` is the front end's own word for a request's id.
    name != "id" && SamplingParams::knows(name)
}

/// A line for each declared tensor that is of no use.
///
/// # Errors
/// InvalidArgument: with this declaration every request would be refused.
pub(super) fn judge(config: &Value, roles: &Roles) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let declared = |list: &str| config[list].as_array().cloned().unwrap_or_default();
    for input in declared("input") {
        let name = input["name"].as_str().unwrap_or_default();
        let got = input["data_type"].as_str().unwrap_or_default();
        let required = input["optional"] != true;

        let complaint = match expected(name, roles) {
            Expected::Nothing => {
                lines.push(format!(
                    "config.pbtxt declares the input '{name}', which nobody reads: read are the \
                     backend's own inputs and those named like a sampling parameter"
                ));
                continue;
            }
            Expected::One(wanted) if got != wanted => format!("must be {wanted}, not {got}"),
            Expected::Any(types) if !types.contains(&got) => {
                format!("must be one of {}, not {got}", types.join(", "))
            }
            _ => continue,
        };
        let line = format!("config.pbtxt: the input '{name}' {complaint}");
        if required || name == roles.text {
            return Err(invalid!("{line}: every request would be refused"));
        }
        lines.push(format!("{line}: requests that send it are refused"));
    }

    for output in declared("output") {
        let name = output["name"].as_str().unwrap_or_default();
        let ours = OUTPUTS.iter().any(|(known, ..)| *known == name);
        if !ours && roles.output.to_str() != Ok(name) {
            lines.push(format!("config.pbtxt declares the output '{name}', which is never filled"));
        }
    }
    Ok(lines)
}

/// Which types an input may have.
enum Expected {
    One(&'static str),
    Any(&'static [&'static str]),
    /// It is not read.
    Nothing,
}

fn expected(name: &str, roles: &Roles) -> Expected {
    let canonical = match name {
        _ if name == roles.text => Some("text_input"),
        _ if name == roles.stream => Some("stream"),
        _ if name == roles.sampling => Some("sampling_parameters"),
        _ if roles.replaces(name) => None,
        _ => Some(name),
    };
    if let Some(wanted) = canonical.and_then(tensor_type) {
        return Expected::One(wanted);
    }
    if is_parameter(name) || OPTIONS.contains(&name) {
        Expected::Any(&TYPES)
    } else {
        Expected::Nothing
    }
}

/// The sampling parameters of each of `rows` rows that `tensors` carry.
///
/// # Errors
/// InvalidArgument: a tensor that is empty, has other rows, or holds what is no value.
pub(super) fn sampling(
    tensors: &[&Tensor],
    rows: usize,
    batched: bool,
) -> Result<Vec<Map<String, Value>>> {
    let mut maps = vec![Map::new(); rows];
    for tensor in tensors {
        let name = &tensor.name;
        let mut values = values(tensor)?.into_iter();
        let given = match tensor.shape.first() {
            Some(&rows) if batched => usize::try_from(rows).unwrap_or(0),
            _ => 1,
        };
        if batched && given != rows {
            return Err(invalid!("input '{name}' has {given} rows for {rows} prompts"));
        }

        let list = LISTS.contains(&name.as_str());
        let per_row = values.len().checked_div(given).unwrap_or(0);
        if per_row == 0 && !list {
            return Err(invalid!("input '{name}' is empty, its shape is {:?}", tensor.shape));
        }
        for map in maps.iter_mut().take(given) {
            let mut row = values.by_ref().take(per_row).collect::<Vec<_>>();
            let value = if list { Value::Array(row) } else { row.swap_remove(0) };
            map.insert(name.clone(), value);
        }
    }
    // Without a batch dimension there is one row for all.
    Ok(maps)
}

/// Inputs that are options of the request take the place of its parameters.
///
/// # Errors
/// InvalidArgument: an input that holds no value.
pub(super) fn take_options(
    tensors: &[Tensor],
    parameters: &mut Vec<(String, Parameter)>,
) -> Result<()> {
    for tensor in tensors.iter().filter(|tensor| OPTIONS.contains(&tensor.name.as_str())) {
        let name = &tensor.name;
        let value = match values(tensor)?.into_iter().next() {
            Some(Value::Bool(flag)) => Parameter::Bool(flag),
            Some(Value::Number(number)) => match number.as_i64() {
                Some(number) => Parameter::Int(number),
                None => Parameter::Text(number.to_string()),
            },
            Some(Value::String(text)) => Parameter::Text(text),
            _ => return Err(invalid!("input '{name}' is empty, its shape is {:?}", tensor.shape)),
        };
        parameters.retain(|(key, _)| key != name);
        parameters.push((name.clone(), value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::triton::sys;

    fn lines(config: Value) -> Vec<String> {
        judge(&config, &Roles::of(&config)).unwrap()
    }

    fn input(name: &str, data_type: &str, optional: bool) -> Value {
        json!({"name": name, "data_type": data_type, "dims": [1], "optional": optional})
    }

    #[test]
    fn what_nobody_reads_is_told() {
        let fine = json!({"input": [input("PROMPT", "TYPE_STRING", false),
            input("STREAM", "TYPE_BOOL", true), input("max_tokens", "TYPE_INT32", true),
            input("temperature", "TYPE_FP32", false), input("priority", "TYPE_INT32", true)],
            "output": [{"name": "TEXT"}, {"name": "finish_reason"}]});
        assert!(lines(fine.clone()).is_empty(), "{:?}", lines(fine));
        let odd = json!({"input": [input("text_input", "TYPE_STRING", false),
            input("prompt", "TYPE_STRING", true), input("max_token", "TYPE_INT32", false),
            input("id", "TYPE_STRING", true), input("return_logprobs", "TYPE_STRING", true),
            input("top_p", "TYPE_FP16", true)],
            "output": [{"name": "text_output"}, {"name": "generated_text"}]});
        let lines = lines(odd);
        for (line, text) in lines.iter().zip([
            "declares the input 'prompt', which nobody reads",
            "declares the input 'max_token', which nobody reads",
            "declares the input 'id', which nobody reads",
            "'return_logprobs' must be TYPE_BOOL, not TYPE_STRING: requests that send it are",
            "'top_p' must be one of TYPE_BOOL, TYPE_UINT8",
            "declares the output 'generated_text', which is never filled",
        ]) {
            assert!(line.contains(text), "{line}");
        }
        assert_eq!(lines.len(), 6, "{lines:?}");
    }

    #[test]
    fn what_would_make_every_request_fail_fails_the_load() {
        for (input, text) in [
            (input("text_input", "TYPE_INT32", true), "'text_input' must be TYPE_STRING"),
            (input("stream", "TYPE_STRING", false), "'stream' must be TYPE_BOOL"),
            (input("image", "TYPE_BOOL", false), "'image' must be TYPE_STRING"),
            (input("top_k", "TYPE_BF16", false), "'top_k' must be one of"),
        ] {
            let config = json!({ "input": [input] });
            let error = judge(&config, &Roles::of(&config)).unwrap_err().to_string();
            assert!(error.contains(text) && error.ends_with("would be refused"), "{error}");
        }
    }

    fn tensor(name: &str, datatype: u32, shape: &[i64], bytes: &[u8]) -> Tensor {
        Tensor { name: name.into(), datatype, shape: shape.to_vec(), bytes: bytes.to_vec() }
    }

    #[test]
    fn rows_have_their_own_values_and_lists_all_of_them() {
        let floats = [0.5f32, 1.5].map(f32::to_le_bytes).concat();
        let temperature = tensor("temperature", sys::TRITONSERVER_TYPE_FP32, &[2, 1], &floats);
        let ids = [1u32, 2, 3, 4].map(u32::to_le_bytes).concat();
        let ids = tensor("stop_token_ids", sys::TRITONSERVER_TYPE_UINT32, &[2, 2], &ids);
        let rows = sampling(&[&temperature, &ids], 2, true).unwrap();
        assert_eq!(json!(rows[0]), json!({"temperature": 0.5, "stop_token_ids": [1, 2]}));
        assert_eq!(json!(rows[1]), json!({"temperature": 1.5, "stop_token_ids": [3, 4]}));
        let rows = sampling(&[&ids], 1, false).unwrap();
        assert_eq!(json!(rows), json!([{"stop_token_ids": [1, 2, 3, 4]}]));
        assert!(sampling(&[&ids], 3, true).is_err());
        let none = tensor("top_k", sys::TRITONSERVER_TYPE_UINT32, &[0], &[]);
        assert!(sampling(&[&none], 1, false).unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn a_priority_is_the_requests() {
        let mut parameters = vec![("priority".to_string(), Parameter::Int(9))];
        let number = tensor("priority", sys::TRITONSERVER_TYPE_UINT32, &[1], &[3, 0, 0, 0]);
        take_options(&[number], &mut parameters).unwrap();
        assert_eq!(parameters, [("priority".to_string(), Parameter::Int(3))]);
    }
}
