//! A rank's part of a linear's values, as far as no file is read.

use serde_json::json;

use super::*;
use crate::device::trace::Trace;
use crate::device::{CodeType, DType, InputQuant, Rank};
use crate::model::config::{ModelSpec, SpecOptions};
use crate::model::shard::{Shard, Slice};

fn spec() -> ModelSpec {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1,
        "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
    });
    let options = SpecOptions { supported: &[DType::BF16], ..SpecOptions::default() };
    ModelSpec::from_config(config.as_object().unwrap(), None, &options).unwrap()
}

/// What is left of 64 x 64 dummy values on each of two ranks.
fn parts(cut: &Cut, form: Option<QuantForm>) -> [Result<Values<'static>>; 2] {
    let spec = spec();
    [0, 1].map(|index| {
        let shard = Shard::new(&spec, Rank { index, of: 2 }).unwrap();
        let loader = Loader {
            spec: &spec,
            shard: &shard,
            format: &WeightSource::Dummy,
            shapes_only: false,
            workers: None,
            dev: &mut Trace::of_rank(DType::BF16, shard.rank),
            prefix: "",
            names: &spec.family.names,
        };

        let names = ["w".to_string()];
        let wanted = Wanted { names: &names, outputs: &[64], inputs: 64 };
        let values = Values { form, source: Source::Dummy { seed: 7, scale: 1.0 } };
        let part = loader.part_of(values, LayerKind::Linear, &wanted, cut, 1, false)?;
        match part.source {
            Source::Dummy { seed, scale } => {
                Ok(Values { form: part.form, source: Source::Dummy { seed, scale } })
            }
            _ => panic!("no dummy"),
        }
    })
}

fn seeds(cut: &Cut) -> [u64; 2] {
    parts(cut, None).map(|part| match part.unwrap().source {
        Source::Dummy { seed, .. } => seed,
        _ => panic!("no dummy"),
    })
}

/// Routers and the like must be the same on all ranks, shares of a weight must not.
#[test]
fn dummies_differ_where_ranks_do() {
    assert_eq!(seeds(&Cut::Whole), [7, 7]);
    let halves = Cut::Inputs { range: 0..32, summed: true };
    for cut in [Cut::Outputs(vec![Slice { of: 64, range: 0..32 }]), halves] {
        let [first, second] = seeds(&cut);
        assert!(first == 7 && second != 7, "{cut:?}");
    }
}

#[test]
fn inputs_of_a_rank_are_whole_groups() {
    let form = |group| QuantForm { codes: CodeType::Int4, group, offsets: false, inputs: None };
    let cut = Cut::Inputs { range: 32..64, summed: true };
    let group = |form| parts(&cut, Some(form)).map(|part| part.map(|p| p.form.unwrap().group));
    assert_eq!(group(form(16)), [Ok(16), Ok(16)]);
    assert_eq!(group(form(32)), [Ok(32), Ok(32)]);
    // A scale for each row; blocks larger than a row.
    assert_eq!(group(form(64)), [Ok(32), Ok(32)]);
    let blocks = QuantForm { inputs: Some(InputQuant::E4m3Block), ..form(128) };
    assert_eq!(group(blocks), [Ok(128), Ok(128)]);

    let [error, _] = group(form(48));
    assert_eq!(
        error.unwrap_err().message(),
        "w.weight: Weight input_size_per_partition=32 is not divisible by group_size=48. This \
         happens when tensor_parallel_size splits the layer input into shards that are not a \
         whole number of quant groups. Consider reducing tensor_parallel_size."
    );
}
