//! The table of model.json: what is taken, coerced, ignored, refused.

use super::*;
use crate::device::Pooling;
use crate::model::pooling::Runner;

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
        "AsyncEngineArgs.__init__() got an unexpected keyword argument 'invalid_attribute'"
    );
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
        (r#"{"max_num_seqs":5000000000}"#, "max_num_seqs is too large: 5000000000"),
        (r#"{"max_num_seqs":1.5}"#, "max_num_seqs: Input should be a valid integer"),
        (r#"{"max_num_seqs":0}"#, "max_num_seqs must be at least 1"),
        (r#"{"block_size":24}"#, "Block size must be a multiple of 16."),
        (r#"{"gpu_memory_utilization":1.5}"#, "gpu_memory_utilization must be in (0, 1], got 1.5"),
        (r#"{"gpu_memory_utilization":0}"#, "gpu_memory_utilization must be in (0, 1], got 0"),
        (r#"{"watermark":1}"#, "watermark must be in [0, 1), got 1"),
        (r#"{"dtype":"int8"}"#, "dtype: got 'int8'"),
        (r#"{"load_format":"gguf"}"#, "load_format: got 'gguf'"),
        (r#"{"kv_cache_dtype":"fp8"}"#, "kv_cache_dtype: got 'fp8'"),
        (r#"{"model":5}"#, "model: Input should be a string, got 5"),
        (r#"{"enforce_eager":"maybe"}"#, "enforce_eager: Input should be a valid boolean"),
        (r#"{"hf_overrides":[1]}"#, "hf_overrides: Input should be an object"),
        (
            r#"{"max_num_batched_tokens":8,"max_num_seqs":16}"#,
            "max_num_batched_tokens (8) must be greater than or equal to max_num_seqs (16).",
        ),
    ] {
        let got = refusal(text);
        assert!(got.starts_with(expected), "{text}: {got}");
    }
}

#[test]
fn keys_without_effect_warn_only_when_they_differ() {
    assert!(warnings(r#"{"trust_remote_code":true,"mm_processor_cache_gb":4}"#).is_empty());
    assert!(warnings(r#"{"compilation_config":{},"moe_backend":"auto","numa_bind":"false"}"#)
        .is_empty());
    assert!(warnings(r#"{"moe_backend":"triton"}"#)[0].contains("'moe_backend' has no effect"));
    assert!(warnings(r#"{"swap_space":4}"#)[0].contains("'swap_space' is no engine argument"));
}

#[test]
fn what_is_not_built_is_refused_unless_it_is_the_default() {
    assert!(
        warnings(r#"{"data_parallel_size":1,"enable_sleep_mode":false,"nnodes":"1"}"#).is_empty()
    );
    assert!(
        refusal(r#"{"data_parallel_size":2}"#).contains("'data_parallel_size': 2 is not supported")
    );
    assert!(refusal(r#"{"quantization":"awq"}"#).contains("quantization 'awq'"));
    assert!(refusal(r#"{"runner":"draft"}"#).contains("runner 'draft'"));
    assert!(refusal(r#"{"convert":"classify"}"#).contains("convert 'classify'"));
    let pooler = |text| refusal(&format!(r#"{{"pooler_config":{text}}}"#));
    assert!(pooler(r#"{"pooling_type":"STEP"}"#).contains("pooler_config.pooling_type 'STEP'"));
    assert!(pooler(r#"{"step_tag_id":3}"#).contains("pooler_config.step_tag_id '3'"));
    assert!(refusal(r#"{"skip_tokenizer_init":true}"#).contains("skip_tokenizer_init"));
    assert!(args(r#"{"model_impl":"vllm"}"#).tokenizer.is_none());
}

#[test]
fn old_keys_find_their_successors() {
    let text = r#"{"rope_theta":5e5,"hf_overrides":{"x":1},"task":"generate","device":"cuda"}"#;
    let a = args(text);
    assert_eq!(a.hf_overrides["rope_theta"], 5e5);
    assert_eq!(a.hf_overrides["x"], 1);
    assert_eq!(a.device, DeviceArg::Auto);
    assert_eq!(args(r#"{"device":"cpu"}"#).device, DeviceArg::Cpu);
    assert_eq!(args(r#"{"task":"embed"}"#).pooler.runner, Runner::Pooling);
    assert_eq!(args(r#"{"task":"embed","runner":"auto"}"#).pooler.runner, Runner::Auto);
    assert!(refusal(r#"{"task":"score"}"#).contains("task 'score'"));
    let a = args(r#"{"override_pooler_config":{"pooling_type":"mean","normalize":false}}"#);
    assert_eq!((a.pooler.kind, a.pooler.normalize), (Some(Pooling::Mean), Some(false)));
    let a = args(r#"{"convert":"embed","pooler_config":{"dimensions":8,"logit_bias":null}}"#);
    assert_eq!((a.pooler.runner, a.pooler.dimensions), (Runner::Pooling, Some(8)));
    assert!(warnings(r#"{"speculative_model":"m"}"#)[0].contains("speculative decoding"));
}

#[test]
fn what_a_key_means_elsewhere() {
    let a = args(
        r#"{"kv_cache_dtype":"bfloat16","disable_sliding_window":true,
                     "generation_config":"/g","dtype":"half"}"#,
    );
    assert_eq!((a.kv_cache_dtype, a.dtype), (Some(DType::BF16), Some(DType::F16)));
    assert_eq!(a.generation_config, GenerationConfig::Folder("/g".into()));
    assert!(a.disable_sliding_window);
    assert_eq!(args(r#"{"kv_cache_dtype":"auto"}"#).kv_cache_dtype, None);
    assert_eq!(args(r#"{"generation_config":"vllm"}"#).generation_config, GenerationConfig::Model);
    assert!(warnings(r#"{"tokenizer_mode":"slow"}"#)[0].contains("fast tokenizer"));
    assert!(warnings(r#"{"tokenizer_mode":"hf"}"#).is_empty());
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
    assert!(message(a.check_parallel(false)).contains("tensor_parallel_size 2"));
    assert!(args("{}").check_parallel(true).is_ok());
}

#[test]
fn a_key_stands_in_one_table() {
    let mut all: Vec<&str> = keys::READ.to_vec();
    all.extend(keys::QUIET);
    all.extend(keys::LEGACY);
    all.extend(keys::IGNORE.iter().chain(keys::REJECT).map(|(name, _)| *name));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    for (name, default) in keys::IGNORE.iter().chain(keys::REJECT) {
        assert!(serde_json::from_str::<Value>(default).is_ok(), "{name}: {default}");
    }
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
