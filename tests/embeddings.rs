//! Models that embed, on the CPU: pooled vectors against what Hugging Face transformers computed,
//! the same bits whatever runs beside a text, and the whole engine from a text to the JSON list.

mod rig;

use std::path::Path;

use rig::embeddings::{cases, close, floats, folder, ids, rig_of, KINDS, ROWS};
use rig::pooled::{answer, ask, load, tokens};
use rig::Rig;
use serde_json::{json, Value};
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::Pooling;
use triton_vllm::engine::{Answer, EmbedInput, Engines, PoolingParams};
use triton_vllm::error::Result;

fn on_cpu(row: &str, kind: Pooling) -> Rig {
    rig_of(row, kind, "float32", |_| Cpu::new(2).unwrap())
}

#[test]
fn equal_to_transformers() {
    for row in ROWS {
        for (kind, name) in KINDS {
            let mut rig = on_cpu(row, kind);
            for (n, case) in cases(row).iter().enumerate() {
                let vector = rig.embed(&[ids(case)]).remove(0);
                close(&format!("{row} {name} case {n}"), &vector, &floats(&case[name]), 1e-4);
            }
        }
    }
}

#[test]
fn company_changes_no_bit() {
    for row in ROWS {
        for (kind, name) in KINDS {
            let mut rig = on_cpu(row, kind);
            let texts: Vec<Vec<u32>> = cases(row).iter().map(ids).collect();
            let alone: Vec<_> =
                texts.iter().map(|t| rig.embed(std::slice::from_ref(t)).remove(0)).collect();
            assert!(rig.embed(&texts) == alone, "{row} {name}: company changes a vector");
            let turned: Vec<_> = texts.iter().rev().cloned().collect();
            let mut again = rig.embed(&turned);
            again.reverse();
            assert!(again == alone, "{row} {name}: order changes a vector");
        }
    }
}

/// An encoder is no decoder: what follows a token changes it.
#[test]
fn encoders_look_ahead() {
    let mut rig = on_cpu("bert", Pooling::First);
    let vectors = rig.embed(&[vec![5, 6, 7], vec![5, 6, 8]]);
    assert!(vectors[0] != vectors[1]);
}

fn embed(engine: &Engines, input: EmbedInput, dimensions: Option<i64>) -> Result<Answer> {
    answer(ask(engine, input, of_size(dimensions), false))
}

fn of_size(dimensions: Option<i64>) -> PoolingParams {
    PoolingParams { dimensions, ..PoolingParams::default() }
}

