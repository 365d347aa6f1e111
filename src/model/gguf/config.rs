//! A GGUF model's keys -> config.json of the same model, so that its specification is built by the
//! one reader of config.json. Called by `engine` at load, where no other config.json is named.

use serde_json::{json, Map, Value};

use super::files::Gguf;
use super::sizes::{size, Sizes};
use super::value::Keys;
use crate::error::{Error, Result};
use crate::invalid;
use crate::json::cut;

/// What Gemma's files leave out: fixed in the code that reads them.
const GEMMA3_LOCAL_BASE: f64 = 10_000.0;
const GEMMA2_LARGEST_LAYERS: u64 = 46;
const GEMMA3_LARGEST_LAYERS: u64 = 62;
/// Tokens that end a turn, for files that name only what ends a text.
const ENDS_OF_TURN: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];
const CONTROL: f64 = 3.0;

impl Gguf {
    /// config.json of this model.
    ///
    /// # Errors
    /// InvalidArgument: a key is missing or has another type. Unsupported: another architecture,
    /// or a way of rotating that is not built. One line that begins with the file's path.
    pub fn config(&self) -> Result<Map<String, Value>> {
        self.all().map_err(|e| self.at(e))
    }

    /// What this model's tensors know better than a config.json of another place, out of `own`,
    /// this model's configuration.
    pub fn over_config(&self, own: &Map<String, Value>) -> Map<String, Value> {
        let mut over = Map::new();
        for key in ["vocab_size", "tie_word_embeddings"] {
            over.extend(own.get(key).map(|value| (key.to_string(), value.clone())));
        }
        // Of the weights that such a config.json came with.
        for key in ["quantization_config", "compression_config"] {
            over.insert(key.into(), Value::Null);
        }
        over
    }

    fn all(&self) -> Result<Map<String, Value>> {
        let sizes = Sizes::read(&self.keys)?;
        let source = Source { gguf: self, keys: &self.keys, sizes: &sizes };
        source.config()
    }
}

/// A model whose keys are read by names without its architecture.
struct Source<'a> {
    gguf: &'a Gguf,
    keys: &'a Keys,
    sizes: &'a Sizes,
}

