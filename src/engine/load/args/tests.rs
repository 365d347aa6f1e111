//! The table of model.json: what is taken, coerced, ignored, refused.

use serde_json::json;

use super::key::{Class, NEWEST};
use super::*;
use crate::device::Pooling;
use crate::model::config::{Convert, RunnerKind};

fn args(text: &str) -> EngineArgs {
    EngineArgs::parse(text).expect(text).0
}

fn warnings(text: &str) -> Vec<String> {
    EngineArgs::parse(text).expect(text).1
}

fn refusal(text: &str) -> String {
    match EngineArgs::parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(e) => e.message().to_string(),
    }
}

#[test]
fn nothing_given_is_vllms_defaults() {
    let a = args("{}");
    assert_eq!(a.model, "Qwen/Qwen3-0.6B");
    assert_eq!(a.gpu_memory_utilization, 0.92);
    assert_eq!((a.block_size, a.stream_interval, a.seed, a.max_logprobs), (16, 1, 0, 20));
    assert!(a.enable_prefix_caching && a.enable_chunked_prefill && a.scheduler_reserve_full_isl);
    assert_eq!((a.max_model_len, a.max_num_seqs, a.max_num_batched_tokens), (None, None, None));
    assert!(warnings("{}").is_empty());
}

#[test]
fn an_unknown_key_fails_with_vllms_text() {
    assert_eq!(
        refusal(r#"{"model":"m","invalid_attribute":true}"#),
        "AsyncEngineArgs.__init__() got an unexpected keyword argument 'invalid_attribute' (in \
         model.json: remove it)"
    );
    for (typed, meant) in
        [("max_num_seq", "max_num_seqs"), ("enforce-eager", "enforce_eager"), ("modle", "model")]
    {
        let got = EngineArgs::parse_file(&format!(r#"{{"{typed}": 1}}"#), "vllm_engine_args.json");
        let got = got.expect_err(typed).message().to_string();
        let tail = format!("'{typed}' (in vllm_engine_args.json: did you mean '{meant}'?)");
        assert!(got.ends_with(&tail), "{got}");
    }
    assert_eq!(
        EngineArgs::parse_file("{}", "vllm_engine_args.json").unwrap().0.file,
        "vllm_engine_args.json"
    );
    let long = refusal(&format!(r#"{{"{}\n": 1}}"#, "x".repeat(5000)));
    assert!(long.len() < 400 && !long.contains('\n'), "{long}");
}

#[test]
fn no_object_no_load() {
    assert!(refusal("{ not json").starts_with("model.json is not valid JSON: "));
    assert!(refusal("[1]").ends_with("got a list"));
    assert!(refusal("").starts_with("model.json is not valid JSON: "));
}

#[test]
fn strings_mean_what_they_say() {
    let text = r#"{"enforce_eager":"false","disable_log_stats":"False",
                   "gpu_memory_utilization":"0.5","max_num_seqs":"64",
                   "max_model_len":256.0,"enable_prefix_caching":"no"}"#;
    let a = args(text);
    assert!(!a.enforce_eager && !a.disable_log_stats && !a.enable_prefix_caching);
    assert_eq!(
        (a.gpu_memory_utilization, a.max_num_seqs, a.max_model_len),
        (0.5, Some(64), Some(256))
    );
    assert_eq!(warnings(text).len(), 5);
    assert!(
        warnings(r#"{"max_num_seqs":"64"}"#)[0].contains("'max_num_seqs': \"64\" is read as 64")
    );
}

#[test]
fn values_out_of_range_name_the_key() {
    for (text, expected) in [
        (r#"{"max_model_len":"abc"}"#, "max_model_len: Input should be a valid integer"),
        (r#"{"max_model_len":0}"#, "max_model_len must be -1 or in [1, 4294967295], got 0"),
        (r#"{"max_model_len":5000000000}"#, "max_model_len must be -1 or in"),
        // Sizes.
        (r#"{"max_num_seqs":5000000000}"#, "max_num_seqs is too large: 5000000000"),
        (r#"{"max_num_seqs":1.5}"#, "max_num_seqs: Input should be a valid integer"),
        (r#"{"max_num_seqs":0}"#, "max_num_seqs must be at least 1"),
        (r#"{"block_size":24}"#, "Block size must be a multiple of 16."),
        (r#"{"gpu_memory_utilization":1.5}"#, "gpu_memory_utilization must be in (0, 1], got 1.5"),
        (r#"{"gpu_memory_utilization":0}"#, "gpu_memory_utilization must be in (0, 1], got 0"),
        (r#"{"watermark":1}"#, "watermark must be in [0, 1), got 1"),
        // Choices.
        (r#"{"dtype":"int8"}"#, "dtype: got 'int8'"),
        (r#"{"load_format":"tensorizer"}"#, "load_format: got 'tensorizer'"),
        (
            r#"{"kv_cache_dtype":"int8"}"#,
            "Invalid kv_cache_dtype: 'int8'. Valid values are: ['auto', 'float16', 'bfloat16', \
             'fp8', 'fp8_e4m3', 'fp8_e5m2']",
        ),
        (
            r#"{"max_num_seqs":"1k"}"#,
            "max_num_seqs: Input should be a valid integer (unable to parse the string), got \
             \"1k\": write all digits",
        ),
        (
            r#"{"device":"gpu"}"#,
            "device: got 'gpu', expected 'auto', 'cpu' or 'cuda'; did you mean",
        ),
        (r#"{"device":"cuda:1"}"#, "device: got 'cuda:1', expected 'auto', 'cpu' or 'cuda'; did"),
        (r#"{"device":"abacus"}"#, "device: got 'abacus', expected 'auto', 'cpu' or 'cuda'"),
        (r#"{"model":5}"#, "model: Input should be a string, got 5"),
        (r#"{"enforce_eager":"maybe"}"#, "enforce_eager: Input should be a valid boolean"),
        (r#"{"hf_overrides":[1]}"#, "hf_overrides: Input should be an object"),
        (
            r#"{"max_num_batched_tokens":8,"max_num_seqs":16}"#,
            "max_num_batched_tokens (8) must be greater than or equal to max_num_seqs (16).",
        ),
    ] {
        let got = refusal(text);
        assert!(got.starts_with(&format!("model.json: {expected}")), "{text}: {got}");
    }
}

#[test]
fn keys_without_effect_warn_only_when_they_differ() {
    assert!(warnings(r#"{"trust_remote_code":true,"mm_processor_cache_gb":4}"#).is_empty());
    assert!(warnings(r#"{"compilation_config":{},"moe_backend":"auto","numa_bind":"false"}"#)
        .is_empty());
    assert!(warnings(r#"{"moe_backend":"triton"}"#)[0].contains("'moe_backend' has no effect"));
    assert!(
        warnings(r#"{"swap_space":4,"num_scheduler_steps":"1","cuda_graph_sizes":[]}"#).is_empty()
    );
    assert_eq!(
        warnings(r#"{"swap_space":16}"#),
        ["model.json: 'swap_space' has no effect here: 16 is ignored (a key of vLLM 0.1 to 0.17)"]
    );
}

#[test]
fn what_is_not_built_is_refused_unless_it_is_the_default() {
    assert!(
        warnings(r#"{"data_parallel_rank":0,"enable_sleep_mode":false,"nnodes":"1"}"#).is_empty()
    );
    assert!(
        refusal(r#"{"data_parallel_rank":2}"#).contains("'data_parallel_rank': 2 is not supported")
    );
    assert!(refusal(r#"{"runner":"draft"}"#).contains("runner 'draft'"));
    assert!(refusal(r#"{"convert":"reward"}"#).contains("convert 'reward'"));
    assert!(refusal(r#"{"pooler_config":{"nomalize":false}}"#)
        .contains("pooler_config: unknown key 'nomalize': did you mean 'normalize'?"));
    let pooler = |text| refusal(&format!(r#"{{"pooler_config":{text}}}"#));
    assert!(pooler(r#"{"pooling_type":"STEP"}"#).contains("pooler_config.pooling_type 'STEP'"));
    assert!(pooler(r#"{"step_tag_id":3}"#).contains("pooler_config.step_tag_id '3'"));
    assert!(args(r#"{"pooler_config":{"enable_flash_late_interaction":true,"softmax":false}}"#)
        .pooler
        .kind
        .is_none());
    assert!(refusal(r#"{"skip_tokenizer_init":true}"#).contains("skip_tokenizer_init"));
    assert!(args(r#"{"model_impl":"vllm"}"#).tokenizer.is_none());
}

#[test]
fn old_keys_find_their_heirs() {
    let a = args(r#"{"rope_theta":5e5,"hf_overrides":{"x":1},"task":"generate"}"#);
    assert_eq!(a.hf_overrides["rope_theta"], 5e5);
    assert_eq!(a.hf_overrides["x"], 1);
    assert_eq!(args(r#"{"task":"embed"}"#).pooler.runner, RunnerKind::Pooling);
    assert_eq!(args(r#"{"task":"embed","runner":"auto"}"#).pooler.runner, RunnerKind::Auto);
    assert!(refusal(r#"{"task":"reward"}"#).contains("task 'reward'"));
    for task in ["score", "classify"] {
        let pooler = args(&json!({ "task": task }).to_string()).pooler;
        assert_eq!(pooler.runner, RunnerKind::Pooling);
        assert_eq!(pooler.convert, Some(Convert::Classify));
    }
    let calibrated = r#"{"pooler_config":{"logit_bias":2,"logit_sigma":0.5,"softmax":false}}"#;
    let a = args(calibrated).pooler;
    assert_eq!(
        (a.logit_mean, a.logit_sigma, a.use_activation),
        (Some(2.0), Some(0.5), Some(false))
    );

    let a = args(r#"{"override_pooler_config":{"pooling_type":"mean","normalize":false}}"#);
    assert_eq!((a.pooler.kind, a.pooler.use_activation), (Some(Pooling::Mean), Some(false)));
    let a = args(r#"{"convert":"embed","pooler_config":{"dimensions":8,"logit_bias":null}}"#);
    assert_eq!((a.pooler.runner, a.pooler.dimensions), (RunnerKind::Pooling, Some(8)));

    let text = r#"{"rope_scaling":"{\"rope_type\":\"linear\",\"factor\":2.0}"}"#;
    assert_eq!(args(text).hf_overrides["rope_scaling"]["factor"], 2.0);
    assert!(refusal(r#"{"rope_scaling":"linear"}"#).contains("rope_scaling: Input should be an"));
    assert_eq!(args(r#"{"use_dummy_weights":true}"#).load_format, LoadFormat::Dummy);
    assert_eq!(args(r#"{"forced_num_gpu_blocks":7}"#).num_gpu_blocks_override, Some(7));
    let said = warnings(r#"{"speculative_model":"ngram","num_speculative_tokens":5}"#).join("\n");
    let current = "'speculative_model' is out of date: read as 'speculative_config.model'";
    assert!(said.contains(current), "{said}");
    let said = warnings(r#"{"rope_theta":1e4,"hf_overrides":{"rope_theta":5e5}}"#).join("\n");
    assert!(said.contains("'rope_theta' is out of date: ignored, as 'hf_overrides.rope_theta'"));
    assert!(refusal(r#"{"rope_theta":1e4,"hf_overrides":[1]}"#).contains("hf_overrides: Input"));
}

#[test]
fn guided_decoding_is_structured_outputs() {
    let read = |text: &str| args(text).structured_outputs;
    let options = read(r#"{"guided_decoding_disable_any_whitespace":true}"#);
    assert!(options.disable_any_whitespace && !options.disable_additional_properties);
    let options = read(r#"{"guided_decoding_disable_additional_properties":"true"}"#);
    assert!(options.disable_additional_properties);
    let text = r#"{"guided_decoding_backend":"xgrammar:no-fallback,disable-any-whitespace"}"#;
    assert!(read(text).disable_any_whitespace);
    for quiet in ["outlines", "xgrammar", "auto"] {
        assert!(warnings(&format!(r#"{{"guided_decoding_backend":"{quiet}"}}"#)).is_empty());
    }
    assert!(refusal(r#"{"guided_decoding_backend":"regexes"}"#)
        .contains("structured_outputs_config.backend: got 'regexes'"));
    assert!(refusal(r#"{"guided_decoding_backend":"xgrammar:fast"}"#).contains("option 'fast'"));
    assert!(refusal(r#"{"structured_outputs_config":{"disable_any_whitespaces":true}}"#).contains(
        "structured_outputs_config: unknown key 'disable_any_whitespaces': did you mean \
         'disable_any_whitespace'?"
    ));
}

/// Each key at each value that vLLM ever had as its default.
#[test]
fn neutral_values_of_every_age_say_nothing() {
    for key in table::KEYS {
        let neutral: Vec<Value> = serde_json::from_str(key.neutral).expect(key.name);
        for value in neutral.iter().chain([&Value::Null]) {
            let text = json!({ key.name: value }).to_string();
            assert!(warnings(&text).is_empty(), "{text}: {:?}", warnings(&text));
        }
    }
}

/// A key of a class that speaks does so for a value that no version takes for its default.
#[test]
fn other_values_are_told_or_refused_by_name() {
    for key in table::KEYS {
        let text = json!({ key.name: "7919" }).to_string();
        let parsed = EngineArgs::parse(&text);
        let named = match (key.class, &parsed) {
            (Class::Read | Class::Silent, _) => continue,
            (Class::NoEffect | Class::Renamed(_), Ok((_, warnings))) => warnings.join("\n"),
            (Class::Refused | Class::Renamed(_), Err(error)) => error.message().to_string(),
            (_, outcome) => panic!("{text}: {outcome:?}"),
        };
        let current = match key.class {
            Class::Renamed(current) => current,
            _ => key.name,
        };
        assert!(named.contains(key.name) || named.contains(current), "{text}: {named}");
    }
}

#[test]
fn the_table_is_sorted_and_its_columns_make_sense() {
    for pair in table::KEYS.windows(2) {
        assert!(pair[0].name < pair[1].name, "{} {}", pair[0].name, pair[1].name);
    }
    for key in table::KEYS {
        assert!(serde_json::from_str::<Vec<Value>>(key.neutral).is_ok(), "{}", key.name);
        assert!(1 <= key.since && key.since <= key.until && key.until <= NEWEST, "{}", key.name);
        if let Class::Renamed(current) = key.class {
            let outer = current.split('.').next().unwrap_or(current);
            let outer = table::KEYS.iter().find(|other| other.name == outer).expect(current);
            assert_eq!(outer.class, Class::Read, "{current}");
        }
    }
}

/// What two deployments wrote, for vLLM 0.2 and 0.6.
#[test]
fn case_06_files_of_other_ages_load() {
    let handler = r#"{"engine_use_ray": false, "enforce_eager": false, "max_num_seqs": 64,
        "gpu_memory_utilization": 0.8, "dtype": "float16"}"#;
    assert!(warnings(handler).is_empty(), "{:?}", warnings(handler));
    let worker = r#"{"disable_log_stats": false, "enable_log_requests": false,
        "skip_tokenizer_init": false, "quantization_param_path": null, "swap_space": 4,
        "cpu_offload_gb": 0, "max_seq_len_to_capture": 8192, "enable_prompt_adapter": false,
        "max_prompt_adapters": 1, "max_prompt_adapter_token": 0, "fully_sharded_loras": false,
        "lora_dtype": "auto", "device": "auto", "ray_workers_use_nsight": false,
        "scheduler_delay_factor": 0.0, "guided_decoding_backend": "outlines",
        "enable_expert_parallel": false, "qlora_adapter_name_or_path": null,
        "async_scheduling": false, "max_num_seqs": 256, "max_model_len": 2048}"#;
    assert!(warnings(worker).is_empty(), "{:?}", warnings(worker));
    assert!(refusal(r#"{"enable_prompt_adapter": true}"#).contains("'enable_prompt_adapter'"));
    assert!(warnings(r#"{"disable_log_requests": "true"}"#).is_empty());
}

#[test]
fn limits_of_newer_releases() {
    let limits = args(
        r#"{"max_num_queued_reqs": 0, "max_num_queued_tokens": "4096", "max_num_batched_tokens": 64,
            "max_num_scheduled_tokens": 64, "max_num_active_seqs": 2, "max_num_seqs": 4,
            "long_prefill_token_threshold_adaptive": true}"#,
    )
    .limits;
    assert_eq!(limits.max_num_queued_reqs, Some(0));
    assert_eq!(limits.max_num_queued_tokens, Some(4096));
    assert_eq!((limits.max_num_scheduled_tokens, limits.max_num_active_seqs), (Some(64), Some(2)));
    assert_eq!(limits.long_prefill_adaptive, Some(true));
    assert_eq!(args("{}").limits, LimitArgs::default());
    for (text, expected) in [
        (r#"{"max_num_active_seqs": 5, "max_num_seqs": 4}"#, "max_num_active_seqs (5) cannot be"),
        (r#"{"max_num_scheduled_tokens": 0}"#, "max_num_scheduled_tokens must be at least 1"),
        (r#"{"max_num_queued_reqs": -1}"#, "max_num_queued_reqs must be at least 0"),
        (r#"{"prefix_match_unit": 5}"#, "block_size (16) must be a multiple of prefix_match_unit"),
    ] {
        assert!(refusal(text).contains(expected), "{text}: {}", refusal(text));
    }
    assert!(warnings(r#"{"prefix_match_unit": 16}"#).is_empty());
    assert!(warnings(r#"{"prefix_match_unit": 4}"#)[0].contains("'prefix_match_unit' has no"));
}

#[test]
fn what_operators_set() {
    let read = |text: &str| args(text).operation;
    assert_eq!(read("{}"), OperationArgs::default());
    assert_eq!(read(r#"{"log_level": "warning"}"#).log_level, Some(tracing::Level::WARN));
    let both = r#"{"log_level": "ERROR", "logging_config": {"log_level": "DEBUG"}}"#;
    assert_eq!(read(both).log_level, Some(tracing::Level::ERROR));
    let inner = r#"{"logging_config": "{\"log_level\": \"DEBUG\"}"}"#;
    assert_eq!(read(inner).log_level, Some(tracing::Level::DEBUG));
    assert!(refusal(r#"{"log_level": "LOUD"}"#).contains("log_level: got 'LOUD', expected one of"));
    assert!(refusal(r#"{"logging_config": {"loglevel": "INFO"}}"#)
        .contains("logging_config: unknown key 'loglevel': did you mean 'log_level'?"));
    assert!(warnings(r#"{"logging_config": {"formatter": "json"}}"#)[0].contains("formatter has"));
    assert!(warnings(r#"{"log_config_file": "/l.json"}"#)[0].contains("'log_config_file' has no"));

    let seconds = |text: &str| read(text).step_timeout.map(|limit| limit.as_secs());
    assert_eq!(seconds(r#"{"watchdog_config": {"timeout": 7}}"#), Some(7));
    assert_eq!(seconds(r#"{"watchdog_config": {"dump_dir": "/d"}}"#), Some(300));
    assert_eq!(seconds(r#"{"watchdog_config": {}}"#), None);
    assert!(warnings(r#"{"watchdog_config": {"dump_dir": "/d"}}"#)[0].contains("dump_dir has no"));
    assert!(refusal(r#"{"watchdog_config": {"timeout": 0}}"#).contains("watchdog_config.timeout"));

    let text =
        r#"{"custom_histogram_buckets": {"request_latency": [0.5, 1], "request_tokens": [8]}}"#;
    let buckets = read(text).buckets;
    assert_eq!(buckets.of("request_latency", &[9.0]), [0.5, 1.0]);
    assert_eq!(buckets.of("time_to_first_token", &[9.0]), [9.0]);
    for bad in ["[]", "[1, 1]", "[0]", "[true]", "{}", "[\"1\"]"] {
        let text = format!(r#"{{"custom_histogram_buckets": {{"request_latency": {bad}}}}}"#);
        assert!(refusal(&text).contains("custom_histogram_buckets.request_latency"), "{text}");
    }
    assert!(refusal(r#"{"custom_histogram_buckets": {"request_latenzy": [1]}}"#)
        .contains("unknown family 'request_latenzy': did you mean 'request_latency'?"));
    assert!(warnings(r#"{"custom_histogram_buckets": {"kv_cache_residency": [1]}}"#)[0]
        .contains("kv_cache_residency has no effect here"));
}

#[test]
fn devices() {
    assert_eq!(args("{}").device, DeviceArg::Auto);
    assert_eq!(args(r#"{"device":"auto"}"#).device, DeviceArg::Auto);
    assert_eq!(args(r#"{"device":"cpu"}"#).device, DeviceArg::Cpu);
    assert_eq!(args(r#"{"device":"cuda"}"#).device, DeviceArg::Cuda);
    assert!(refusal(r#"{"device":"gpu"}"#).ends_with("did you mean 'cuda'?"));
}

#[test]
fn what_a_key_means_elsewhere() {
    let a = args(
        r#"{"kv_cache_dtype":"bfloat16","disable_sliding_window":true,
                     "generation_config":"/g","dtype":"half"}"#,
    );
    assert_eq!((a.kv_cache_dtype, a.dtype), (Some(KvType::BF16), Some(DType::F16)));
    assert_eq!(a.generation_config, GenerationConfig::Folder("/g".into()));
    assert!(a.disable_sliding_window);
    for (name, kv) in [
        ("auto", None),
        ("fp8", Some(KvType::E4m3)),
        ("fp8_e4m3", Some(KvType::E4m3)),
        ("fp8_e5m2", Some(KvType::E5m2)),
    ] {
        assert_eq!(args(&format!(r#"{{"kv_cache_dtype":"{name}"}}"#)).kv_cache_dtype, kv, "{name}");
    }
    assert_eq!(args(r#"{"generation_config":"vllm"}"#).generation_config, GenerationConfig::Model);
    assert!(warnings(r#"{"tokenizer_mode":"slow"}"#)[0].contains("fast tokenizer"));
    assert!(warnings(r#"{"tokenizer_mode":"hf"}"#).is_empty());
}

/// Which methods there are is known to the model, which also sees the checkpoint.
#[test]
fn quantization_is_written_in_any_case() {
    let any_case = args(r#"{"quantization": "FP8_Per_Tensor"}"#);
    assert_eq!(any_case.quantization.unwrap(), "fp8_per_tensor");
    for none in [r#"{"quantization": null}"#, r#"{"quantization": ""}"#, "{}"] {
        assert_eq!(args(none).quantization, None, "{none}");
        assert!(warnings(none).is_empty());
    }
    let said = refusal(r#"{"quantization": 8}"#);
    assert_eq!(said, "model.json: quantization: Input should be a string, got 8");
}

#[test]
fn minus_one_fits_the_length_to_memory() {
    let a = args(r#"{"max_model_len":-1}"#);
    assert_eq!((a.max_model_len, a.fit_max_model_len), (None, true));
}

#[test]
fn several_gpus_are_refused_by_kind() {
    let a = args(r#"{"tensor_parallel_size":"2"}"#);
    let message = |r: Result<()>| r.expect_err("two GPUs").message().to_string();
    assert!(
        message(a.check_parallel(true)).starts_with("KIND_GPU is currently for single-GPU models")
    );
    assert!(a.check_parallel(false).is_ok());
    assert!(args("{}").check_parallel(true).is_ok());
    let several = args(r#"{"data_parallel_size":2}"#);
    assert!(message(several.check_parallel(true)).starts_with("KIND_GPU is currently for"));
    assert!(several.check_parallel(false).is_ok());
    assert!(
        refusal(r#"{"data_parallel_size":65}"#).contains("data_parallel_size is 65, at most 64")
    );
    assert!(refusal(r#"{"data_parallel_size":0}"#).contains("data_parallel_size"));

    assert!(a.check_ranks().is_ok() && args("{}").check_ranks().is_ok());
    let stages = args(r#"{"pipeline_parallel_size":2}"#);
    assert!(message(stages.check_ranks()).contains("pipeline_parallel_size 2"));
}

#[test]
fn the_hub_keys() {
    let token = |text: &str| args(text).hf_token;
    assert_eq!(token("{}"), Token::Environment);
    assert_eq!(token(r#"{"hf_token": true}"#), Token::Environment);
    assert_eq!(token(r#"{"hf_token": false}"#), Token::None);
    assert_eq!(token(r#"{"hf_token": "hf_x"}"#), Token::Given("hf_x".into()));
    assert!(!format!("{:?}", args(r#"{"hf_token": "hf_x"}"#)).contains("hf_x"));
    assert!(refusal(r#"{"hf_token": 3}"#).contains("hf_token"));
    let ignore = |text: &str| args(text).ignore_patterns;
    assert_eq!(ignore("{}"), ["original/**/*"]);
    assert_eq!(ignore(r#"{"ignore_patterns": "*.bin"}"#), ["*.bin"]);
    assert_eq!(ignore(r#"{"ignore_patterns": ["a", "b"]}"#), ["a", "b"]);
    assert!(refusal(r#"{"ignore_patterns": [1]}"#).contains("ignore_patterns"));
    assert_eq!(args(r#"{"load_format": "pt"}"#).load_format, LoadFormat::Torch);
    assert_eq!(args(r#"{"load_format": "gguf"}"#).load_format, LoadFormat::Gguf);
}

#[test]
fn lora_keys_count_where_lora_is_on() {
    let (off, _) = EngineArgs::parse(r#"{"max_loras": 0, "max_lora_rank": 7}"#).unwrap();
    assert_eq!(off.lora, None, "they say nothing without enable_lora");
    let (args, _) = EngineArgs::parse(r#"{"enable_lora": "true", "max_lora_rank": 8}"#).unwrap();
    let lora = args.lora.unwrap();
    assert_eq!((lora.max_loras, lora.max_cpu_loras, lora.max_lora_rank), (1, 1, 8));
    let all = r#"{"enable_lora": true, "max_loras": 4, "max_cpu_loras": "9",
        "lora_dtype": "bfloat16", "lora_target_modules": ["q_proj"], "fully_sharded_loras": true}"#;
    let lora = EngineArgs::parse(all).unwrap().0.lora.unwrap();
    assert_eq!((lora.max_loras, lora.max_cpu_loras, lora.max_lora_rank), (4, 9, 16));
    assert_eq!(lora.lora_dtype, Some(DType::BF16));
    assert_eq!(lora.lora_target_modules, Some(vec!["q_proj".to_string()]));
    for (keys, text) in [
        (r#""max_lora_rank": 7"#, "max_lora_rank must be one of 1, 8, 16, 32, 64, 128, 256"),
        (r#""max_loras": 0"#, "max_loras"),
        (r#""max_loras": 4, "max_cpu_loras": 3"#, "max_cpu_loras (3) must be >= max_loras (4)."),
        (r#""lora_dtype": "int4""#, "lora_dtype"),
        (r#""lora_target_modules": "q_proj""#, "lora_target_modules"),
    ] {
        let got = refusal(&format!(r#"{{"enable_lora": true, {keys}}}"#));
        assert!(got.contains(text), "{keys}: {got}");
    }
}
