//! Rotary position embedding: base frequencies and how a checkpoint stretches them. Called by
//! `config` alone. It never knows positions; the device multiplies.

use serde_json::Value;

use super::keys::positive;
use crate::device::{QueryGrowth, Rope};
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::{self, Object};

/// What config.json says of rope, in any of its spellings.
struct RopeKeys<'a> {
    theta: f64,
    kind: &'a str,
    /// The object that says how the rope is stretched.
    scaling: Option<Object<'a>>,
    config: &'a Object<'a>,
}

/// How a rope changes the length that config.json's keys give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthRule {
    /// The keys' length times this.
    pub factor: f64,
    /// Takes the place of the keys.
    pub instead: Option<f64>,
    /// The length if the user does not ask for more.
    pub unasked: Option<f64>,
}

impl Default for LengthRule {
    fn default() -> Self {
        LengthRule { factor: 1.0, instead: None, unasked: None }
    }
}

const THETA: &str = "rope_theta";
/// By how much HunYuan's `dynamic` base grows, in place of its factor.
const ALPHA: &str = "alpha";
const ORIGINAL: &str = "original_max_position_embeddings";
const KINDS: [&str; 9] =
    ["default", "linear", "dynamic", "ntk", "llama3", "yarn", "longrope", "su", PROPORTIONAL];
/// All of a head is paired, and the part that does not turn has frequencies of 0.
const PROPORTIONAL: &str = "proportional";

/// The rope of a model with heads of `head_dim`, of which the key `rotary_dim` says how much turns
/// if it is there, else `partial_rotary_factor`: `rope_parameters` (transformers 5), else
/// `rope_theta` and `rope_scaling` (4). `max_model_len` chooses between longrope's two sets of
/// factors, once for all requests, as the Python backend does.
///
/// # Errors
/// A scaling of another kind; a factor that is not a positive number.
pub fn from_config(
    config: &Object,
    rotary_dim: Option<&str>,
    head_dim: usize,
    max_model_len: usize,
) -> Result<Rope> {
    let keys = read_keys(config, "full_attention")?;
    if keys.kind == PROPORTIONAL {
        return proportional(&keys, head_dim);
    }
    let rotary_dim = match rotary_dim.filter(|key| config.value(key).is_some()) {
        Some(key) => counted(config, key, head_dim)?,
        None => partial(&keys, head_dim)?,
    };
    build(&keys, rotary_dim, max_model_len)
}

/// The rope of windowed layers that have their own: `rope_parameters.sliding_attention`, else the
/// base `rope_local_base_freq` without scaling.
///
/// # Errors
/// As [`from_config`].
pub fn local(config: &Object, head_dim: usize, max_model_len: usize) -> Result<Rope> {
    let mut keys = read_keys(config, "sliding_attention")?;
    if keys.scaling.as_ref().and_then(|s| s.given(THETA)).is_none() {
        let theta = config.positive("rope_local_base_freq")?;
        keys =
            RopeKeys { theta: theta.unwrap_or(keys.theta), kind: "default", scaling: None, config };
    }
    build(&keys, partial(&keys, head_dim)?, max_model_len)
}

/// The rope of latent vectors, all of whose `rotary_dim` dimensions turn; and what scores are
/// multiplied with twice. Yarn's `mscale` (1) and `mscale_all_dim` (0) have no say in other ropes.
///
/// # Errors
/// As [`from_config`]; a scaling that is not yarn.
pub fn of_latent(config: &Object, rotary_dim: usize) -> Result<(Rope, f64)> {
    let keys = read_keys(config, "full_attention")?;
    let mut rope = build(&keys, rotary_dim, 0)?;
    match keys.kind {
        "default" => return Ok((rope, 1.0)),
        "yarn" => {}
        other => {
            return Err(Error::Unsupported(format!(
                "{}: rope scaling of type '{other}' is not supported here; supported: yarn.",
                keys.object().name("rope_type")
            )))
        }
    }

    let factor = keys.number("factor")?;
    let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scale = |key: &str, default: f64| -> Result<f64> {
        match keys.object().given(key) {
            Some(_) => Ok(keys.unless_zero(key)?.unwrap_or(0.0)),
            None => Ok(default),
        }
    };
    let all = magnitude(scale("mscale_all_dim", 0.0)?);
    rope.magnitude = (magnitude(scale("mscale", 1.0)?) / all) as f32;
    Ok((rope, all))
}

