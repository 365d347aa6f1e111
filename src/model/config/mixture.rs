//! A mixture of experts by config.json: how many there are, how wide, how rows choose, and which
//! layers have one. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::keys::{flag, needed_width, positive, width, MAX_DIMENSION, MAX_WIDTH};
use super::sublayers::{self, Single};
use crate::device::{RouteGroups, Routing, MAX_EXPERTS, MAX_EXPERT_GROUPS};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::{Choice, Family, Flag, Mixture, MixtureLayers, SharedExpert};

/// The experts of a model; every mixture layer has the same.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureSpec {
    /// How many there are and how tokens choose.
    pub routing: Routing,
    /// Width of one expert.
    pub ffn: usize,
    /// Width of the expert that all rows share.
    pub shared_ffn: Option<usize>,
    /// Width of what experts work on, if it is not the residual's.
    pub narrowed: Option<usize>,
    /// For each layer: experts, or a plain MLP.
    pub layers: Vec<bool>,
}

/// The family's experts, if it has any.
///
/// # Errors
/// A count or width that is no such thing; more experts chosen than there are, or more than
/// [`MAX_EXPERTS`]; a layer number beyond the layers.
pub fn mixture(config: &Object, family: &Family, layers: usize) -> Result<Option<MixtureSpec>> {
    let Some(row) = &family.mixture else { return Ok(None) };
    let single = sublayers::singles(config, family)?;
    let single = single.map(|kinds| kinds.iter().map(|k| *k == Single::Experts).collect());
    let single: Vec<bool> = single.unwrap_or_default();
    let none = match row.layers {
        MixtureLayers::If(switch) => !flag(config, Flag::Key(switch))?,
        MixtureLayers::Single => !single.contains(&true),
        MixtureLayers::EachFrom { .. } => config.given(row.experts).is_some_and(|n| *n == 1),
        _ => false,
    };
    if none {
        return Ok(None);
    }
    judge_method(config, &row.choice)?;
    let experts = of_all_layers(config, row.experts, MAX_EXPERTS, layers)?;
    let top_k = of_all_layers(config, row.top_k, MAX_EXPERTS, layers)?;
    if top_k > experts {
        return Err(invalid!(
            "{} is {top_k}, more than the {experts} of '{}'.",
            config.name(row.top_k),
            row.experts
        ));
    }

    if row.weighs_inputs && top_k != 1 {
        return Err(Error::Unsupported(format!(
            "{} is {top_k}, which {} does not support here; supported: 1.",
            config.name(row.top_k),
            family.architecture
        )));
    }

    let groups = groups(config, &row.choice, experts, top_k)?;
    let renormalise = flag(config, row.renormalise)?;
    let scale = match row.choice.scale {
        Some(key) => positive(config, key)? as f32,
        None => 1.0,
    };
    let shared_ffn = match &row.shared {
        Some(shared) => shared_ffn(config, shared, layers)?,
        None => None,
    };
    Ok(Some(MixtureSpec {
        routing: Routing { experts, top_k, score: row.choice.score, groups, renormalise, scale },
        ffn: of_all_layers(config, row.ffn, MAX_WIDTH, layers)?,
        shared_ffn,
        narrowed: match row.narrowed {
            Some(narrowed) => width(config, narrowed.width)?,
            None => None,
        },
        layers: layers_of(config, row, single, layers)?,
    }))
}

/// For each layer, whether it has experts; `single`: those whose only sublayer they are.
fn layers_of(
    config: &Object,
    row: &Mixture,
    single: Vec<bool>,
    layers: usize,
) -> Result<Vec<bool>> {
    let count = |key| config.needed(key, "an integer", config.count(key, MAX_DIMENSION)?);

    Ok(match row.layers {
        MixtureLayers::All | MixtureLayers::If(_) => vec![true; layers],
        MixtureLayers::Single => single,
        MixtureLayers::Each(key) => {
            let n = count(key)?;
            (1..=layers).map(|layer| layer.is_multiple_of(n)).collect()
        }
        MixtureLayers::EachFrom { period, offset } => {
            sublayers::each_from(config, [period, offset], layers)?
        }
        MixtureLayers::Stepped => stepped(config, layers)?,
        MixtureLayers::Between { first, last, each } => {
            between(config, [first, last, each], layers)?
        }
        MixtureLayers::From { kinds, first, each } => match config.list(kinds)? {
            Some(list) => listed(config, kinds, list, layers)?,
            None => from(config, first, each, layers)?,
        },
    })
}

/// An integer, or a list with the same one for each layer.
fn of_all_layers(config: &Object, key: &str, most: usize, layers: usize) -> Result<usize> {
    let Some(Value::Array(list)) = config.given(key) else {
        return config.needed(key, "an integer", config.count(key, most)?);
    };
    let same = |first: &&Value| list.len() == layers && list.iter().all(|value| value == *first);
    let first = list.first().filter(same);
    let number = first.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let number = number.filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| config.wrong(key, "an integer, or a list of the same one for all layers"))
}

