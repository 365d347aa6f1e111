//! Requests as clients send them, and what they are refused for.

use super::*;
use crate::triton::config;
use crate::triton::sys;
use serde_json::json;

fn model(config: Value) -> ModelConfig {
    let mut config = config;
    config::complete(&mut config);
    config::read(&config).unwrap()
}

fn text(name: &str, shape: &[i64], elements: &[&str]) -> Tensor {
    let mut bytes = Vec::new();
    for element in elements {
        bytes.extend((element.len() as u32).to_le_bytes());
        bytes.extend(element.as_bytes());
    }
    let (name, shape) = (name.into(), shape.to_vec());
    Tensor { name, datatype: sys::TRITONSERVER_TYPE_BYTES, shape, bytes }
}

fn flag(name: &str, value: bool) -> Tensor {
    let (name, bytes) = (name.into(), vec![u8::from(value)]);
    Tensor { name, datatype: sys::TRITONSERVER_TYPE_BOOL, shape: vec![1], bytes }
}

fn parse_with(
    config: &ModelConfig,
    tensors: &[Tensor],
    parameters: &[(&str, Parameter)],
) -> Result<Parsed> {
    let limits = SamplingLimits::new(100, 20);
    let context = Context {
        name: "m",
        config,
        limits: &limits,
        default_max_tokens: Some(64),
        embeds: tensors.iter().any(|t| t.name == "embeds!"),
        images: tensors.iter().any(|t| t.name == "images!"),
        adapters: None,
    };
    let parameters = parameters.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    parse(&context, tensors, parameters)
}

fn refusal(config: &ModelConfig, tensors: &[Tensor], parameters: &[(&str, Parameter)]) -> String {
    match parse_with(config, tensors, parameters) {
        Ok(parsed) => panic!("accepted: {parsed:?}"),
        Err(error) => error.message().to_string(),
    }
}

#[test]
fn one_prompt_with_request_parameters() {
    let config = model(json!({}));
    let parameters = [
        ("max_tokens", Parameter::Int(7)),
        ("temperature", Parameter::Double(0.5)),
        ("ignore_eos", Parameter::Bool(true)),
        ("top_k", Parameter::Text("5".into())),
        ("id", Parameter::Text("42".into())),
    ];
    let tensors = [text("text_input", &[1], &["hi"]), flag("return_finish_reason", true)];
    let parsed = parse_with(&config, &tensors, &parameters).unwrap();
    let row = &parsed.rows[0];
    assert_eq!((parsed.rows.len(), row.prompt.as_str()), (1, "hi"));
    assert_eq!((row.params.max_tokens, row.params.top_k), (Some(7), 5));
    assert_eq!((row.params.temperature, row.params.ignore_eos), (0.5, true));
    assert!(parsed.echo && !parsed.stream);
    assert_eq!(
        parsed.outputs,
        RequestedOutputs { finish_reason: true, ..RequestedOutputs::default() }
    );
}