fn vector(answer: &Answer) -> Vec<f32> {
    assert_eq!((answer.outputs.len(), answer.outputs[0].tokens), (1, 0));
    floats(&serde_json::from_str(&answer.outputs[0].text).unwrap())
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

#[test]
fn texts_become_the_vectors_that_the_files_ask_for() {
    let engine = load(&folder("bert"), json!({})).unwrap();
    assert_eq!((engine.facts().max_model_len, engine.facts().kv_tokens), (60, 0));
    let mut texts = 0;
    let mut waiting = Vec::new();
    for case in cases("bert") {
        let input = match case["text"].as_str() {
            Some(text) => EmbedInput::Text(text.to_string()),
            None => tokens(&ids(&case)),
        };
        texts += usize::from(case["text"].is_string());
        // Often enough that they come in batches of every size.
        for _ in 0..20 {
            waiting.push((case.clone(), ask(&engine, input.clone(), of_size(None), false)));
        }
    }
    assert!(texts >= 5);
    for (case, told) in waiting {
        let answer = answer(told).unwrap();
        assert_eq!(answer.prompt_tokens as usize, ids(&case).len());
        // What sentence-transformers makes of a text; of ids, the mean that it is.
        let want = match &case["sentence"] {
            Value::Null => unit(floats(&case["mean"])),
            vector => floats(vector),
        };
        close(&format!("{:?}", case["text"]), &vector(&answer), &want, 1e-4);
    }
}

/// What sentence-transformers makes of texts with products behind the mean: wider than a row, then
/// of 24 elements; and what such a model refuses.
#[test]
fn products_behind_pooling() {
    let engine = load(&folder("embeddinggemma"), json!({})).unwrap();
    for case in cases("embeddinggemma").iter().filter(|case| case["text"].is_string()) {
        let text = case["text"].as_str().unwrap();
        let answer = embed(&engine, EmbedInput::Text(text.into()), None).unwrap();
        close(text, &vector(&answer), &floats(&case["sentence"]), 1e-4);
    }
    drop(engine);

    let cut = json!({"hf_overrides": {"is_matryoshka": true}});
    let engine = load(&folder("embeddinggemma"), cut).unwrap();
    let of = |size| vector(&embed(&engine, tokens(&[5, 6]), size).unwrap());
    close("cut behind the products", &of(Some(8)), &unit(of(None)[..8].to_vec()), 1e-5);
    drop(engine);
    let half = json!({"dtype": "float16"});
    let half = load(&folder("embeddinggemma"), half).err().unwrap().to_string();
    assert!(half.contains("does not support float16"), "{half}");
    let generate = load(&folder("embeddinggemma"), json!({"runner": "generate"})).err().unwrap();
    assert!(generate.to_string().contains("does not support runner 'generate'"), "{generate}");
}

#[test]
fn limits_and_refusals() {
    let engine = load(&folder("bert"), json!({"pooler_config": {"pooling_type": "CLS"}})).unwrap();
    let text = |input| embed(&engine, input, None).unwrap_err().to_string();
    assert!(embed(&engine, tokens(&[5; 60]), None).is_ok(), "all of max_model_len");
    assert!(text(tokens(&[5; 61])).contains("contains 61 input tokens"));
    assert!(text(EmbedInput::Text("animal ".repeat(59))).contains("at least 61 input tokens"));
    assert_eq!(text(tokens(&[])), "The decoder prompt cannot be empty");
    assert_eq!(text(tokens(&[131])), "Token id 131 is out of vocabulary");
    let sized = embed(&engine, tokens(&[5]), Some(8)).unwrap_err().to_string();
    assert!(sized.contains("bert\" does not support matryoshka representation"), "{sized}");
    let gone = answer(ask(&engine, tokens(&[5]), of_size(None), true)).unwrap_err();
    assert_eq!(gone.to_string(), "Request was cancelled");
    let first = embed(&engine, tokens(&[5, 6]), None).unwrap();
    let long = load(&folder("bert"), json!({"max_num_batched_tokens": 32})).err().unwrap();
    assert!(long.to_string().contains("takes each text in one step"), "{long}");
    let generate = load(&folder("bert"), json!({"runner": "generate"})).err().unwrap();
    assert!(generate.to_string().contains("does not support runner 'generate'"), "{generate}");
    drop(engine);
    // Cut, then as long as 1; half types come near.
    for (dtype, tolerance) in [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 5e-2)] {
        let extra = json!({"pooler_config": {"pooling_type": "cls"}, "dtype": dtype,
            "hf_overrides": {"is_matryoshka": true}});
        let engine = load(&folder("bert"), extra).unwrap();
        let cut = vector(&embed(&engine, tokens(&[5, 6]), Some(8)).unwrap());
        close(dtype, &cut, &unit(vector(&first)[..8].to_vec()), tolerance);
    }
}

/// The last row of a decoder's prompt, whether it came in one piece, in many, or from the cache.
#[test]
fn decoders_embed_in_chunks() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/models/qwen2-tiny");
    let long: Vec<u32> = (0..256).map(|i| 7 + i * 13 % 4000).collect();
    let of = |extra: Value| {
        let mut all = json!({"runner": "pooling", "max_model_len": 256});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let engine = load(&model, all).unwrap();
        let ask = |ids: &[u32]| vector(&embed(&engine, tokens(ids), None).unwrap());
        [ask(&long), ask(&long[..200]), ask(&long), ask(&long[..1])]
    };
    let whole = of(json!({}));
    assert!(whole[0] == whole[2] && whole[0] != whole[1]);
    assert!(of(json!({"max_num_batched_tokens": 48})) == whole, "chunks change a vector");
    assert!(of(json!({"enable_prefix_caching": false})) == whole, "the cache changes a vector");
    let mean = of(json!({"pooler_config": {"pooling_type": "MEAN"}}));
    assert!(mean[3] == whole[3] && mean[0] != whole[0] && mean[0] == mean[2]);
}
