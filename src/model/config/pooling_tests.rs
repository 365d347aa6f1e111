//! Files of sentence-transformers as they are found on the hub, and spoiled ones; which models
//! embed, which classify, and what of a vector a request may ask for.

use serde_json::json;

use super::*;
use std::path::Path;

fn folder(name: &str, files: &[(&str, Value)]) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("pooling-{name}-{}", std::process::id()));
    for (path, value) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    }
    dir
}

fn module(kind: &str, path: &str) -> Value {
    let kind = format!("sentence_transformers.models.{kind}");
    json!({"idx": 0, "name": "0", "path": path, "type": kind})
}

fn rule(config: Value) -> VectorRule {
    let config = Object::new("config.json", config.as_object().unwrap());
    VectorRule::new(&config, &PoolerOptions::default(), true, 6).unwrap()
}

fn made(
    name: &str,
    options: &PoolerOptions,
    files: &SideFiles,
) -> crate::error::Result<Option<PoolingRule>> {
    let config = json!({"architectures": [name], "hidden_size": 6});
    let config = Object::new("config.json", config.as_object().unwrap());
    let family = architectures::find(name).unwrap();
    PoolingRule::of(&config, family, options, files, 6)
}

#[test]
fn files_of_minilm() {
    let modes = json!({"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
        "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false});
    let list =
        [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2")];
    let dir = folder(
        "minilm",
        &[
            ("modules.json", json!(list)),
            ("1_Pooling/config.json", modes),
            ("sentence_bert_config.json", json!({"max_seq_length": 256, "do_lower_case": false})),
            ("tokenizer_config.json", json!({"model_max_length": 512})),
        ],
    );
    let want = SideFiles {
        pooling: Some((Pooling::Mean, true)),
        dense: Vec::new(),
        max_seq_length: Some(256),
        lowercase: false,
        tokenizer_max_length: Some(512),
    };
    assert_eq!(SideFiles::read(&dir), Ok(want));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_is_not_built_is_named() {
    let pooling = |modes: Value| ("1_Pooling/config.json", modes);
    let with = |kind: &str| json!([module("Pooling", "1_Pooling"), module(kind, "2")]);
    let modes = |key: &str| json!({ key: true });

    for (name, list, modes, expected) in [
        ("max", with("Normalize"), modes("pooling_mode_max_tokens"), "[\"max_tokens\"]"),
        ("none", with("Normalize"), json!({}), "pooling by []"),
        ("lstm", with("LSTM"), modes("pooling_mode_cls_token"), "module 'LSTM'"),
        (
            "dense",
            json!([module("Dense", "2")]),
            json!({}),
            "module 'Dense' is not supported there",
        ),
        ("broken", json!({"a": 1}), json!({}), "must be a list of modules"),
        ("path", json!([module("Pooling", "../x")]), json!({}), "'path' must be a folder of"),
        ("type", json!([{"type": 3}]), json!({}), "'type' must be a string, got 3"),
        ("flag", with("Normalize"), json!({"pooling_mode_cls_token": "true"}), "true or false"),
    ] {
        let dir = folder(name, &[("modules.json", list), pooling(modes)]);
        let error = SideFiles::read(&dir).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
    assert_eq!(SideFiles::read(Path::new("/nowhere")), Ok(SideFiles::default()));
}

/// Products behind pooling, whose widths must fit each other and the model's.
#[test]
fn products_behind_pooling() {
    let list = json!([module("Pooling", "1_Pooling"), module("Dense", "2_Dense")]);
    let read = |dense: Value| {
        let modes = json!({"pooling_mode_mean_tokens": true});
        let files = [
            ("modules.json", list.clone()),
            ("1_Pooling/config.json", modes),
            ("2_Dense/config.json", dense),
        ];
        let dir = folder("products", &files);
        let read = SideFiles::read(&dir);
        std::fs::remove_dir_all(dir).unwrap();
        read
    };
    let dense = |inputs| {
        json!({"in_features": inputs, "out_features": 4, "bias": false,
            "activation_function": "torch.nn.modules.activation.Tanh"})
    };

    let auto = PoolerOptions::default();
    let rule = made("BertModel", &auto, &read(dense(6)).unwrap()).unwrap().unwrap();
    let PooledAnswer::Vector(vector) = rule.answer else { panic!("it classifies") };
    assert_eq!((vector.width, vector.dense.len(), vector.normalize), (4, 1, false));
    let error = made("BertModel", &auto, &read(dense(5)).unwrap()).unwrap_err().to_string();
    assert!(error.contains("'in_features' is 5") && error.contains("6 elements"), "{error}");

    let mut other = dense(6);
    other["activation_function"] = json!("torch.nn.modules.activation.Mish");
    let error = read(other).unwrap_err().to_string();
    assert!(error.contains("'activation_function'") && error.contains("Mish"), "{error}");
    let error = read(json!({"in_features": 6})).unwrap_err().to_string();
    assert!(error.contains("'out_features'"), "{error}");
}

#[test]
fn users_go_before_files_and_files_before_defaults() {
    let files = SideFiles { pooling: Some((Pooling::Mean, false)), ..SideFiles::default() };
    let none = PoolerOptions { runner: RunnerKind::Pooling, ..PoolerOptions::default() };
    let user = PoolerOptions { kind: Some(Pooling::First), ..none.clone() };
    let made_by = |name, options, files: &SideFiles| {
        let rule = made(name, options, files).unwrap().unwrap();
        match rule.answer {
            PooledAnswer::Vector(vector) => (rule.kind, vector.normalize),
            PooledAnswer::Scores(_) => panic!("{name} classifies"),
        }
    };
    assert_eq!(made_by("BertModel", &user, &files), (Pooling::First, false));
    assert_eq!(made_by("BertModel", &none, &files), (Pooling::Mean, false));
    assert_eq!(made_by("BertModel", &none, &SideFiles::default()), (Pooling::First, true));
    assert_eq!(made_by("Qwen3ForCausalLM", &none, &SideFiles::default()), (Pooling::Last, true));
    let cut = PoolerOptions { dimensions: Some(3), ..none };
    let error = made("BertModel", &cut, &files).unwrap_err().to_string();
    assert!(error.starts_with("pooler_config: ") && error.contains("matryoshka"), "{error}");
}

/// By name, by `convert`, or not at all; and what contradicts the name.
#[test]
fn who_classifies() {
    let files = SideFiles { pooling: Some((Pooling::Mean, false)), ..SideFiles::default() };
    let by = |runner, convert| PoolerOptions { runner, convert, ..PoolerOptions::default() };
    let auto = by(RunnerKind::Auto, None);
    let scores = |name, options: &PoolerOptions| {
        let rule = made(name, options, &files).unwrap()?;
        rule.scores()?;
        Some(rule.kind)
    };
    assert_eq!(scores("Gemma2ForSequenceClassification", &auto), Some(Pooling::Last));
    assert_eq!(scores("Gemma3TextForSequenceClassification", &auto), Some(Pooling::Last));
    assert_eq!(scores("GPT2ForSequenceClassification", &auto), Some(Pooling::Last));
    assert_eq!(scores("XLMRobertaForSequenceClassification", &auto), Some(Pooling::First));
    assert_eq!(scores("BertModel", &auto), None);
    let classify = by(RunnerKind::Pooling, Some(Convert::Classify));
    assert_eq!(scores("Qwen3ForCausalLM", &classify), Some(Pooling::Last));
    let generate = by(RunnerKind::Generate, Some(Convert::Classify));
    assert_eq!(made("Qwen3ForCausalLM", &generate, &files), Ok(None));

    let qwen = "Qwen3ForSequenceClassification";
    let refused = |name, options: PoolerOptions| {
        made(name, &options, &SideFiles::default()).unwrap_err().to_string()
    };
    let text = refused(qwen, by(RunnerKind::Generate, None));
    assert!(text.contains("runner 'generate': Qwen3ForSequenceClassification only classifies."));
    let text = refused(qwen, by(RunnerKind::Auto, Some(Convert::Embed)));
    assert!(text.contains("convert 'embed'") && text.contains("[\"Qwen3ForCausalLM\"]"), "{text}");
    let text = refused(qwen, PoolerOptions { dimensions: Some(3), ..auto.clone() });
    assert_eq!(text, format!("pooler_config: {qwen} classifies, it takes no dimensions"));
    let text = refused("BertModel", PoolerOptions { logit_mean: Some(3.0), ..auto.clone() });
    assert_eq!(text, "pooler_config: BertModel embeds, it takes no logit_mean");
    let bert = "BertForSequenceClassification";
    let text = refused(bert, PoolerOptions { kind: Some(Pooling::Mean), ..auto });
    assert!(text.ends_with("it takes no pooling_type other than CLS"), "{text}");
}

#[test]
fn sizes_that_requests_may_ask_for() {
    let text = |rule: &VectorRule, size| rule.check(size, "m").unwrap_err().to_string();
    let whole = rule(json!({}));
    assert_eq!(
        text(&whole, 4),
        "Model \"m\" does not support matryoshka representation, changing output dimensions will \
         lead to poor results."
    );
    let any = rule(json!({"is_matryoshka": true}));
    assert_eq!((any.check(1, "m"), any.check(6, "m")), (Ok(1), Ok(6)));
    assert_eq!(text(&any, 0), "Dimensions must be greater than 0");
    assert!(text(&any, 7).starts_with("dimensions must be at most 6"));
    let listed = rule(json!({"matryoshka_dimensions": [2, 4]}));
    assert_eq!(listed.check(4, "m"), Ok(4));
    assert_eq!(
        text(&listed, 3),
        "Model \"m\" only supports [2, 4] matryoshka dimensions, use other output dimensions will \
         lead to poor results."
    );
}

/// Cut first, then made as long as 1; zeros stay zeros.
#[test]
fn vectors_are_cut_and_normalised() {
    let mut rule = rule(json!({"is_matryoshka": true}));
    assert_eq!(rule.finish(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
    assert_eq!(rule.finish(vec![0.0; 3], None), [0.0; 3]);
    rule.normalize = false;
    assert_eq!(rule.finish(vec![3.0, 4.0, 12.0], None), [3.0, 4.0, 12.0]);
}