#[test]
fn the_tensor_wins_over_request_parameters() {
    let config = model(json!({}));
    let unsaid = [text("text_input", &[1], &["hi"]), text("sampling_parameters", &[1], &["{}"])];
    let parsed = parse_with(&config, &unsaid, &[]).unwrap();
    assert_eq!(parsed.rows[0].params.max_tokens, Some(64), "the operator's default");
    let sampling = text("sampling_parameters", &[1], &[r#"{"max_tokens":"3"}"#]);
    let tensors = [text("text_input", &[1], &["hi"]), sampling];
    let parsed = parse_with(&config, &tensors, &[("bogus", Parameter::Int(1))]).unwrap();
    assert_eq!(parsed.rows[0].params.max_tokens, Some(3));
}

#[test]
fn what_the_client_is_told() {
    let config = model(json!({}));
    let prompt = || text("text_input", &[1], &["hi"]);
    let p = "Error generating stream: ";

    for (tensors, parameters, expected) in [
        (vec![], vec![], format!("{p}input 'text_input' is missing")),
        (
            vec![prompt()],
            vec![("foo", Parameter::Int(1))],
            format!("{p}Unexpected keyword argument 'foo'"),
        ),
        (
            vec![prompt()],
            vec![("top_p", Parameter::Double(2.0))],
            format!("{p}top_p must be in (0, 1], got 2.0."),
        ),
        (
            vec![prompt(), text("image", &[1], &["x"])],
            vec![],
            format!("{p}input 'image': model m takes text only"),
        ),
        (
            vec![text("embedding_request", &[1], &["{}"])],
            vec![],
            format!("{p}Model m does not support 'embed' request"),
        ),
        (
            vec![prompt(), flag("stream", true), flag("exclude_input_in_output", false)],
            vec![],
            format!("{p}When streaming, `exclude_input_in_output` = False is not allowed."),
        ),
        (vec![text("text_input", &[0], &[])], vec![], format!("{p}input 'text_input' is empty")),
        (
            vec![prompt()],
            vec![("lora_name", Parameter::Text("a".into()))],
            "LoRA feature is not enabled.".into(),
        ),
    ] {
        let got = refusal(&config, &tensors, &parameters);
        assert!(got.starts_with(&expected), "expected {expected:?}, got {got:?}");
    }
}

#[test]
fn several_texts_without_a_batch_dimension_are_the_first() {
    let config = model(json!({"input": [{"name": "text_input", "dims": [-1]}]}));
    let parsed = parse_with(&config, &[text("text_input", &[2], &["a", "b"])], &[]).unwrap();
    assert_eq!((parsed.rows.len(), parsed.rows[0].prompt.as_str()), (1, "a"));
}

#[test]
fn each_row_of_a_batch_is_a_generation() {
    let config = model(json!({"max_batch_size": 8}));
    let prompts = || text("text_input", &[2, 1], &["a", "b"]);
    let parsed = parse_with(&config, &[prompts()], &[("max_tokens", Parameter::Int(2))]).unwrap();
    let rows: Vec<_> =
        parsed.rows.iter().map(|r| (r.prompt.as_str(), r.params.max_tokens)).collect();
    assert_eq!(rows, [("a", Some(2)), ("b", Some(2))]);

    let each = [r#"{"max_tokens":1}"#, r#"{"max_tokens":3}"#];
    let sampling = text("sampling_parameters", &[2, 1], &each);
    let parsed = parse_with(&config, &[prompts(), sampling], &[]).unwrap();
    assert_eq!(parsed.rows[1].params.max_tokens, Some(3));

    let three = text("sampling_parameters", &[3, 1], &["{}", "{}", "{}"]);
    let got = refusal(&config, &[prompts(), three], &[]);
    assert!(got.contains("has 3 rows for 2 prompts"), "{got}");
    let got = refusal(&config, &[prompts(), flag("stream", true)], &[]);
    assert!(got.contains("one prompt per request, got a batch of 2"), "{got}");
}

#[test]
fn one_response_only_means_no_stream() {
    let config = model(json!({"model_transaction_policy": {"decoupled": false}}));
    let prompt = text("text_input", &[1], &["a"]);
    let got = refusal(&config, &[prompt, flag("stream", true)], &[]);
    assert!(got.contains("decoupled: false"), "{got}");
}

#[test]
fn the_prompt_stands_before_the_text_as_the_role_says() {
    let tensor = |name: &str| json!({ "name": name });
    let upper =
        model(json!({"input": [tensor("PROMPT"), tensor("STREAM")], "output": [tensor("TEXT")]}));
    let lower = model(json!({"input": [tensor("prompt")], "output": [tensor("response")]}));
    let canonical = model(json!({}));
    for (config, prompt, stream, echo) in [
        (&canonical, "text_input", false, true),
        (&canonical, "text_input", true, false),
        (&upper, "PROMPT", false, true),
        (&upper, "PROMPT", true, true),
        (&lower, "prompt", false, false),
        (&lower, "prompt", true, false),
    ] {
        let tensors = [text(prompt, &[1], &["a"]), flag(config.roles.stream, stream)];
        let parsed = parse_with(config, &tensors, &[]).unwrap();
        assert_eq!((parsed.stream, parsed.echo), (stream, echo), "{prompt}");
    }
}

/// Tensors that lie about their lengths, shapes and types, from a generator that prints its seed:
/// an answer or one line of error, never a panic.
#[test]
fn spoiled_tensors_are_refused() {
    let batched = model(json!({"max_batch_size": 4}));
    let plain = model(json!({}));
    let mut accepted = 0;

    for seed in 0..20_000u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let rows = below(5);
        let shape = [rows as i64, 1];
        let mut tensors = vec![
            text("text_input", &shape[..1 + below(2)], &vec!["hi\u{e9}"; rows]),
            text("sampling_parameters", &shape[..1 + below(2)], &vec!["{\"n\": 1}"; rows]),
            flag("stream", below(2) == 0),
            flag("return_logprobs", true),
        ];
        for _ in 0..below(3) {
            let tensor = &mut tensors[below(4)];
            let at = below(tensor.bytes.len().max(1));
            match below(6) {
                0 => tensor.bytes.truncate(at),
                1 => tensor.bytes.extend([0xff; 3]),
                2 => tensor.bytes.iter_mut().skip(at).take(1).for_each(|b| *b = below(256) as u8),
                3 => tensor.shape = vec![[-1, 0, i64::MAX, 1 << 32][below(4)]; below(4)],
                4 => tensor.shape.clear(),
                _ => tensor.datatype = below(15) as u32,
            }
        }
        tensors.truncate(1 + below(4));
        let config = if below(2) == 0 { &batched } else { &plain };
        match parse_with(config, &tensors, &[]) {
            Ok(parsed) => {
                accepted += 1;
                assert!(!parsed.rows.is_empty() && parsed.rows.len() <= 4, "seed {seed}");
            }
            Err(error) => {
                let text = error.message();
                assert!(!text.contains('\n') && text.len() < 400, "seed {seed}: {text}");
            }
        }
    }
    assert!((1000..19_000).contains(&accepted), "{accepted} accepted");
}

#[test]
fn adapters_are_known_by_name() {
    let config = model(json!({}));
    let limits = SamplingLimits::new(100, 20);
    let names = ["doll".to_string(), "sheep".to_string()];
    let ask = |name: &str| {
        let context = Context {
            name: "m",
            config: &config,
            limits: &limits,
            default_max_tokens: None,
            embeds: false,
            images: false,
            adapters: Some(&names),
        };
        let parameter = ("lora_name".to_string(), Parameter::Text(name.into()));
        parse(&context, &[text("text_input", &[1], &["hi"])], vec![parameter])
    };
    let known = ask("sheep").unwrap();
    assert_eq!(known.rows[0].params.lora_name.as_deref(), Some("sheep"));
    let refused = ask("bactrian").unwrap_err();
    let text = "LoRA bactrian is not supported, we currently support ['doll', 'sheep']";
    assert_eq!(refused.message(), text);
}
