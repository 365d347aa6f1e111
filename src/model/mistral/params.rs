//! params.json -> what config.json would hold. Called by `config`, which reads the result as it
//! reads config.json.

use serde_json::{json, Map, Value};

use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};

/// Sizes and lengths at most.
const MAX_COUNT: usize = 1 << 24;
/// Layers that are listed one by one: published models stay below 200.
const MAX_LAYERS: u64 = 4096;

/// What the value of a key is.
enum Kind {
    Count,
    Number,
    Flag,
    Text,
}

/// Keys here and there, and what their values are.
const KEYS: [(&str, &str, Kind); 12] = [
    ("dim", "hidden_size", Kind::Count),
    ("n_layers", "num_hidden_layers", Kind::Count),
    ("n_heads", "num_attention_heads", Kind::Count),
    ("n_kv_heads", "num_key_value_heads", Kind::Count),
    ("head_dim", "head_dim", Kind::Count),
    ("hidden_dim", "intermediate_size", Kind::Count),
    ("vocab_size", "vocab_size", Kind::Count),
    ("norm_eps", "rms_norm_eps", Kind::Number),
    ("rope_theta", "rope_theta", Kind::Number),
    ("tied_embeddings", "tie_word_embeddings", Kind::Flag),
    ("activation", "hidden_act", Kind::Text),
    ("dtype", "dtype", Kind::Text),
];
/// The length of a text, and where no file says one.
const LENGTHS: [&str; 2] = ["max_position_embeddings", "max_seq_len"];
const LENGTH: u64 = 128_000;
const WINDOW: &str = "sliding_window";
const ROPE: &str = "rope_parameters";
const YARN: &str = "yarn";
const QUANTISATION: &str = "quantization";
/// What a language model of this format has no op for, and what it means.
const NOT_READ: [(&str, &str); 2] =
    [("qk_nope_head_dim", "multi-head latent attention"), ("whisper_model_args", "audio")];
const EXPERTS: &str = "moe";
/// Keys of experts here and there; others mean experts of another kind, if they are not 0.
const EXPERT_KEYS: [(&str, &str); 2] =
    [("num_experts", "num_local_experts"), ("num_experts_per_tok", "num_experts_per_tok")];
/// Keys of config.json that params.json speaks for: of the whole, and of a part.
const NOT_TAKEN: [&str; 5] =
    ["architectures", "model_type", "auto_map", "vision_config", "audio_config"];

/// What `params` say, which were read from `path`; keys that they lack as config.json has them, if
/// there is one.
///
/// # Errors
/// InvalidArgument: a value of another type. Unsupported: experts, latent attention, audio, codes
/// of another kind. One line that names file and key.
pub fn config(
    path: &str,
    params: &Map<String, Value>,
    beside: Map<String, Value>,
) -> Result<Map<String, Value>> {
    let own = Object::new(path, params);
    refuse(&own)?;

    let mut config = base(beside);
    config.insert("architectures".into(), json!(["MistralForCausalLM"]));
    config.insert("model_type".into(), json!("mistral"));
    config.insert("hidden_act".into(), json!("silu"));
    config.insert("tie_word_embeddings".into(), json!(false));
    for (key, name, kind) in KEYS {
        if let Some(value) = value(&own, key, &kind)? {
            config.insert(name.into(), value);
        }
    }

    experts(&own, &mut config)?;
    length(&own, &mut config)?;
    window(&own, &mut config)?;
    rope(&own, &mut config)?;
    if let Some(quantised) = quantised(&own)? {
        config.insert("quantization_config".into(), quantised);
    }
    Ok(config)
}

