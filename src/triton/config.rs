//! config.pbtxt: what a short one is completed to, and what we read of it. JSON in, JSON out.
//! Called by
//! `model` at load. It never calls the server.

use serde_json::{json, Value};

use super::roles::{declares, Roles};
use crate::error::{nearest, Result};
use crate::invalid;
use crate::json::cut;

/// Name, type, dimensions, required.
pub(super) type TensorRow = (&'static str, &'static str, i64, bool);

const INPUTS: [TensorRow; 11] = [
    ("text_input", "TYPE_STRING", 1, true),
    ("image", "TYPE_STRING", -1, false),
    ("stream", "TYPE_BOOL", 1, false),
    ("sampling_parameters", "TYPE_STRING", 1, false),
    ("exclude_input_in_output", "TYPE_BOOL", 1, false),
    ("return_finish_reason", "TYPE_BOOL", 1, false),
    ("return_cumulative_logprob", "TYPE_BOOL", 1, false),
    ("return_logprobs", "TYPE_BOOL", 1, false),
    ("return_num_input_tokens", "TYPE_BOOL", 1, false),
    ("return_num_output_tokens", "TYPE_BOOL", 1, false),
    ("embedding_request", "TYPE_STRING", 1, false),
];

pub(super) const OUTPUTS: [TensorRow; 6] = [
    ("text_output", "TYPE_STRING", -1, false),
    ("finish_reason", "TYPE_STRING", -1, false),
    ("cumulative_logprob", "TYPE_FP32", -1, false),
    ("logprobs", "TYPE_STRING", -1, false),
    ("num_input_tokens", "TYPE_UINT32", 1, false),
    ("num_output_tokens", "TYPE_UINT32", -1, false),
];

/// The type of the canonical input of this name.
pub(super) fn tensor_type(input: &str) -> Option<&'static str> {
    INPUTS.iter().find(|(name, ..)| *name == input).map(|(_, data_type, ..)| *data_type)
}

const HEALTH_CHECK: &str = "ENABLE_VLLM_HEALTH_CHECK";
const REPORT_METRICS: &str = "REPORT_CUSTOM_METRICS";
/// As TensorRT-LLM's backend spells it.
const GPU_DEVICE_IDS: &str = "gpu_device_ids";

/// What we need of a model's config.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelConfig {
    pub roles: Roles,
    /// Several responses per request. False: exactly one, and streaming is refused.
    pub decoupled: bool,
    /// 0 = tensors have no batch dimension.
    pub max_batch_size: u64,
    /// Parameter ENABLE_VLLM_HEALTH_CHECK: unload at the next request after the engine died.
    pub health_check: bool,
    /// Parameter REPORT_CUSTOM_METRICS.
    pub report_metrics: bool,
    /// Parameter gpu_device_ids: the GPUs of each instance, by their numbers among the visible
    /// ones. Empty: it is not there.
    pub gpu_device_ids: Vec<Vec<u32>>,
    /// `model_warmup`: requests that the server sends to each instance before any client does.
    pub warm_up_requests: u64,
}

/// Add the tensors and the policy that a short config.pbtxt leaves out. A tensor is not added where
/// another name plays its part; `max_batch_size` stays, whatever it is; `decoupled: false` stays
/// too.
pub(super) fn complete(config: &mut Value) {
    let roles = Roles::of(config);
    for (list, rows) in [("input", &INPUTS[..]), ("output", &OUTPUTS[..])] {
        let missing: Vec<Value> = rows
            .iter()
            .filter(|(name, ..)| !roles.replaces(name) && !declares(config, list, name))
            .map(|row| tensor(list, row))
            .collect();
        match config[list].as_array_mut() {
            Some(declared) => declared.extend(missing),
            None => config[list] = Value::Array(missing),
        }
    }
    if config["model_transaction_policy"].is_null() {
        config["model_transaction_policy"] = json!({ "decoupled": true });
    }
}

fn tensor(list: &str, &(name, data_type, dim, required): &TensorRow) -> Value {
    let mut tensor = json!({ "name": name, "data_type": data_type, "dims": [dim] });
    if list == "input" {
        tensor["optional"] = Value::Bool(!required);
    }
    tensor
}

/// Read a config, completed or not.
///
/// # Errors
/// InvalidArgument: `gpu_device_ids` does not list GPUs.
pub(super) fn read(config: &Value) -> Result<ModelConfig> {
    Ok(ModelConfig {
        roles: Roles::of(config),
        decoupled: config["model_transaction_policy"]["decoupled"] == true,
        max_batch_size: number(&config["max_batch_size"]),
        health_check: parameter(config, HEALTH_CHECK),
        report_metrics: parameter(config, REPORT_METRICS),
        gpu_device_ids: gpu_device_ids(config)?,
        warm_up_requests: warm_up_requests(config),
    })
}

