//! What config.json may say of a classifier, and what scores become of its logits.

use serde_json::{json, Map, Value};

use super::*;

fn rule_of(config: Value, options: PoolerOptions) -> Result<ClassifierRule> {
    let defaults: Map<String, Value> =
        json!({"tie_word_embeddings": true}).as_object().unwrap().clone();
    let config = Object::new("config.json", config.as_object().unwrap()).with(&[], &defaults);
    ClassifierRule::new(&config, &options)
}

fn rule(config: Value) -> ClassifierRule {
    rule_of(config, PoolerOptions::default()).unwrap()
}

fn activation(config: Value) -> ScoreActivation {
    rule(config).activation
}

#[test]
fn labels_are_counted_as_transformers_does() {
    assert_eq!(rule(json!({})).labels, 2);
    assert_eq!(rule(json!({"id2label": {"0": "a"}})).labels, 1);
    assert_eq!(rule(json!({"num_labels": 4})).labels, 4);
    assert_eq!(rule(json!({"num_labels": 2, "id2label": {"0": "a", "1": "b"}})).labels, 2);
}

#[test]
fn activations_by_task_then_by_name_then_probabilities() {
    use ScoreActivation::{None, Probability, Sigmoid, Tanh};

    let old = |name: &str| json!({"sbert_ce_default_activation_function": name});
    let new = |name: &str| json!({"sentence_transformers": {"activation_fn": name}});
    assert_eq!(activation(json!({})), Probability);
    assert_eq!(activation(json!({"problem_type": null})), Probability);
    assert_eq!(activation(json!({"problem_type": "regression"})), None);
    assert_eq!(activation(json!({"problem_type": "single_label_classification"})), Probability);
    assert_eq!(activation(json!({"problem_type": "multi_label_classification"})), Sigmoid);
    assert_eq!(activation(old("torch.nn.modules.linear.Identity")), None);
    assert_eq!(activation(new("torch.nn.modules.linear.Identity")), None);
    assert_eq!(activation(new("torch.nn.modules.activation.Sigmoid")), Probability);
    assert_eq!(activation(old("torch.nn.modules.activation.Tanh")), Tanh);

    let mut both = old("torch.nn.modules.linear.Identity");
    both["problem_type"] = json!("multi_label_classification");
    assert_eq!(activation(both), Sigmoid);
}

#[test]
fn language_models_become_rerankers() {
    let qwen = json!({"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true});
    let tokens = vec!["no".to_string(), "yes".to_string()];
    let weights =
        ClassifierWeights::OfTokens { tokens: tokens.clone(), difference: true, tied: true };
    let reranker = rule(qwen);
    assert_eq!((reranker.labels, &reranker.weights, reranker.joined), (1, &weights, true));

    let each = json!({"classifier_from_token": ["no", "yes"], "method": "no_post_processing",
        "tie_word_embeddings": false, "use_pad_token": true});
    let weights = ClassifierWeights::OfTokens { tokens, difference: false, tied: false };
    let reranker = rule(each);
    assert_eq!((reranker.labels, &reranker.weights, reranker.joined), (2, &weights, false));
    assert!(!rule(json!({})).joined);
}

#[test]
fn what_is_wrong_is_named() {
    let two = json!({"0": "a", "1": "b"});
    for (config, expected) in [
        (json!({"num_labels": 3, "id2label": two}), "'num_labels' is 3, and config.json: 'id2la"),
        (json!({"id2label": {}}), "'id2label' must be an object with a name for each label"),
        (json!({"id2label": 3}), "'id2label' must be an object, got 3"),
        (json!({"num_labels": 0}), "'num_labels' must be an integer"),
        (json!({"problem_type": "guess"}), "'problem_type' must be regression, single_label"),
        (
            json!({"sbert_ce_default_activation_function": "os.system"}),
            "'sbert_ce_default_activation_function': 'os.system' is not supported; supported: ",
        ),
        (
            json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.ELU"}}),
            "'sentence_transformers.activation_fn': 'torch.nn.modules.activation.ELU' is not",
        ),
        (json!({"sbert_ce_default_activation_function": 1}), "must be a string, got 1"),
        (json!({"classifier_from_token": ["a"]}), "says nothing without 'method'"),
        (json!({"method": "magic"}), "'method': 'magic' is not supported; supported: from_2_way"),
        (json!({"method": "no_post_processing"}), "'classifier_from_token' is missing"),
        (
            json!({"is_original_qwen3_reranker": true, "classifier_from_token": ["a"]}),
            "'classifier_from_token' must be a list of two tokens",
        ),
    ] {
        let error = rule_of(config.clone(), PoolerOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}");
    }

    let options = PoolerOptions { logit_sigma: Some(0.0), ..PoolerOptions::default() };
    let error = rule_of(json!({}), options).unwrap_err().to_string();
    assert_eq!(error, "pooler_config.logit_sigma must not be 0, got 0");
}

/// The mean goes first, then the deviation, then the activation.
#[test]
fn logits_become_scores() {
    let near = |got: Vec<f32>, want: &[f32]| {
        let same = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6);
        assert!(got.len() == want.len() && same, "{got:?}, want {want:?}");
    };
    let options = |use_activation| PoolerOptions {
        logit_mean: Some(1.0),
        logit_sigma: Some(2.0),
        use_activation,
        ..PoolerOptions::default()
    };
    let one = rule_of(json!({"num_labels": 1}), options(None)).unwrap();
    near(one.finish(vec![3.0], None), &[0.731_058_6]);
    near(one.finish(vec![3.0], Some(false)), &[1.0]);
    let raw = rule_of(json!({"num_labels": 1}), options(Some(false))).unwrap();
    near(raw.finish(vec![3.0], None), &[1.0]);
    near(raw.finish(vec![3.0], Some(true)), &[0.731_058_6]);

    near(rule(json!({})).finish(vec![1000.0, 1000.0], None), &[0.5, 0.5]);
    let each = rule(json!({"problem_type": "multi_label_classification"}));
    near(each.finish(vec![0.0, -1000.0], None), &[0.5, 0.0]);
    let bent =
        rule(json!({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}));
    near(bent.finish(vec![0.5, -0.5], None), &[0.462_117_16, -0.462_117_16]);
}
