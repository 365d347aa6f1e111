//! Shares of heads, widths and vocabularies.

use serde_json::{json, Value};

use super::*;
use crate::device::DType;
use crate::model::config::SpecOptions;

/// 8 heads of 4, and what `more` says.
fn spec(more: &Value) -> ModelSpec {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let options = SpecOptions { supported: &[DType::BF16], ..SpecOptions::default() };
    ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap()
}

fn shards(spec: &ModelSpec, of: usize) -> Vec<Shard> {
    Rank::all(of).map(|rank| Shard::new(spec, rank).unwrap()).collect()
}

fn ranges(cut: &Cut) -> Vec<Range<usize>> {
    match cut {
        Cut::Outputs(slices) => slices.iter().map(|slice| slice.range.clone()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_rank_holds_all() {
    let spec = spec(&json!({}));
    let shard = Shard::new(&spec, Rank::ALONE).unwrap();
    assert_eq!((shard.heads, &shard.kv_heads[..], shard.ffn), (8, &[2, 2][..], 48));
    assert_eq!(shard.vocabulary, 0..100);
    let cuts =
        [shard.qkv(&spec, 0), shard.attn_out(&spec, 0), shard.up(48, 2), shard.down(48, true)];
    assert!(cuts.iter().all(|cut| *cut == Cut::Whole));
    assert_eq!(shard.vocabulary_join(), Join::None);
}

#[test]
fn heads_are_shared_out_and_few_kv_heads_are_repeated() {
    let spec = spec(&json!({}));
    let of_two = shards(&spec, 2);
    assert_eq!(ranges(&of_two[1].qkv(&spec, 0)), [16..32, 4..8, 4..8]);
    assert_eq!(of_two[1].qkv(&spec, 0).rows(1), [16..32, 36..40, 44..48]);
    assert_eq!((of_two[1].heads, of_two[1].kv_heads[0]), (4, 1));

    // Two ranks follow each other with the same KV head.
    let first_kv: Vec<usize> =
        shards(&spec, 4).iter().map(|shard| ranges(&shard.qkv(&spec, 0))[1].start).collect();
    assert_eq!(first_kv, [0, 0, 4, 4]);
    let of_eight = shards(&spec, 8);
    assert_eq!(ranges(&of_eight[5].qkv(&spec, 0)), [20..24, 4..8, 4..8]);
    assert_eq!(of_eight[5].attn_out(&spec, 0), Cut::Inputs { range: 20..24, summed: true });
    assert_eq!(of_eight[5].attention(&spec)[1].attn.heads, 1);
}

#[test]
fn parts_lie_one_below_the_other() {
    let spec = spec(&json!({}));
    let up = shards(&spec, 4)[2].up(48, 2);
    assert_eq!(up.rows(1), [24..36, 72..84]);
    // Two experts.
    assert_eq!(up.rows(2), [24..36, 72..84, 120..132, 168..180]);
    assert_eq!((up.outputs(96), up.inputs(32)), (24, 32));
}

#[test]
fn the_vocabulary_ends_with_zeros() {
    let spec = spec(&json!({"vocab_size": 67}));
    let held = |of: usize| -> Vec<_> {
        shards(&spec, of).iter().map(|s| (s.vocabulary.clone(), s.vocabulary_held(&spec))).collect()
    };
    assert_eq!(held(2), [(0..64, 0..64), (64..128, 64..67)]);
    assert_eq!(held(4)[2..], [(64..96, 64..67), (96..128, 67..67)]);
    assert_eq!(shards(&spec, 4)[3].vocabulary_join(), Join::Rows { first: 96 });
}

#[test]
fn what_does_not_divide_is_refused_in_vllms_words() {
    let refused = |more: Value, of: usize| {
        let error = Shard::new(&spec(&more), Rank { index: 0, of }).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)));
        error.to_string()
    };
    assert_eq!(
        refused(json!({}), 3),
        "Total number of attention heads (8) must be divisible by tensor parallel size (3)."
    );
    let six_heads = json!({"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4});
    assert_eq!(refused(six_heads.clone(), 2), "3 is not divisible by 2");
    assert_eq!(refused(six_heads, 6), "48 is not divisible by 6".replace("48", "128"));
    assert_eq!(refused(json!({"intermediate_size": 50}), 4), "50 is not divisible by 4");
}

/// GPT-OSS 120b: 2880 inputs are 90 groups of 32.
#[test]
fn experts_in_groups_are_shared_out_by_whole_ones() {
    let with = |ffn: usize, method: Value| {
        spec(&json!({"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
            "intermediate_size": ffn, "num_local_experts": 4, "num_experts_per_tok": 2,
            "quantization_config": method}))
    };
    let mxfp4 = json!({"quant_method": "mxfp4"});
    let spec = with(2880, mxfp4.clone());
    let starts = |of: usize| -> Vec<usize> {
        let shards = shards(&spec, of);
        let ends = shards.iter().map(|shard| shard.experts.range.end);
        let starts: Vec<usize> = shards.iter().map(|shard| shard.experts.range.start).collect();
        assert!(ends.eq(starts.iter().copied().skip(1).chain([2880])), "{starts:?}");
        starts
    };
    assert_eq!(starts(2), [0, 1440]);
    assert_eq!(starts(4), [0, 704, 1440, 2144]);
    assert_eq!(starts(8), [0, 352, 704, 1056, 1440, 1792, 2144, 2496]);
    let third = &shards(&spec, 4)[2];
    assert_eq!(third.experts_down(true), Cut::Inputs { range: 1440..2144, summed: true });
    // Gates and ups of two experts.
    let rows = [1440..2144, 4320..5024, 7200..7904, 10080..10784];
    assert_eq!(third.experts_up(2).rows(2), rows);

    // As many groups as ranks, and one fewer; no groups.
    assert_eq!(shards(&with(256, mxfp4.clone()), 8)[7].experts.range, 224..256);
    let refused =
        |spec: &ModelSpec| Shard::new(spec, Rank { index: 0, of: 8 }).unwrap_err().to_string();
    let few = "Each expert is 224 wide, which are 7 groups of 32: fewer than tensor_parallel_size \
               (8).";
    assert!(refused(&with(224, mxfp4)).ends_with(few));
    assert_eq!(refused(&with(2884, Value::Null)), "2884 is not divisible by 8");
}