/// The server writes 64-bit integers as text in some versions. 0: there is none.
fn number(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.parse().unwrap_or(0),
        number => number.as_u64().unwrap_or(0),
    }
}

/// A sample is `batch_size` requests, none for 0, and is run `count` times, once for 0.
fn warm_up_requests(config: &Value) -> u64 {
    let requests = |sample: &Value| {
        number(&sample["batch_size"]).saturating_mul(number(&sample["count"]).max(1))
    };
    let samples = config["model_warmup"].as_array().map(Vec::as_slice).unwrap_or_default();
    samples.iter().map(requests).fold(0, u64::saturating_add)
}

/// `parameters: { key: "…" value: { string_value: "true" } }`, any case.
fn parameter(config: &Value, key: &str) -> bool {
    text_of(config, key).eq_ignore_ascii_case("true")
}

fn text_of<'a>(config: &'a Value, key: &str) -> &'a str {
    config["parameters"][key]["string_value"].as_str().unwrap_or_default()
}

/// `"0,1;2,3"`: a list for each instance.
fn gpu_device_ids(config: &Value) -> Result<Vec<Vec<u32>>> {
    let text = text_of(config, GPU_DEVICE_IDS);
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let id = |id: &str| {
        id.trim().parse().map_err(|_| {
            invalid!(
                "parameter {GPU_DEVICE_IDS} in config.pbtxt must list GPUs by number, with commas, \
                 and semicolons between instances, as in \"0,1;2,3\", got '{}'",
                cut(text)
            )
        })
    };
    text.split(';').map(|list| list.split(',').map(id).collect()).collect()
}