/// By what `max_position_embeddings` grows. llama3 and longrope count their factor already; yarn
/// starts from the original length; longrope gives the original length unless asked for more.
///
/// # Errors
/// As [`from_config`].
pub fn length_rule(config: &Object) -> Result<LengthRule> {
    let keys = read_keys(config, "full_attention")?;
    let plain = LengthRule::default();
    Ok(match keys.kind {
        // Gemma 3's lengths count the factor of its global layers.
        _ if config.value("rope_local_base_freq").is_some() => plain,
        "dynamic" if keys.unless_zero(ALPHA)?.is_some() => {
            LengthRule { factor: keys.optional("factor")?.unwrap_or(1.0), ..plain }
        }
        "linear" | "dynamic" | "ntk" => LengthRule { factor: keys.number("factor")?, ..plain },
        "yarn" => LengthRule {
            factor: keys.number("factor")?,
            instead: keys.optional(ORIGINAL)?,
            unasked: None,
        },
        "longrope" | "su" => LengthRule { unasked: keys.optional(ORIGINAL)?, ..plain },
        _ => plain,
    })
}

impl RopeKeys<'_> {
    /// A positive number beside the kind, or at config.json's top.
    fn optional(&self, key: &str) -> Result<Option<f64>> {
        match self.scaling.as_ref().filter(|s| s.given(key).is_some()) {
            Some(own) => own.positive(key),
            None => self.config.positive(key),
        }
    }

    /// The same where 0 means that it is not set.
    fn unless_zero(&self, key: &str) -> Result<Option<f64>> {
        let zero = self.object().given(key).is_some_and(|value| value.as_f64() == Some(0.0));
        if zero {
            return Ok(None);
        }
        self.optional(key)
    }

    fn number(&self, key: &str) -> Result<f64> {
        positive(self.object(), key)
    }

    /// Where the numbers of the kind stand.
    fn object(&self) -> &Object<'_> {
        self.scaling.as_ref().unwrap_or(self.config)
    }
}

/// Rotated dimensions by a key that names their number.
fn counted(config: &Object, key: &str, head_dim: usize) -> Result<usize> {
    let expected = format!("an even number up to head_dim {head_dim}");
    match config.given(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()) {
        Some(n) if n > 0 && n.is_multiple_of(2) && n <= head_dim => Ok(n),
        _ => Err(config.wrong(key, &expected)),
    }
}

/// Rotated dimensions by their part of a head.
fn partial(keys: &RopeKeys, head_dim: usize) -> Result<usize> {
    const PARTIAL: &str = "partial_rotary_factor";
    let partial = keys.optional(PARTIAL)?.unwrap_or(1.0);
    let rotary_dim = (head_dim as f64 * partial) as usize;
    if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
        return Err(invalid!(
            "{} is {partial}: rotary dimensions must be even and at most head_dim {head_dim}, got \
             {rotary_dim}.",
            keys.config.name(PARTIAL)
        ));
    }
    Ok(rotary_dim)
}

/// Waves as of a whole head, for its first pairs.
fn proportional(keys: &RopeKeys, head_dim: usize) -> Result<Rope> {
    const PARTIAL: &str = "partial_rotary_factor";
    let partial = keys.optional(PARTIAL)?.unwrap_or(1.0);
    let pairs = head_dim / 2;
    let turning = (partial * head_dim as f64 / 2.0) as usize;
    if !head_dim.is_multiple_of(2) || turning > pairs {
        return Err(invalid!(
            "{} is {partial}, for a head of {head_dim}: an even head_dim, of which at most all \
             turns.",
            keys.object().name(PARTIAL)
        ));
    }

    let factor = keys.optional("factor")?.unwrap_or(1.0);
    let mut rope = build(keys, head_dim, 0)?;
    rope.inv_freq.iter_mut().for_each(|f| *f = (f64::from(*f) / factor) as f32);
    rope.inv_freq[turning..].fill(0.0);
    Ok(rope)
}