impl Source<'_> {
    fn config(&self) -> Result<Map<String, Value>> {
        let Sizes { architecture, hidden, heads, kv_heads, head_dim, experts } = *self.sizes;
        let class = if experts > 0 { architecture.mixture } else { architecture.plain };
        let class = class.ok_or_else(|| {
            let name = architecture.name;
            Error::Unsupported(format!("'{name}' with {experts} experts is not supported."))
        })?;
        let table = "token_embd.weight";
        let table =
            self.gguf.find(table).ok_or_else(|| invalid!("tensor '{table}' is missing."))?;

        let mut config = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(key.into(), value);
            }
        };
        set("architectures", Some(json!([class])));
        set("model_type", Some(json!(architecture.model_type)));
        set("vocab_size", Some(json!(table.rows)));
        set("hidden_size", Some(json!(hidden)));
        set("num_hidden_layers", Some(json!(self.needed("block_count")?)));
        set("num_attention_heads", Some(json!(heads)));
        set("num_key_value_heads", Some(json!(kv_heads)));
        set("head_dim", Some(json!(head_dim)));
        set("intermediate_size", self.size("feed_forward_length")?.map(Value::from));
        set("max_position_embeddings", Some(json!(self.needed("context_length")?)));
        let eps = self.number("attention.layer_norm_rms_epsilon")?;
        set("rms_norm_eps", eps.map(Value::from));
        set("tie_word_embeddings", Some(json!(self.gguf.find("output.weight").is_none())));
        let has_bias = |name: &str| self.gguf.find(&format!("blk.0.{name}.bias")).is_some();
        set("attention_bias", Some(json!(has_bias("attn_q") || has_bias("attn_output"))));
        set("qkv_bias", Some(json!(has_bias("attn_q"))));
        set("mlp_bias", Some(json!(has_bias("ffn_up"))));
        set("eos_token_id", self.ends()?);

        config.extend(self.experts()?);
        config.extend(self.attention()?);
        config.extend(self.rope()?);
        Ok(config)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.sizes.architecture.name)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        size(self.keys, &self.key(key))
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| invalid!("'{}' is missing.", self.key(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.keys.number(&self.key(key))
    }

    /// The ids that end a text or a turn.
    fn ends(&self) -> Result<Option<Value>> {
        let mut ids: Vec<u64> = Vec::new();
        for role in ["eos", "eot", "eom"] {
            ids.extend(self.keys.count(&format!("tokenizer.ggml.{role}_token_id"))?);
        }
        if !self.keys.has("tokenizer.ggml.eot_token_id") {
            let tokens = self.keys.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
            let kinds = self.keys.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
            let all = tokens.iter().zip(kinds).zip(0u64..);
            let ends = |((token, kind), _): &((&&str, f64), u64)| {
                *kind == CONTROL && ENDS_OF_TURN.contains(token)
            };
            ids.extend(all.filter(ends).map(|(_, id)| id));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok((!ids.is_empty()).then(|| json!(ids)))
    }

    fn experts(&self) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        if self.sizes.experts == 0 {
            return Ok(config);
        }
        config.insert("num_experts".into(), json!(self.sizes.experts));
        config.insert("num_experts_per_tok".into(), json!(self.needed("expert_used_count")?));
        if let Some(width) = self.size("expert_feed_forward_length")? {
            config.insert("moe_intermediate_size".into(), json!(width));
        }
        if let Some(width) = self.size("expert_shared_feed_forward_length")? {
            config.insert("shared_expert_intermediate_size".into(), json!(width));
        }
        // Where the file does not say: all published models of Qwen 3 divide by the sum.
        let usual = self.sizes.architecture.name == "qwen3moe";
        let said = self.keys.flag(&self.key("expert_weights_norm"))?;
        config.insert("norm_topk_prob".into(), json!(said.unwrap_or(usual)));
        Ok(config)
    }

    /// Windows, caps and scale of attention.
    fn attention(&self) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        let Sizes { architecture, hidden, heads, head_dim, .. } = *self.sizes;
        let window = self.keys.count(&self.key("attention.sliding_window"))?;
        let largest = match architecture.name {
            "gemma2" => GEMMA2_LARGEST_LAYERS,
            "gemma3" => GEMMA3_LARGEST_LAYERS,
            "phi3" => {
                config.insert("sliding_window".into(), window.map_or(Value::Null, Value::from));
                return Ok(config);
            }
            _ => return Ok(config),
        };

        if let Some(window) = window {
            config.insert("sliding_window".into(), json!(window));
        }
        let pattern = self.key("attention.sliding_window_pattern");
        if let Some(windowed) = self.keys.flags(&pattern)? {
            let kind = |windowed| if windowed { "sliding_attention" } else { "full_attention" };
            config.insert("layer_types".into(), windowed.into_iter().map(kind).collect());
        } else if let Some(each) = size(self.keys, &pattern)? {
            config.insert("sliding_window_pattern".into(), json!(each));
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if architecture.name == "gemma2" {
                let cap = self.number(key)?;
                config.extend(cap.map(|cap| (key.to_string(), json!(cap))));
            }
        }
        // The largest model of each generation scales by its width; a file may say so itself.
        let of_width = self.needed("block_count")? as u64 == largest;
        let scalar = match self.number("attention.scale")?.filter(|&scale| scale > 0.0) {
            Some(scale) => 1.0 / (scale * scale),
            None if of_width => hidden as f64 / heads as f64,
            None => head_dim as f64,
        };
        config.insert("query_pre_attn_scalar".into(), json!(scalar));
        Ok(config)
    }

    /// Base, stretch and rotated share.
    fn rope(&self) -> Result<Map<String, Value>> {
        let mut config = Map::new();
        let Sizes { architecture, head_dim, .. } = *self.sizes;
        let base = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        config.insert("rope_theta".into(), json!(base));
        if architecture.name == "gemma3" {
            let local = self.number("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_BASE);
            config.insert("rope_local_base_freq".into(), json!(local));
        }
        let rotated = self.size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim {
            config.insert("partial_rotary_factor".into(), share(rotated, head_dim));
        }

        let scaling = self.rope_scaling()?;
        if let Some(original) = self.size("rope.scaling.original_context_length")? {
            config.insert("original_max_position_embeddings".into(), json!(original));
        }
        if let Some(scaling) = scaling {
            config.insert("rope_scaling".into(), Value::Object(scaling));
        }
        Ok(config)
    }

    fn rope_scaling(&self) -> Result<Option<Map<String, Value>>> {
        let factors = |name: &str| self.gguf.floats(name);
        let attention = self.number("rope.scaling.attn_factor")?;
        let mut scaling = Map::new();
        let mut set = |key: &str, value: Value| {
            scaling.insert(key.into(), value);
        };
        let long = factors("rope_factors_long.weight")?;
        if let Some((long, short)) = long.zip(factors("rope_factors_short.weight")?) {
            set("rope_type", json!("longrope"));
            set("long_factor", json!(long));
            set("short_factor", json!(short));
            if let Some(attention) = attention {
                set("attention_factor", json!(attention));
            }
            return Ok(Some(scaling));
        }
        // Llama 3.1's stretch comes as what each frequency is divided by.
        if let Some(factors) = factors("rope_freqs.weight")? {
            set("rope_type", json!("longrope"));
            set("long_factor", json!(factors));
            set("short_factor", json!(factors));
            set("attention_factor", json!(1.0));
            return Ok(Some(scaling));
        }

        const KIND: &str = "rope.scaling.type";
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            factor => factor,
        };
        let kind = self.keys.text(&self.key(KIND))?;
        match kind.or(factor.map(|_| "linear")) {
            None | Some("none") => return Ok(None),
            Some("linear") if factor.is_none_or(|factor| factor == 1.0) => return Ok(None),
            Some("linear") => set("rope_type", json!("linear")),
            Some("yarn") => set("rope_type", json!("yarn")),
            Some(other) => {
                return Err(Error::Unsupported(format!(
                    "'{}' is '{}', which is not supported; supported: none, linear, yarn, and \
                     longrope with tensors rope_factors_long and rope_factors_short.",
                    self.key(KIND),
                    cut(other)
                )))
            }
        }
        let missing = || invalid!("'{}' is missing.", self.key("rope.scaling.factor"));
        set("factor", json!(factor.ok_or_else(missing)?));
        if kind == Some("yarn") {
            if let Some(original) = self.size("rope.scaling.original_context_length")? {
                set("original_max_position_embeddings", json!(original));
            }
            for (key, own) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(x) = self.number(&format!("rope.scaling.{key}"))? {
                    set(own, json!(x));
                }
            }
        }
        Ok(Some(scaling))
    }
}

/// The share of a head that is rotated, so that head_dim times it is not less than `rotated`.
fn share(rotated: usize, head_dim: usize) -> Value {
    let share = rotated as f64 / head_dim as f64;
    let short = (head_dim as f64 * share) < rotated as f64;
    json!(if short { share.next_up() } else { share })
}