/// A line for each parameter that is almost one of ours, or is one and neither true nor false.
pub(super) fn unknown_keys(config: &Value) -> Vec<String> {
    let ours = [HEALTH_CHECK, REPORT_METRICS, GPU_DEVICE_IDS];
    let line = |(key, value): (&String, &Value)| {
        let key = key.as_str();
        if !ours.contains(&key) {
            let known = nearest(key, ours)?;
            return Some(format!("parameter '{key}' has no effect: did you mean '{known}'?"));
        }
        if key == GPU_DEVICE_IDS {
            return None;
        }
        let value = value["string_value"].as_str().unwrap_or_default();
        let plain = ["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word));
        (!plain).then(|| format!("parameter {key} is '{value}', which is read as false"))
    };
    let parameters = config["parameters"].as_object();
    parameters.into_iter().flatten().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::triton::roles::TextStyle;

    /// Names, types, dimensions and "optional" of a list, as one line each.
    fn lines(config: &Value, list: &str) -> Vec<String> {
        let tensors = config[list].as_array().expect("a list");
        let line = |t: &Value| {
            let optional = if t["optional"] == true { " optional" } else { "" };
            format!("{} {} {}{optional}", t["name"], t["data_type"], t["dims"])
        };
        tensors.iter().map(line).collect()
    }

    #[test]
    fn one_line_is_completed_as_the_python_backend_does() {
        let mut config = json!({"name": "m", "backend": "vllm", "max_batch_size": 0,
                                "input": [], "output": []});
        complete(&mut config);
        assert_eq!(
            lines(&config, "input"),
            [
                r#""text_input" "TYPE_STRING" [1]"#,
                r#""image" "TYPE_STRING" [-1] optional"#,
                r#""stream" "TYPE_BOOL" [1] optional"#,
                r#""sampling_parameters" "TYPE_STRING" [1] optional"#,
                r#""exclude_input_in_output" "TYPE_BOOL" [1] optional"#,
                r#""return_finish_reason" "TYPE_BOOL" [1] optional"#,
                r#""return_cumulative_logprob" "TYPE_BOOL" [1] optional"#,
                r#""return_logprobs" "TYPE_BOOL" [1] optional"#,
                r#""return_num_input_tokens" "TYPE_BOOL" [1] optional"#,
                r#""return_num_output_tokens" "TYPE_BOOL" [1] optional"#,
                r#""embedding_request" "TYPE_STRING" [1] optional"#,
            ]
        );

        assert_eq!(
            lines(&config, "output"),
            [
                r#""text_output" "TYPE_STRING" [-1]"#,
                r#""finish_reason" "TYPE_STRING" [-1]"#,
                r#""cumulative_logprob" "TYPE_FP32" [-1]"#,
                r#""logprobs" "TYPE_STRING" [-1]"#,
                r#""num_input_tokens" "TYPE_UINT32" [1]"#,
                r#""num_output_tokens" "TYPE_UINT32" [-1]"#,
            ]
        );
        let read = read(&config).unwrap();
        assert!(read.decoupled && read.max_batch_size == 0);
        assert!(!read.health_check && !read.report_metrics);
    }

    #[test]
    fn what_is_declared_stays() {
        let mut config = json!({"max_batch_size": 256,
            "input": [{"name": "zzz", "data_type": "TYPE_INT32", "dims": [1]},
                      {"name": "text_input", "data_type": "TYPE_STRING", "dims": [-1]}],
            "output": [{"name": "yyy", "data_type": "TYPE_INT32", "dims": [1]}],
            "model_transaction_policy": {"decoupled": false}});
        complete(&mut config);
        assert_eq!(lines(&config, "input").len(), 12);
        assert_eq!(lines(&config, "input")[1], r#""text_input" "TYPE_STRING" [-1]"#);
        assert_eq!(lines(&config, "output").len(), 7);
        let read = read(&config).unwrap();
        assert!(!read.decoupled);
        assert_eq!(read.max_batch_size, 256);
        let once = config.clone();
        complete(&mut config);
        assert_eq!(config, once, "completing twice changes nothing");
    }

    #[test]
    fn other_names_take_the_canonical_part() {
        let tensor = |name: &str| json!({"name": name, "data_type": "TYPE_STRING", "dims": [1]});
        let mut config = json!({"input": [tensor("PROMPT"), tensor("STREAM")],
                                "output": [tensor("TEXT")]});
        complete(&mut config);
        for (list, absent) in
            [("input", "text_input"), ("input", "stream"), ("output", "text_output")]
        {
            assert!(!declares(&config, list, absent), "{absent}");
        }
        assert!(declares(&config, "input", "sampling_parameters"));
        assert!(declares(&config, "output", "finish_reason"));
        let roles = read(&config).unwrap().roles;
        assert_eq!((roles.text, roles.stream), ("PROMPT", "STREAM"));
        assert_eq!(roles.sampling, "sampling_parameters");
        assert_eq!((roles.output, roles.style), (c"TEXT" as &CStr, TextStyle::RunningTotal));

        let mut config = json!({"input": [tensor("prompt")], "output": [tensor("response")]});
        complete(&mut config);
        let roles = read(&config).unwrap().roles;
        assert_eq!((roles.text, roles.style), ("prompt", TextStyle::NewOnly));
        assert!(!declares(&config, "input", "text_input"));
    }

    #[test]
    fn parameters_that_are_almost_ours_are_told() {
        let text = |value: &str| json!({ "string_value": value });
        let config = json!({"parameters": {"REPORT_CUSTOM_METRIC": text("true"),
            "enable_vllm_health_check": text("true"), "REPORT_CUSTOM_METRICS": text("yes"),
            "ENABLE_VLLM_HEALTH_CHECK": text("False"), "colour": text("red")}});
        assert_eq!(
            unknown_keys(&config),
            [
                "parameter 'REPORT_CUSTOM_METRIC' has no effect: did you mean \
                 'REPORT_CUSTOM_METRICS'?",
                "parameter 'enable_vllm_health_check' has no effect: did you mean \
                 'ENABLE_VLLM_HEALTH_CHECK'?",
                "parameter REPORT_CUSTOM_METRICS is 'yes', which is read as false",
            ]
        );
        assert!(unknown_keys(&json!({})).is_empty());
    }

    #[test]
    fn parameters_are_true_in_any_case() {
        let config = json!({"parameters": {"REPORT_CUSTOM_METRICS": {"string_value": "True"},
                                           "ENABLE_VLLM_HEALTH_CHECK": {"string_value": "no"}}});
        let read = read(&config).unwrap();
        assert!(read.report_metrics && !read.health_check);
        assert!(!read.decoupled, "without completion and without a policy");
    }

    #[test]
    fn requests_of_a_warm_up_are_counted_as_the_server_does() {
        let requests = |samples: Value| {
            read(&json!({ "model_warmup": samples })).map(|config| config.warm_up_requests).unwrap()
        };
        assert_eq!(requests(Value::Null), 0);
        assert_eq!(requests(json!([{"batch_size": 1, "count": 0}, {"batch_size": 3}])), 4);
        assert_eq!(requests(json!([{"batch_size": 2, "count": "5"}, {"batch_size": 0}])), 10);
    }

    #[test]
    fn gpus_are_listed_by_instance() {
        let read = |text: &str| {
            read(&json!({"parameters": {"gpu_device_ids": {"string_value": text}}}))
                .map(|config| config.gpu_device_ids)
        };
        assert_eq!(read("0,1;2,3").unwrap(), [[0, 1], [2, 3]]);
        assert_eq!(read(" 7 ").unwrap(), [[7]]);
        assert!(read("").unwrap().is_empty());
        for bad in ["0,,1", "a", "-1", "0;", "99999999999", ";"] {
            let error = read(bad).unwrap_err();
            assert!(error.message().contains("gpu_device_ids in config.pbtxt"), "{error}");
        }
        assert!(unknown_keys(&json!({"parameters": {"gpu_device_ids": {"string_value": "0"}}}))
            .is_empty());
    }
}
