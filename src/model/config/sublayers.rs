//! Which sublayers each layer has, by config.json: attention, a state, an MLP or experts. Called by
//! `config`, `recurrent` and `mixture`. It knows no shape of theirs.

use serde_json::Value;

use super::keys::{MAX_DIMENSION, MAX_LAYERS};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};
use crate::model::architectures::{Family, Recurrent, ScanLayers};

const TYPES: &str = "layer_types";

/// What a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sublayers {
    /// Attention, whose K and V are kept.
    pub attention: bool,
    /// A part that keeps a state.
    pub state: bool,
    /// An MLP or experts.
    pub feed_forward: bool,
}

/// The sublayer of a layer that has one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Single {
    /// A selective scan.
    Scan,
    /// Attention.
    Attention,
    /// An MLP.
    Mlp,
    /// Experts.
    Experts,
}

/// Letters and names of these.
const SINGLES: &[(char, &[&str], Single)] = &[
    ('M', &["mamba", "linear_attention"], Single::Scan),
    ('*', &["attention", "full_attention"], Single::Attention),
    ('-', &["mlp"], Single::Mlp),
    ('E', &["moe"], Single::Experts),
];

/// What each layer of a model has; `states`: which of them keep one, if some do.
///
/// # Errors
/// A kind of layer that we lack.
pub fn of(
    config: &Object,
    family: &Family,
    states: Option<&[bool]>,
    layers: usize,
) -> Result<Vec<Sublayers>> {
    if let Some(singles) = singles(config, family)? {
        let parts = |single: Single| Sublayers {
            attention: single == Single::Attention,
            state: single == Single::Scan,
            feed_forward: matches!(single, Single::Mlp | Single::Experts),
        };
        return Ok(singles.into_iter().map(parts).collect());
    }
    let beside = scan_layers(family) == Some(ScanLayers::BesideAttention);
    let alone = scan_layers(family) == Some(ScanLayers::Alone);
    let parts = |layer: usize| {
        let state = states.is_some_and(|states| states.get(layer) == Some(&true));
        Sublayers { attention: beside || !state, state, feed_forward: !alone }
    };
    Ok((0..layers).map(parts).collect())
}

/// The number of layers, where these are listed.
///
/// # Errors
/// A kind of layer that we lack; too many of them; another number in `num_hidden_layers`.
pub fn count(config: &Object, family: &Family) -> Result<Option<usize>> {
    let Some(singles) = singles(config, family)? else { return Ok(None) };
    let key = family.keys.layers;
    match config.count(key, MAX_LAYERS)? {
        Some(layers) if layers != singles.len() => Err(invalid!(
            "{} is {layers}, and {} layers are listed.",
            config.name(key),
            singles.len()
        )),
        _ if !(1..=MAX_LAYERS).contains(&singles.len()) => Err(invalid!(
            "{}: {} layers are listed, at least 1 and at most {MAX_LAYERS} can be.",
            config.name(key),
            singles.len()
        )),
        _ => Ok(Some(singles.len())),
    }
}

/// Of each layer its only sublayer, if the family's have one only.
///
/// # Errors
/// A kind of layer that we lack; no list of them.
pub fn singles(config: &Object, family: &Family) -> Result<Option<Vec<Single>>> {
    let Some(ScanLayers::OneSublayer { letters, list }) = scan_layers(family) else {
        return Ok(None);
    };
    // The list may be the class's default.
    let pattern = config.text(letters)?;
    if pattern.is_none() {
        let kinds = config.needed(list, "a list of the layers' kinds", config.list(list)?)?;
        let named = |kind: &Value| {
            let found = SINGLES
                .iter()
                .find(|(_, names, _)| names.iter().any(|name| kind.as_str() == Some(name)));
            found.map(|row| row.2).ok_or_else(|| unknown(config, list, &json::shown(kind)))
        };
        return kinds.iter().map(named).collect::<Result<_>>().map(Some);
    }

    let lettered = |letter: char| {
        let found = SINGLES.iter().find(|(known, ..)| *known == letter);
        found.map(|row| row.2).ok_or_else(|| unknown(config, letters, &format!("'{letter}'")))
    };
    pattern.unwrap_or_default().chars().map(lettered).collect::<Result<_>>().map(Some)
}

fn unknown(config: &Object, key: &str, shown: &str) -> Error {
    Error::Unsupported(format!(
        "{}: a layer of kind {shown} is not supported; supported: mamba (M), attention (*), \
         mlp (-), moe (E).",
        config.name(key)
    ))
}