/// The method of choice must be the row's.
fn judge_method(config: &Object, choice: &Choice) -> Result<()> {
    let Some((key, names)) = choice.method else { return Ok(()) };
    match config.text(key)? {
        Some(name) if !names.contains(&name) => Err(Error::Unsupported(format!(
            "{} is '{}', which is not supported here; supported: {}.",
            config.name(key),
            json::cut(name),
            names.join(", ")
        ))),
        _ => Ok(()),
    }
}

/// The groups that experts are chosen out of, if there are several.
fn groups(
    config: &Object,
    choice: &Choice,
    experts: usize,
    top_k: usize,
) -> Result<Option<RouteGroups>> {
    let Some([count_key, top_key]) = choice.groups else { return Ok(None) };
    let count = config.count(count_key, MAX_EXPERT_GROUPS)?.unwrap_or(1);
    if count == 1 {
        return Ok(None);
    }
    if !experts.is_multiple_of(count) {
        return Err(invalid!(
            "{} is {count}, which does not divide the {experts} experts.",
            config.name(count_key)
        ));
    }

    let top = config.needed(top_key, "an integer", config.count(top_key, count)?)?;
    if top * (experts / count) < top_k {
        return Err(invalid!(
            "{} is {top}: so many of {count} groups hold {} experts, fewer than the {top_k} of a \
             token.",
            config.name(top_key),
            top * (experts / count)
        ));
    }
    Ok(Some(RouteGroups { count, top }))
}

/// The width of the expert that all rows share; 0 in config.json means that there is none.
fn shared_ffn(config: &Object, shared: &SharedExpert, layers: usize) -> Result<Option<usize>> {
    let zero = |key: &str| config.given(key).is_some_and(|value| *value == 0);
    let unset = |key: &str| shared.optional && config.given(key).is_none();
    if zero(shared.ffn) || shared.times.is_some_and(|key| zero(key) || unset(key)) {
        return Ok(None);
    }
    let each = needed_width(config, shared.ffn)?;
    let times = match shared.times {
        Some(key) => of_all_layers(config, key, MAX_EXPERTS, layers)?,
        None => 1,
    };
    Ok(Some(each * times))
}

/// Layers by a list of kinds.
fn listed(config: &Object, key: &str, list: &[Value], layers: usize) -> Result<Vec<bool>> {
    let expected = format!("a list of {layers} times \"dense\" or \"sparse\"");
    let kind = |kind: &Value| match kind.as_str() {
        Some("dense") => Ok(false),
        Some("sparse") => Ok(true),
        _ => Err(config.wrong(key, &expected)),
    };
    if list.len() != layers {
        return Err(config.wrong(key, &expected));
    }
    list.iter().map(kind).collect()
}

/// Each layer from the first on whose number is a multiple of n.
fn from(config: &Object, first_key: &str, each_key: &str, layers: usize) -> Result<Vec<bool>> {
    let first = config.given(first_key).and_then(Value::as_u64);
    let first = first.and_then(|n| usize::try_from(n).ok());
    let first = first.ok_or_else(|| config.wrong(first_key, "a number of layers"))?;
    let each = config.needed(each_key, "an integer", config.count(each_key, MAX_DIMENSION)?)?;
    Ok((0..layers).map(|n| n >= first && n.is_multiple_of(each)).collect())
}

/// Each n-th of the layers from the first to the last, by keys of the three numbers.
fn between(config: &Object, keys: [&str; 3], layers: usize) -> Result<Vec<bool>> {
    let [first_key, last_key, each_key] = keys;
    let expected = format!("the number of one of the {layers} layers");
    let number = |key: &str| {
        let value = config.given(key).and_then(Value::as_u64);
        let layer = value.and_then(|n| usize::try_from(n).ok()).filter(|n| *n < layers);
        layer.ok_or_else(|| config.wrong(key, &expected))
    };

    let first = number(first_key)?;
    let last = match config.given(last_key) {
        Some(value) if value.as_i64() == Some(-1) => layers - 1,
        _ => number(last_key)?,
    };
    let each = config.needed(each_key, "an integer", config.count(each_key, MAX_DIMENSION)?)?;
    let chosen = |n: usize| (first..=last).contains(&n) && (n + 1).is_multiple_of(each);
    Ok((0..layers).map(chosen).collect())
}