fn build(keys: &RopeKeys, rotary_dim: usize, max_model_len: usize) -> Result<Rope> {
    let mut theta = keys.theta;
    if keys.kind == "dynamic" {
        // The Python backend turns by the base of the longest text, at all lengths.
        let grown = match keys.unless_zero(ALPHA)? {
            Some(alpha) => alpha,
            None => {
                let factor = keys.number("factor")?;
                factor * factor - (factor - 1.0)
            }
        };
        let dim = rotary_dim as f64;
        theta *= grown.powf(dim / (dim - 2.0));
    }
    let mut inv_freq: Vec<f64> =
        (0..rotary_dim / 2).map(|i| theta.powf(-((2 * i) as f64) / rotary_dim as f64)).collect();
    let mut magnitude = 1.0;
    match keys.kind {
        "linear" => {
            let factor = keys.number("factor")?;
            inv_freq.iter_mut().for_each(|f| *f /= factor);
        }
        "ntk" => stretch_ntk(&mut inv_freq, keys)?,
        "llama3" => stretch_llama3(&mut inv_freq, keys)?,
        "yarn" => magnitude = stretch_yarn(&mut inv_freq, keys)?,
        "longrope" | "su" => magnitude = stretch_longrope(&mut inv_freq, keys, max_model_len)?,
        _ => {}
    }

    let inv_freq: Vec<f32> = inv_freq.into_iter().map(|f| f as f32).collect();
    let growth = growth(keys)?;
    let rope = Rope { rotary_dim, inv_freq, magnitude: magnitude as f32, growth, axes: None };
    let turns = |f: &f32| f.is_finite() && *f >= 0.0;
    if !rope.inv_freq.iter().all(turns) || !rope.magnitude.is_finite() {
        return Err(invalid!(
            "{} and the numbers beside it give a rope that is no number.",
            keys.object().name(THETA)
        ));
    }
    Ok(rope)
}

/// `layers`: which of the two sets, where `rope_parameters` has one for each kind of layer.
fn read_keys<'a>(config: &'a Object<'a>, layers: &str) -> Result<RopeKeys<'a>> {
    let older = config.object("rope_scaling")?;
    let parameters = match config.object("rope_parameters")? {
        Some(all) => Some(all.object(layers)?.unwrap_or(all)),
        None => None,
    };
    let scaling = parameters.or(older);
    let theta = match scaling.as_ref().filter(|s| s.given(THETA).is_some()) {
        Some(own) => positive(own, THETA)?,
        None => positive(config, THETA)?,
    };
    // ChatGLM's way to say it.
    let theta = theta * config.positive("rope_ratio")?.unwrap_or(1.0);

    let Some(object) = &scaling else {
        return Ok(RopeKeys { theta, kind: "default", scaling, config });
    };
    let kind = object.text("rope_type")?.or(object.text("type")?).unwrap_or("default");
    // Of text alone the three positions are the same.
    let kind = if kind == "mrope" { "default" } else { kind };
    if !KINDS.contains(&kind) {
        return Err(Error::Unsupported(format!(
            "{}: rope scaling of type '{}' is not supported; supported: {}.",
            object.name("rope_type"),
            json::cut(kind),
            KINDS.join(", ")
        )));
    }
    Ok(RopeKeys { theta, kind, scaling, config })
}

/// How q grows: by `llama_4_scaling_beta` beside the kind, or by an object of its own, as Mistral's
/// format has it.
fn growth(keys: &RopeKeys) -> Result<Option<QueryGrowth>> {
    const BETA: &str = "llama_4_scaling_beta";
    const OWN: &str = "llama_4_scaling";
    let own = keys.config.object(OWN)?;
    let (object, key) = match &own {
        Some(own) => (own, "beta"),
        None => (keys.object(), BETA),
    };
    let zero = object.given(key).is_some_and(|beta| beta.as_f64() == Some(0.0));
    let Some(beta) = (if zero { None } else { object.positive(key)? }) else { return Ok(None) };

    let fits = |length: f64| (1.0..=f64::from(u32::MAX)).contains(&length);
    let length = object.positive(ORIGINAL)?.filter(|&length| fits(length));
    let length = object.needed(ORIGINAL, "a number of tokens", length)?;
    Ok(Some(QueryGrowth { beta: beta as f32, ahead: 0, length: length as u32 }))
}