/// For each layer, whether it has a selective scan.
///
/// # Errors
/// A list that is none, or of another number of layers; no layer with attention.
pub fn scans(
    config: &Object,
    family: &Family,
    rule: ScanLayers,
    layers: usize,
) -> Result<Vec<bool>> {
    let (key, scans, attention) = match rule {
        ScanLayers::BesideAttention | ScanLayers::Alone => return Ok(vec![true; layers]),
        ScanLayers::AllButEach { period, offset } => {
            let attends = each_from(config, [period, offset], layers)?;
            let scans: Vec<bool> = attends.iter().map(|attends| !attends).collect();
            (offset, scans, attends.contains(&true))
        }
        ScanLayers::Listed => {
            let scans = listed(config, layers)?;
            let attention = scans.contains(&false);
            (TYPES, scans, attention)
        }
        ScanLayers::AllBut(key) => {
            let scans = all_but(config, key, layers)?;
            let attention = scans.contains(&false);
            (key, scans, attention)
        }
        ScanLayers::OneSublayer { letters, .. } => {
            let singles = singles(config, family)?.unwrap_or_default();
            let scans = singles.iter().map(|&single| single == Single::Scan).collect();
            (letters, scans, singles.contains(&Single::Attention))
        }
    };

    if !attention {
        return Err(config.wrong(key, "a list with a layer of attention"));
    }
    Ok(scans)
}

fn listed(config: &Object, layers: usize) -> Result<Vec<bool>> {
    let Some(types) = config.list(TYPES)? else { return Ok(vec![true; layers]) };
    if types.len() != layers {
        let key = config.name(TYPES);
        return Err(invalid!("{key} has {} entries for {layers} layers.", types.len()));
    }
    let scans = |kind: &Value| match kind.as_str() {
        Some("mamba" | "linear_attention") => Ok(true),
        Some("attention" | "full_attention") => Ok(false),
        _ => Err(Error::Unsupported(format!(
            "{}: layer type {} is not supported; supported: mamba, attention.",
            config.name(TYPES),
            json::shown(kind)
        ))),
    };
    types.iter().map(scans).collect()
}

fn all_but(config: &Object, key: &str, layers: usize) -> Result<Vec<bool>> {
    let mut scans = vec![true; layers];
    for other in config.list(key)?.unwrap_or_default() {
        let layer = other.as_u64().and_then(|n| usize::try_from(n).ok());
        match layer.and_then(|n| scans.get_mut(n)) {
            Some(scans) => *scans = false,
            None => return Err(config.wrong(key, "a list of layers' numbers")),
        }
    }
    Ok(scans)
}

/// Of each layer, whether its number leaves a rest; keys of what it is divided by and of the rest.
///
/// # Errors
/// Numbers that are none; a rest that no number leaves.
pub fn each_from(config: &Object, keys: [&str; 2], layers: usize) -> Result<Vec<bool>> {
    let [period_key, offset_key] = keys;
    let period = config.count(period_key, MAX_DIMENSION)?;
    let period = config.needed(period_key, "an integer", period)?;
    let expected = format!("an integer from 0 to {}", period - 1);
    let offset = config.integer(offset_key, 0, period as i64 - 1)?;
    let offset = config.needed(offset_key, &expected, offset)?;
    Ok((0..layers).map(|layer| (layer % period) as i64 == offset).collect())
}

fn scan_layers(family: &Family) -> Option<ScanLayers> {
    match &family.recurrent {
        Some(Recurrent::SelectiveScan(row)) => Some(row.layers),
        Some(Recurrent::ChannelScan(row)) => Some(row.layers),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use serde_json::json;

    fn of_nemotron(more: Value) -> Result<(Option<usize>, Vec<Sublayers>)> {
        let family = architectures::find("NemotronHForCausalLM").unwrap();
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", more.as_object().unwrap());
        let config = config.with(family.spellings, &defaults);
        Ok((count(&config, family)?, of(&config, family, None, 4)?))
    }

    #[test]
    fn single_sublayers_go_by_letters_or_by_a_list() {
        let by_letters = of_nemotron(json!({"hybrid_override_pattern": "M*-E"})).unwrap();
        let kinds = ["mamba", "attention", "mlp", "moe"];
        assert_eq!(of_nemotron(json!({"layers_block_type": kinds})).unwrap(), by_letters);
        assert_eq!(of_nemotron(json!({"layer_types": kinds})).unwrap(), by_letters);
        let (count, parts) = by_letters;
        let parts: Vec<[bool; 3]> =
            parts.iter().map(|p| [p.state, p.attention, p.feed_forward]).collect();
        let first = [true, false, false];
        let others = [[false, true, false], [false, false, true], [false, false, true]];
        assert_eq!((count, parts[0], &parts[1..]), (Some(4), first, &others[..]));
        assert_eq!(of_nemotron(json!({})).unwrap().0, Some(4), "the class's own");
    }

    #[test]
    fn lists_that_are_none_are_refused_by_name() {
        for (more, word) in [
            (json!({"hybrid_override_pattern": "MX"}), "'X'"),
            (json!({"hybrid_override_pattern": ""}), "0 layers"),
            (json!({"hybrid_override_pattern": "M*", "num_hidden_layers": 3}), "2 layers"),
            (json!({"layers_block_type": ["conv"]}), "conv"),
        ] {
            let text = of_nemotron(more).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