/// # Errors
/// Unsupported: what is not read, with its key.
pub(super) fn refuse(own: &Object) -> Result<()> {
    let multimodal = own.object("multimodal")?;
    let objects = [Some(own), multimodal.as_ref()];
    for (key, what) in NOT_READ {
        let object = objects.iter().flatten().find(|object| object.given(key).is_some());
        if let Some(object) = object {
            return Err(Error::Unsupported(format!(
                "{}: {what} is not read. If the folder holds the model in Hugging Face's format \
                 too, set config_format, load_format and tokenizer_mode to 'hf'.",
                object.name(key)
            )));
        }
    }

    if let Some(experts) = own.object(EXPERTS)? {
        let known = |key: &str| EXPERT_KEYS.iter().any(|(known, _)| *known == key);
        let says = |key: &str| experts.given(key).is_some_and(|value| *value != 0);
        if let Some(other) = experts.keys().find(|key| !known(key) && says(key)) {
            return Err(Error::Unsupported(format!(
                "{}: experts of this kind are not read in Mistral's own format. If the folder \
                 holds the model in Hugging Face's format too, set config_format, load_format and \
                 tokenizer_mode to 'hf'.",
                experts.name(&json::cut(other))
            )));
        }
    }
    match own.text("model_type")? {
        None | Some("transformer") => Ok(()),
        Some(_) => Err(own.wrong("model_type", "transformer")),
    }
}

/// config.json's keys, those of its text model over the others.
fn base(mut beside: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(text)) = beside.remove("text_config") {
        beside.extend(text);
    }
    NOT_TAKEN.iter().for_each(|key| drop(beside.remove(*key)));
    beside
}

fn value(own: &Object, key: &str, kind: &Kind) -> Result<Option<Value>> {
    match kind {
        Kind::Count => drop(own.count(key, MAX_COUNT)?),
        Kind::Number => drop(own.positive(key)?),
        Kind::Flag => drop(own.flag(key)?),
        Kind::Text => drop(own.text(key)?),
    }
    Ok(own.given(key).cloned())
}

/// Mixtral's.
fn experts(own: &Object, config: &mut Map<String, Value>) -> Result<()> {
    let Some(experts) = own.object(EXPERTS)? else { return Ok(()) };
    for (key, name) in EXPERT_KEYS {
        let count = experts.needed(key, "an integer", experts.count(key, MAX_COUNT)?)?;
        config.insert(name.into(), json!(count));
    }
    config.insert("architectures".into(), json!(["MixtralForCausalLM"]));
    config.insert("model_type".into(), json!("mixtral"));
    Ok(())
}

/// The shortest length that is said; without one config.json's.
fn length(own: &Object, config: &mut Map<String, Value>) -> Result<()> {
    const NAME: &str = LENGTHS[0];
    let lengths = LENGTHS.map(|key| own.count(key, MAX_COUNT));
    let mut said = Vec::new();
    for length in lengths {
        said.extend(length?);
    }
    match said.iter().min() {
        Some(length) => drop(config.insert(NAME.into(), json!(length))),
        None => drop(config.entry(NAME).or_insert(json!(LENGTH))),
    }
    Ok(())
}

/// One window for all layers, or a list that repeats, with null for layers without one.
fn window(own: &Object, config: &mut Map<String, Value>) -> Result<()> {
    const TYPES: &str = "layer_types";
    let Some(given) = own.given(WINDOW) else {
        config.entry(WINDOW).or_insert(Value::Null);
        return Ok(());
    };
    let Some(list) = given.as_array() else {
        config.insert(WINDOW.into(), json!(own.count(WINDOW, MAX_COUNT)?));
        config.remove(TYPES);
        return Ok(());
    };

    let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or_default();
    let mut sizes: Vec<&Value> = list.iter().filter(|size| !size.is_null()).collect();
    sizes.dedup();
    let repeats =
        (1..=MAX_LAYERS).contains(&layers) && layers.checked_rem(list.len() as u64) == Some(0);
    let fits = sizes.iter().all(|size| size.as_u64().is_some_and(|n| n > 0)) && sizes.len() <= 1;
    if !repeats || !fits {
        let expected =
            format!("a number, or a list of one size and nulls that {layers} layers repeat");
        return Err(own.wrong(WINDOW, &expected));
    }
    let kind = |size: &Value| if size.is_null() { "full_attention" } else { "sliding_attention" };
    let types = list.iter().cycle().take(layers as usize).map(kind);
    config.insert(TYPES.into(), types.collect());
    config.insert(WINDOW.into(), sizes.first().copied().cloned().unwrap_or_default());
    Ok(())
}