/// Each `decoder_sparse_step`-th layer has experts, but for those in `mlp_only_layers`.
fn stepped(config: &Object, layers: usize) -> Result<Vec<bool>> {
    const STEP: &str = "decoder_sparse_step";
    const DENSE: &str = "mlp_only_layers";
    let step = config.needed(STEP, "an integer", config.count(STEP, MAX_DIMENSION)?)?;
    let mut sparse: Vec<bool> = (1..=layers).map(|n| n.is_multiple_of(step)).collect();
    for layer in config.list(DENSE)?.unwrap_or_default() {
        let index = layer.as_u64().and_then(|n| usize::try_from(n).ok());
        match index.and_then(|n| sparse.get_mut(n)) {
            Some(sparse) => *sparse = false,
            None => {
                return Err(invalid!(
                    "{} holds {}, which is none of the {layers} layers.",
                    config.name(DENSE),
                    json::shown(layer)
                ))
            }
        }
    }
    Ok(sparse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use serde_json::json;

    fn of(architecture: &str, config: Value) -> Result<Option<MixtureSpec>> {
        let family = architectures::find(architecture).unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", config.as_object().unwrap());
        mixture(&config.with(family.spellings, &defaults), family, 4)
    }

    fn qwen(more: Value) -> Result<Option<MixtureSpec>> {
        let mut config = json!({"num_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 24});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of("Qwen3MoeForCausalLM", config)
    }

    #[test]
    fn layers_are_chosen_by_step_and_list() {
        let layers = |more| qwen(more).unwrap().unwrap().layers;
        assert_eq!(layers(json!({})), [true; 4]);
        assert_eq!(layers(json!({"decoder_sparse_step": 2})), [false, true, false, true]);
        assert_eq!(layers(json!({"mlp_only_layers": [0, 3]})), [false, true, true, false]);
        let both = json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]});
        assert_eq!(layers(both), [false, false, false, true]);
    }

    #[test]
    fn layers_between_two_numbers() {
        let layers = |more: Value| {
            let mixture = of("Ernie4_5_MoeForCausalLM", more).unwrap().unwrap();
            (mixture.layers, mixture.shared_ffn)
        };
        assert_eq!(layers(json!({})), (vec![false, true, true, true], Some(3072)));
        let some = json!({"moe_layer_start_index": 0, "moe_layer_end_index": 2,
            "moe_num_shared_experts": 0});
        assert_eq!(layers(some), (vec![true, true, true, false], None));
        let second = json!({"moe_layer_interval": 2, "moe_num_shared_experts": 1});
        assert_eq!(layers(second), (vec![false, true, false, true], Some(1536)));
        for wrong in [json!({"moe_layer_start_index": 4}), json!({"moe_layer_end_index": "3"})] {
            let text = of("Ernie4_5_MoeForCausalLM", wrong).unwrap_err().to_string();
            assert!(text.contains("one of the 4 layers"), "{text}");
        }
    }

    #[test]
    fn layers_from_one_on_or_by_a_list() {
        let layers = |more: Value| {
            let mut config = json!({"n_routed_experts": 8, "num_experts_per_tok": 2});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of("Glm4MoeForCausalLM", config).map(|mixture| mixture.unwrap().layers)
        };
        let some = json!({"first_k_dense_replace": 1, "moe_layer_freq": 2});
        assert_eq!(layers(some).unwrap(), [false, false, true, false]);
        assert_eq!(layers(json!({"first_k_dense_replace": 5})).unwrap(), [false; 4]);
        let kinds = json!({"mlp_layer_types": ["sparse", "dense", "sparse", "dense"]});
        assert_eq!(layers(kinds).unwrap(), [true, false, true, false]);
        for (wrong, word) in [
            (json!({"first_k_dense_replace": -1}), "a number of layers"),
            (json!({"moe_layer_freq": 0}), "moe_layer_freq"),
            (json!({"mlp_layer_types": ["sparse"]}), "4 times"),
            (json!({"n_group": 3}), "does not divide the 8"),
            (json!({"n_group": 8, "topk_group": 1}), "fewer than the 2"),
            (json!({"n_group": 8, "topk_group": 9}), "topk_group"),
            (json!({"topk_method": "greedy"}), "noaux_tc"),
        ] {
            let text = layers(wrong).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn renormalising_is_the_familys_or_the_configs() {
        let config = json!({"num_local_experts": 4, "num_experts_per_tok": 2,
            "intermediate_size": 24, "norm_topk_prob": false});
        let mixtral = of("MixtralForCausalLM", config).unwrap().unwrap();
        let routing = Routing::softmax(4, 2, true);
        assert_eq!((mixtral.routing, mixtral.shared_ffn), (routing, None));
        assert!(!qwen(json!({})).unwrap().unwrap().routing.renormalise);
        assert!(qwen(json!({"norm_topk_prob": true})).unwrap().unwrap().routing.renormalise);
        assert_eq!(of("LlamaForCausalLM", json!({})).unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (more, word) in [
            (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
            (json!({"num_experts_per_tok": 0}), "num_experts_per_tok"),
            (json!({"num_experts": 5000}), "num_experts"),
            (json!({"moe_intermediate_size": "x"}), "moe_intermediate_size"),
            (json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
            (json!({"mlp_only_layers": [4]}), "mlp_only_layers"),
            (json!({"mlp_only_layers": 1}), "mlp_only_layers"),
        ] {
            let text = qwen(more).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