/// GTE: the base times `factor`, and all waves `factor`^(2/d) times as long, at all lengths.
fn stretch_ntk(inv_freq: &mut [f64], keys: &RopeKeys) -> Result<()> {
    const MIXED: &str = "mixed_b";
    if keys.object().given(MIXED).is_some() {
        return Err(Error::Unsupported(format!(
            "{}: this form of rope scaling 'ntk' is not supported.",
            keys.object().name(MIXED)
        )));
    }
    let factor = keys.number("factor")?;
    let dim = 2.0 * inv_freq.len() as f64;
    for (i, f) in inv_freq.iter_mut().enumerate() {
        *f *= factor.powf(-(2.0 * i as f64 + 2.0) / dim);
    }
    Ok(())
}

/// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended. A wave's
/// length is 2 pi / f positions, the borders are the original length over the two frequency
/// factors.
fn stretch_llama3(inv_freq: &mut [f64], keys: &RopeKeys) -> Result<()> {
    let factor = keys.number("factor")?;
    let low = keys.number("low_freq_factor")?;
    let high = keys.number("high_freq_factor")?;
    let original = keys.number(ORIGINAL)?;
    if high < low {
        return Err(keys.object().wrong("high_freq_factor", "at least low_freq_factor"));
    }
    for f in inv_freq {
        let wave = 2.0 * std::f64::consts::PI / *f;
        if wave > original / low {
            *f /= factor;
        } else if wave >= original / high && high > low {
            let keep = (original / wave - low) / (high - low);
            *f = (1.0 - keep) * *f / factor + keep * *f;
        }
    }
    Ok(())
}

/// YaRN: pairs that turn more than `beta_fast` times over the original length are kept, those below
/// `beta_slow` slowed by `factor`, a ramp between. Returns the magnitude of cos and sin.
fn stretch_yarn(inv_freq: &mut [f64], keys: &RopeKeys) -> Result<f64> {
    let factor = keys.number("factor")?;
    let original = match keys.optional(ORIGINAL)? {
        Some(original) => original,
        None => positive(keys.config, "max_position_embeddings")?,
    };
    let dim = 2.0 * inv_freq.len() as f64;
    // The pair that turns this often over the original length.
    let pair = |turns: f64| {
        dim * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * keys.theta.ln())
    };
    let mut low = pair(keys.optional("beta_fast")?.unwrap_or(32.0));
    let mut high = pair(keys.optional("beta_slow")?.unwrap_or(1.0));
    if keys.object().flag("truncate")?.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    for (i, f) in inv_freq.iter_mut().enumerate() {
        let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        *f = *f / factor * slowed + *f * (1.0 - slowed);
    }
    let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    if let Some(given) = keys.optional("attention_factor")? {
        return Ok(given);
    }
    let both = (keys.unless_zero("mscale")?, keys.unless_zero("mscale_all_dim")?);
    let attention = keys.optional("attn_factor")?.unwrap_or(1.0);
    Ok(attention
        * match both {
            (Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
            _ => magnitude(1.0),
        })
}

