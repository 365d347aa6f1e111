//! What is read of `speculative_config` and of the keys that it had before, and what is refused.

use serde_json::{json, Value};

use super::*;
use crate::engine::load::args::EngineArgs;

fn parsed(config: Value) -> Result<(Option<SpeculationArgs>, Vec<String>)> {
    let text = json!({ "model": "m", "speculative_config": config }).to_string();
    EngineArgs::parse(&text).map(|(args, warnings)| (args.speculation, warnings))
}

fn read(config: Value) -> SpeculationArgs {
    parsed(config).expect("valid").0.expect("drafts")
}

fn refusal(config: Value) -> String {
    parsed(config).expect_err("a refusal").to_string()
}

fn ngram(least: usize, most: usize) -> DraftMethod {
    DraftMethod::Ngram { least, most }
}

#[test]
fn ngrams_are_read_in_all_spellings() {
    let lengths = DraftLengths::constant(3);
    let usual = SpeculationArgs { method: ngram(5, 5), lengths, draft: None };
    assert_eq!(read(json!({"method": "ngram", "num_speculative_tokens": 3})), usual);
    assert_eq!(read(json!({"method": "ngram_gpu", "num-speculative-tokens": 3})), usual);
    assert_eq!(read(json!({"model": "[ngram]", "num_speculative_tokens": 3})), usual);
    assert_eq!(read(json!(r#"{"model": "ngram", "num_speculative_tokens": 3}"#)), usual);
    let sizes = |extra: Value| {
        let mut config = json!({"method": "ngram", "num_speculative_tokens": 1});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(config).method
    };
    assert_eq!(sizes(json!({"prompt_lookup_max": 4})), ngram(4, 4));
    assert_eq!(sizes(json!({"prompt-lookup-min": 2})), ngram(2, 2));
    assert_eq!(sizes(json!({"prompt_lookup_max": 4, "prompt_lookup_min": 2})), ngram(2, 4));
    assert_eq!(parsed(json!({})).unwrap(), (None, vec![]));
    assert_eq!(parsed(json!(null)).unwrap(), (None, vec![]));
}

#[test]
fn drafts_depend_on_what_runs() {
    let with = |extra: Value| {
        let mut config = json!({"method": "ngram", "num_speculative_tokens": 4});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(config).lengths
    };
    let ranges = json!([[1, 4, 4], [9, 16, 2], [17, 64, 0]]);
    let lengths = with(json!({"num_speculative_tokens_per_batch_size": ranges}));
    assert_eq!([1, 4, 5, 8, 9, 16, 17, 900].map(|n| lengths.of(n)), [4, 4, 4, 4, 2, 2, 0, 0]);
    let lengths = with(json!({"disable_by_batch_size": 3}));
    assert_eq!([1, 2, 3, 4].map(|n| lengths.of(n)), [4, 4, 0, 0]);
    assert_eq!(with(json!({"disable_by_batch_size": 1})).of(1), 0);
    for wrong in [json!(3), json!([[1, 2]]), json!([[2, 3, 1]]), json!([[1, 4, 4], [4, 5, 1]])] {
        let config = json!({"method": "ngram", "num_speculative_tokens": 4,
                            "num_speculative_tokens_per_batch_size": wrong});
        let said = refusal(config);
        assert!(said.contains("num_speculative_tokens_per_batch_size: "), "{said}");
    }
    let more = json!({"method": "ngram", "num_speculative_tokens": 4,
                      "num_speculative_tokens_per_batch_size": [[1, 4, 5]]});
    assert!(refusal(more).contains("each k should be at most 4"));
}

#[test]
fn keys_of_before_are_read_with_a_warning() {
    let text = json!({"model": "m", "speculative_model": "[ngram]", "num_speculative_tokens": 5,
                      "ngram_prompt_lookup_max": 4, "ngram_prompt_lookup_min": 1,
                      "speculative_disable_by_batch_size": 8,
                      "speculative_disable_mqa_scorer": true,
                      "spec_decoding_acceptance_method": "typical_acceptance_sampler",
                      "typical_acceptance_sampler_posterior_alpha": 0.3});
    let (args, said) = EngineArgs::parse(&text.to_string()).unwrap();
    let speculation = args.speculation.unwrap();
    assert_eq!(speculation.method, ngram(1, 4));
    assert_eq!((speculation.lengths.of(7), speculation.lengths.of(8)), (5, 0));
    let said = said.join("\n");
    for part in [
        "'speculative_model' is out of date: read as 'speculative_config.model'",
        "'disable_by_batch_size' is out of date",
        "'disable_mqa_scorer' has no effect",
        "'spec_decoding_acceptance_method' has no effect",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let short = json!({"model": "m", "spec_method": "ngram", "spec_tokens": "2"});
    let (args, _) = EngineArgs::parse(&short.to_string()).unwrap();
    assert_eq!(args.speculation.unwrap().lengths, DraftLengths::constant(2));
}

#[test]
fn suffixes_have_members_of_their_own() {
    let usual = SuffixConfig {
        max_depth: 24,
        cached_requests: 10_000,
        max_factor: 1.0,
        min_probability: 0.1,
    };
    let args = read(json!({"method": "suffix"}));
    assert_eq!(args.method, DraftMethod::Suffix(usual));
    assert_eq!(args.lengths, DraftLengths::constant(24));

    let own = json!({"method": "suffix", "num_speculative_tokens": 8,
                     "suffix_decoding_max_tree_depth": 64, "suffix_decoding_max_cached_requests": 0,
                     "suffix_decoding_max_spec_factor": 2, "suffix_decoding_min_token_prob": 0.5});
    let args = read(own);
    let config =
        SuffixConfig { max_depth: 64, cached_requests: 0, max_factor: 2.0, min_probability: 0.5 };
    assert_eq!(args.method, DraftMethod::Suffix(config));
    assert_eq!(args.lengths, DraftLengths::constant(8));
    for (member, value, why) in [
        ("suffix_decoding_max_tree_depth", json!(0), "must be at least 1"),
        ("suffix_decoding_max_spec_factor", json!(-1), "=-1 must be >= 0"),
        ("suffix_decoding_min_token_prob", json!(1.5), "=1.5 must be in [0, 1]"),
        ("suffix_decoding_max_cached_requests", json!(-2), "must be at least 0"),
    ] {
        let said = refusal(json!({"method": "suffix", member: value}));
        assert!(said.contains(member) && said.contains(why), "{said}");
    }
}

#[test]
fn a_draft_model_has_members_of_its_own() {
    let model = DraftModel { longest: usize::MAX, samples: true, head: false };
    let samples = |samples| DraftMethod::Model(DraftModel { samples, ..model });
    let args = read(json!({"model": "facebook/opt-125m", "num_speculative_tokens": 5}));
    assert_eq!((args.method, &args.lengths), (samples(true), &DraftLengths::constant(5)));
    let named = |model: &str| DraftModelArgs {
        kind: DraftKind::Model,
        model: model.into(),
        revision: None,
        quantization: None,
        max_model_len: None,
    };
    assert_eq!(args.draft, Some(named("facebook/opt-125m")));

    let own = json!({"method": "draft_model", "model": "m", "num_speculative_tokens": 2,
                     "draft_sample_method": "greedy", "revision": "main", "quantization": "AWQ",
                     "max_model_len": 2048, "draft_tensor_parallel_size": 1});
    let (args, said) = parsed(own).unwrap();
    assert!(said.is_empty(), "{said:?}");
    let args = args.unwrap();
    assert_eq!(args.method, samples(false));
    let draft = args.draft.unwrap();
    assert_eq!(draft.revision.as_deref(), Some("main"));
    assert_eq!(draft.quantization.as_deref(), Some("awq"));
    assert_eq!(draft.max_model_len, Some(2048));
    let old = json!({"model": "m", "speculative_model": "d", "num_speculative_tokens": 5,
                     "speculative_max_model_len": 512});
    let (args, _) = EngineArgs::parse(&old.to_string()).unwrap();
    assert_eq!(args.speculation.unwrap().draft.unwrap().max_model_len, Some(512));

    let nameless = json!({"method": "draft_model", "num_speculative_tokens": 2});
    assert!(refusal(nameless).contains("speculative_config.model must be set"));
    let odd = json!({"model": "m", "num_speculative_tokens": 2, "draft_sample_method": "beam"});
    assert!(refusal(odd).contains("it is 'greedy' or 'probabilistic'"));
}

#[test]
fn heads_are_read_by_their_methods_and_names() {
    let kind_of = |config: Value| {
        let args = read(config);
        let DraftMethod::Model(DraftModel { head: true, samples: true, .. }) = args.method else {
            panic!("{args:?}")
        };
        let draft = args.draft.expect("what drafts");
        (draft.kind, draft.model, args.lengths)
    };
    let [one, three] = [EagleVersion::One, EagleVersion::Three].map(DraftKind::Eagle);
    let two = DraftLengths::constant(2);
    for (name, kind) in [("eagle3", three), ("eagle", one)] {
        let config = json!({"method": name, "num_speculative_tokens": 2, "model": "some/head"});
        assert_eq!(kind_of(config), (kind, "some/head".into(), two.clone()));
    }
    let named = |name: &str| kind_of(json!({"model": name, "num_speculative_tokens": 2})).0;
    assert_eq!(named("yuhuili/EAGLE3-LLaMA3.1"), three);
    assert_eq!(named("yuhuili/EAGLE-LLaMA3"), one);
    let said = refusal(json!({"method": "eagle3", "num_speculative_tokens": 2}));
    assert!(said.contains("speculative_config.model must be set"), "{said}");

    // The model's own layer needs neither a name nor a number.
    let next = DraftKind::NextToken;
    assert_eq!(kind_of(json!({"method": "mtp"})), (next, "".into(), DraftLengths::constant(1)));
    let (args, said) = parsed(json!({"method": "deepseek_mtp", "num_speculative_tokens": 2,
                                     "model": "the/model"}))
    .unwrap();
    let draft = args.unwrap().draft.unwrap();
    assert_eq!((draft.kind, draft.model.as_str()), (next, ""));
    assert!(said.join("\n").contains("'deepseek_mtp' is out of date: read as 'mtp'"), "{said:?}");
}

#[test]
fn what_means_nothing_is_refused() {
    let method = |name: &str| refusal(json!({"method": name, "num_speculative_tokens": 2}));
    for name in ["medusa", "mlp_speculator", "dflash", "ngrams"] {
        let said = method(name);
        assert!(said.contains(&format!("'{name}': there is no such method")), "{said}");
        assert!(said.contains("'ngram', 'ngram_gpu'"), "{said}");
    }

    let with = |extra: Value| {
        let mut config = json!({"method": "ngram", "num_speculative_tokens": 2});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        refusal(config)
    };
    assert!(with(json!({"num_speculative_token": 2}))
        .contains("unknown key 'num_speculative_token': did you mean 'num_speculative_tokens'?"));
    assert!(with(json!({"num_speculative_tokens": 0})).contains("at least 1, got 0"));
    assert!(with(json!({"num_speculative_tokens": 65})).contains("at most 64"));
    assert!(with(json!({"prompt_lookup_min": 3, "prompt_lookup_max": 2}))
        .contains("prompt_lookup_min=3 must be <= prompt_lookup_max=2"));
    assert!(with(json!({"tensor_parallel_size": 2})).contains(
        "'tensor_parallel_size' is not a valid argument in the speculative_config. Please pass \
         'draft_tensor_parallel_size' instead."
    ));
    assert!(with(json!({"draft_tensor_parallel_size": 3})).contains(
        "speculative_draft_tensor_parallel_size=3 cannot be other value than 1 or target model \
         tensor_parallel_size"
    ));
    assert!(refusal(json!({"num_speculative_tokens": 2}))
        .contains("num_speculative_tokens was provided but without speculative model."));
    assert!(refusal(json!({"method": "ngram"})).contains("num_speculative_tokens must be set"));
    assert!(refusal(json!(7)).contains("speculative_config: Input should be an object"));
}