/// `yarn`, and how queries grow with their position.
fn rope(own: &Object, config: &mut Map<String, Value>) -> Result<()> {
    const SCALING: &str = "llama_4_scaling";
    const NUMBERS: [(&str, &str); 4] = [
        ("factor", "factor"),
        ("original_max_position_embeddings", "original_max_position_embeddings"),
        ("beta", "beta_fast"),
        ("alpha", "beta_slow"),
    ];
    if let Some(scaling) = own.object(SCALING)? {
        let original = "original_max_position_embeddings";
        let pair = [scaling.positive("beta")?, scaling.positive(original)?];
        let [Some(beta), Some(original)] = pair else {
            return Err(
                own.wrong(SCALING, "an object with beta and original_max_position_embeddings")
            );
        };
        let scaling = json!({"beta": beta, "original_max_position_embeddings": original});
        config.insert(SCALING.into(), scaling);
    }

    let Some(yarn) = own.object(YARN)? else { return Ok(()) };
    let mut rope = Map::new();
    for (key, name) in NUMBERS {
        if let Some(number) = yarn.positive(key)? {
            rope.insert(name.into(), json!(number));
        }
    }
    const APPLY: &str = "apply_scale";
    if !yarn.flag(APPLY)?.unwrap_or(true) {
        rope.insert("attention_factor".into(), json!(1.0));
    }
    let known = |key: &str| key == APPLY || NUMBERS.iter().any(|(known, _)| *known == key);
    if let Some(other) = yarn.keys().find(|key| !known(key)) {
        return Err(invalid!("{} is no key of yarn that is known.", yarn.name(&json::cut(other))));
    }
    if rope.is_empty() {
        return Ok(());
    }

    rope.insert("rope_type".into(), json!("yarn"));
    if let Some(theta) = config.remove("rope_theta") {
        rope.insert("rope_theta".into(), theta);
    }
    config.remove("rope_scaling");
    config.insert(ROPE.into(), Value::Object(rope));
    Ok(())
}