/// Longrope (su): each pair has its own divisor, one set for texts up to the original length and
/// one for longer ones. Returns the magnitude of cos and sin.
fn stretch_longrope(inv_freq: &mut [f64], keys: &RopeKeys, max_model_len: usize) -> Result<f64> {
    let longest = positive(keys.config, "max_position_embeddings")?;
    let original = keys.optional(ORIGINAL)?.unwrap_or(longest);
    let long = max_model_len as f64 > original;
    let (key, own) =
        if long { ("long_factor", "long_mscale") } else { ("short_factor", "short_mscale") };
    let object = keys.object();
    let factors = object.positives(key, inv_freq.len())?;
    let expected = format!("a list of {} positive numbers", inv_freq.len());
    for (f, by) in inv_freq.iter_mut().zip(object.needed(key, &expected, factors)?) {
        *f /= by;
    }
    if let Some(given) = keys.optional(own)?.or(keys.optional("attention_factor")?) {
        return Ok(given);
    }
    let grown = longest / original;
    Ok(if grown <= 1.0 { 1.0 } else { (1.0 + grown.ln() / original.ln()).sqrt() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(config: &Value) -> Object<'_> {
        Object::new("config.json", config.as_object().unwrap())
    }

    /// `rope_theta` is 10000 unless said otherwise, as the families' defaults have it.
    fn with_theta(config: &Value) -> Value {
        let mut config = config.clone();
        config.as_object_mut().unwrap().entry("rope_theta").or_insert(json!(10000.0));
        config
    }

    fn rope(config: Value, head_dim: usize) -> Result<Rope> {
        from_config(&object(&with_theta(&config)), None, head_dim, 4096)
    }

    #[test]
    fn both_spellings_agree() {
        let scaling = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"});
        let old = json!({"rope_theta": 500000.0, "rope_scaling": scaling});
        let mut new = scaling.clone();
        new["rope_theta"] = json!(500000.0);
        let new = json!({"rope_parameters": new});
        let (old, new) = (rope(old, 128).unwrap(), rope(new, 128).unwrap());
        assert_eq!(old, new);
        assert_eq!(old.inv_freq[0], 1.0, "short waves are kept");
        let slowest = 500000f64.powf(-126.0 / 128.0) / 8.0;
        assert!((old.inv_freq[63] as f64 / slowest - 1.0).abs() < 1e-6, "long waves are slowed");
    }

    #[test]
    fn type_is_an_old_name_of_rope_type() {
        let config = json!({"rope_scaling": {"type": "linear", "factor": 4.0}});
        assert_eq!(rope(config.clone(), 8).unwrap().inv_freq[0], 0.25);
        assert_eq!(length_rule(&object(&with_theta(&config))).unwrap().factor, 4.0);
    }

    #[test]
    fn unknown_scaling_names_itself() {
        let e = rope(json!({"rope_scaling": {"type": "xpos", "factor": 4.0}}), 8).unwrap_err();
        assert!(e.message().contains("'xpos'") && e.message().contains("llama3"), "{e}");
        let e = rope(json!({"rope_scaling": {"type": "linear", "factor": 0}}), 8).unwrap_err();
        assert!(e.message().contains("'rope_scaling.factor'"), "{e}");
    }

    #[test]
    fn longrope_takes_the_set_that_the_length_asks_for() {
        let config = json!({"max_position_embeddings": 4096, "original_max_position_embeddings": 64,
            "rope_theta": 10000,
            "rope_scaling": {"type": "su", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0]}});
        let config = &object(&config);
        let short = from_config(config, None, 4, 64).unwrap();
        let long = from_config(config, None, 4, 65).unwrap();
        assert_eq!((short.inv_freq[0], long.inv_freq[0]), (1.0, 0.25));
        // ln 64 / ln 64 = 1.
        assert_eq!(long.magnitude, 2f32.sqrt());
        let rule = length_rule(config).unwrap();
        assert_eq!((rule.factor, rule.unasked), (1.0, Some(64.0)));
        let short_list = json!({"max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0]}});
        assert!(rope(short_list, 4)
            .unwrap_err()
            .message()
            .contains("a list of 2 positive numbers"));
    }

    #[test]
    fn yarn_grows_from_the_original_length() {
        let config = json!({"max_position_embeddings": 128,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5,
                "original_max_position_embeddings": 32}});
        let rule = length_rule(&object(&with_theta(&config))).unwrap();
        assert_eq!((rule.factor, rule.instead), (4.0, Some(32.0)));
        assert_eq!(rope(config, 8).unwrap().magnitude, 1.5);
    }

    #[test]
    fn windowed_layers_have_their_own_base() {
        let old = json!({"rope_theta": 81.0, "rope_local_base_freq": 16.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
        let new = json!({"rope_theta": 3.0, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 81.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 16.0}}});
        for config in [old, new] {
            let config = &object(&config);
            let near = |x: f32, want: f32| (x / want - 1.0).abs() < 1e-6;
            assert!(near(from_config(config, None, 4, 1).unwrap().inv_freq[1], 1.0 / 72.0));
            assert!(near(local(config, 4, 1).unwrap().inv_freq[1], 0.25));
        }
    }
}