/// `quantization` as `quantization_config`.
fn quantised(own: &Object) -> Result<Option<Value>> {
    const INPUTS: &str = "qscheme_act";
    const CODES: &str = "qformat_weight";
    const METHOD: &str = "quant_method";
    let Some(quant) = own.object(QUANTISATION)? else { return Ok(None) };
    let method = quant.text(METHOD)?.unwrap_or_default().to_ascii_lowercase().replace('_', "-");
    if method == "compressed-tensors" {
        return Ok(own.given(QUANTISATION).cloned());
    }
    if quant.text(CODES)? != Some("fp8_e4m3") {
        return Err(quant.wrong(CODES, "fp8_e4m3"));
    }
    let scheme = match quant.text(INPUTS)? {
        None | Some("TENSOR") => "static",
        Some("NO_SCALES") => "dynamic",
        Some(_) => return Err(quant.wrong(INPUTS, "TENSOR or NO_SCALES")),
    };
    Ok(Some(json!({"quant_method": "fp8", "activation_scheme": scheme})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(params: Value, beside: Value) -> Result<Value> {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        config("params.json", &object(params), object(beside)).map(Value::Object)
    }

    #[test]
    fn keys_have_their_names() {
        let params = json!({"dim": 32, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
            "hidden_dim": 40, "norm_eps": 1e-5, "vocab_size": 97, "rope_theta": 1e6,
            "max_seq_len": 64, "max_position_embeddings": 128, "vision_encoder": {"dim": 8}});
        let beside = json!({"architectures": ["Mistral3ForConditionalGeneration"],
            "eos_token_id": 7, "text_config": {"hidden_size": 1, "attention_dropout": 0.0}});
        let config = of(params, beside).unwrap();
        let want = json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral",
            "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 40, "rms_norm_eps": 1e-5,
            "vocab_size": 97, "rope_theta": 1e6, "max_position_embeddings": 64,
            "hidden_act": "silu", "tie_word_embeddings": false, "sliding_window": null,
            "attention_dropout": 0.0, "eos_token_id": 7});
        assert_eq!(config, want);
    }

    #[test]
    fn experts_are_mixtrals() {
        let moe = json!({"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 0});
        let config = of(json!({ "moe": moe }), json!({})).unwrap();
        assert_eq!(config["architectures"], json!(["MixtralForCausalLM"]));
        assert_eq!([&config["num_local_experts"], &config["num_experts_per_tok"]], [8, 2]);
        assert_eq!(config["sliding_window"], json!(null));
    }

    #[test]
    fn windows_yarn_scaling_and_codes() {
        let layers = |window: Value| json!({"n_layers": 4, "sliding_window": window});
        let config = of(layers(json!([null, 16])), json!({})).unwrap();
        let [full, sliding] = ["full_attention", "sliding_attention"];
        assert_eq!(config["layer_types"], json!([full, sliding, full, sliding]));
        assert_eq!(config["sliding_window"], 16);
        assert_eq!(of(layers(json!(8)), json!({})).unwrap()["sliding_window"], 8);
        assert_eq!(of(json!({}), json!({})).unwrap()["max_position_embeddings"], 128_000);

        let yarn = json!({"factor": 16, "original_max_position_embeddings": 16384, "beta": 32,
            "alpha": 1, "apply_scale": false});
        let scaling = json!({"original_max_position_embeddings": 16384, "beta": 0.1});
        let params = json!({"rope_theta": 1e6, "yarn": yarn, "llama_4_scaling": scaling});
        let config = of(params, json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
        let want = json!({"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0,
            "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0,
            "original_max_position_embeddings": 16384.0});
        assert_eq!(config["rope_parameters"], want);
        assert_eq!(config["llama_4_scaling"]["beta"], 0.1);
        assert_eq!(config.get("rope_scaling").or(config.get("rope_theta")), None);

        let codes = |inputs: Value| {
            let quantised = json!({"qformat_weight": "fp8_e4m3", "qscheme_act": inputs});
            json!({ "quantization": quantised })
        };
        for (inputs, scheme) in [(json!("NO_SCALES"), "dynamic"), (json!(null), "static")] {
            let want = json!({"quant_method": "fp8", "activation_scheme": scheme});
            assert_eq!(of(codes(inputs), json!({})).unwrap()["quantization_config"], want);
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (params, said) in [
            (json!({"dim": "wide"}), "params.json: 'dim' must be an integer in 1..="),
            (json!({"tied_embeddings": 1}), "'tied_embeddings' must be true or false, got 1."),
            (
                json!({"moe": {"num_experts": 8}}),
                "'moe.num_experts_per_tok' is missing; it must be",
            ),
            (
                json!({"moe": {"num_shared_experts": 1}}),
                "'moe.num_shared_experts': experts of this",
            ),
            (json!({"qk_nope_head_dim": 8}), "'qk_nope_head_dim': multi-head latent attention"),
            (json!({"multimodal": {"whisper_model_args": {}}}), "whisper_model_args': audio"),
            (json!({"model_type": "mamba"}), "'model_type' must be transformer"),
            (json!({"n_layers": 3, "sliding_window": [null, 8]}), "that 3 layers repeat"),
            (json!({"n_layers": 2, "sliding_window": [4, 8]}), "a list of one size and nulls"),
            (json!({"yarn": {"factor": 4, "gamma": 1}}), "'yarn.gamma' is no key of yarn"),
            (json!({"llama_4_scaling": {"beta": 1}}), "'llama_4_scaling' must be an object"),
            (
                json!({"quantization": {"qformat_weight": "int4"}}),
                "qformat_weight' must be fp8_e4m3",
            ),
        ] {
            // One line that names the key.
            let error = of(params, json!({})).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
