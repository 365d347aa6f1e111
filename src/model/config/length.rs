//! How long a request may get: config.json's length keys, the rope's stretch and the user's
//! `max_model_len`, by the Python backend's rules. Called by `config` alone; it knows no page and
//! no memory.

use super::keys::MAX_DIMENSION;
use super::rope::{self, LengthRule};
use super::side_files::SideFiles;
use crate::error::Result;
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{Family, Positions, RopeLayers};

/// Used when config.json names no length at all, as the Python backend does.
const FALLBACK_LEN: usize = 2048;

/// How long the checkpoint says it may get, and by which key.
pub struct DerivedLen {
    key: &'static str,
    /// As the Python backend computes it: a float, since a rope factor may be one.
    len: Option<f64>,
    model_max_length: Option<f64>,
    /// Longer than this only if the user says so.
    unasked: Option<f64>,
}

/// How long a text may be, and the positions of a learned table. `files` count for models that
/// embed.
///
/// # Errors
/// Those of [`rope::length_rule`]; a length that is no positive number.
pub fn of(
    config: &Object,
    family: &Family,
    files: Option<&SideFiles>,
) -> Result<(DerivedLen, usize)> {
    let (rule, before) = match family.positions {
        Positions::Rope if family.rope_layers == RopeLayers::None => (LengthRule::default(), 0),
        Positions::Rope => (rope::length_rule(config)?, 0),
        Positions::Learned { offset, inclusive: true, .. } => (LengthRule::default(), offset),
        Positions::Learned { .. } | Positions::Alibi { .. } => (LengthRule::default(), 0),
    };

    let mut length = DerivedLen::of(config, &rule)?;
    let table = length.tokens().saturating_sub(before).max(1);
    if before > 0 {
        length.limit(table, "max_position_embeddings");
    }
    if let Some(files) = files {
        let absolute = files.tokenizer_max_length.filter(|_| family.encoder);
        for (tokens, key) in
            [(absolute, "model_max_length"), (files.max_seq_length, "max_seq_length")]
        {
            tokens.into_iter().for_each(|tokens| length.limit(tokens, key));
        }
    }
    Ok((length, table))
}

impl DerivedLen {
    /// The smallest of all length keys, stretched as the rope says; `model_max_length` replaces it.
    ///
    /// # Errors
    /// One of them is no number from 1 on.
    pub fn of(config: &Object, rope: &LengthRule) -> Result<DerivedLen> {
        const KEYS: [&str; 9] = [
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "seq_length",
            "model_max_length",
            "max_target_positions",
            "max_sequence_length",
            "max_seq_length",
            "seq_len",
        ];
        let value = |key: &str| match config.positive(key)? {
            Some(x) if x < 1.0 => Err(config.wrong(key, "a number of tokens")),
            length => Ok(length),
        };

        let mut found =
            DerivedLen { key: KEYS[0], len: None, model_max_length: None, unasked: rope.unasked };
        for key in KEYS {
            match value(key)? {
                Some(x) if found.len.is_none_or(|len| x < len) => {
                    (found.key, found.len) = (key, Some(x));
                }
                _ => {}
            }
        }

        found.model_max_length = value("model_max_length")?;
        if let Some(x) = found.model_max_length {
            (found.key, found.len) = ("model_max_length", Some(x));
        }
        if rope.instead.is_some() {
            found.len = rope.instead;
        }
        found.len = found.len.map(|x| x * rope.factor);
        Ok(found)
    }

    /// No longer than this window, if there is one.
    pub fn within(&mut self, window: Option<usize>) {
        if let Some(window) = window.filter(|&w| w < self.tokens()) {
            (self.key, self.len, self.model_max_length) =
                ("sliding_window", Some(window as f64), None);
        }
    }

    /// The checkpoint's own limit.
    pub fn tokens(&self) -> usize {
        self.len.map_or(FALLBACK_LEN, |x| x.clamp(1.0, MAX_DIMENSION as f64) as usize)
    }

    /// Another fact, by this key, allows no more than `tokens`.
    pub fn limit(&mut self, tokens: usize, key: &'static str) {
        if self.len.is_none_or(|len| tokens as f64 <= len) {
            (self.key, self.len) = (key, Some(tokens as f64));
        }
    }

    /// The user's length if it fits.
    ///
    /// # Errors
    /// It is no length, or more than the checkpoint's; the text is the Python backend's.
    /// A learned table ends where it ends, so there the environment
    /// variable that lets longer ones pass has no effect.
    pub fn choose(&self, user: Option<i64>, learned: bool) -> Result<usize> {
        let user = match user {
            None | Some(-1) => {
                let own = self.tokens();
                if self.len.is_none() {
                    tracing::warn!(
                        "config.json names no length: max_model_len is {FALLBACK_LEN}; set it in \
                         model.json if the model allows more"
                    );
                }
                return Ok(self.unasked.map_or(own, |x| own.min((x as usize).max(1))));
            }
            Some(x) if x >= 1 && x as usize <= MAX_DIMENSION => x as usize,
            Some(x) => {
                return Err(invalid!(
                    "max_model_len must be -1 or in 1..={MAX_DIMENSION}, got {x}."
                ))
            }
        };

        let Some(len) = self.len else { return Ok(user) };
        if user as f64 <= len || self.model_max_length.is_some_and(|m| user as f64 <= m) {
            return Ok(user);
        }
        let allowed = std::env::var("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
        if !learned && allowed.is_ok_and(|v| v.trim() == "1") {
            tracing::warn!(
                "max_model_len {user} is more than the model's {len:.0} ({}), as \
                 VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 allows: texts that long may turn out bad",
                self.key
            );
            return Ok(user);
        }

        let model_max = self.model_max_length.map_or("None".to_string(), |m| m.to_string());
        Err(invalid!(
            "User-specified max_model_len ({user}) is greater than the derived max_model_len \
             ({}={len:.1} or model_max_length={model_max} in model's config.json). To allow \
             overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. \
             VLLM_ALLOW_LONG_MAX_MODEL_LEN must be used with extreme caution. If the model uses \
             relative position encoding (RoPE), positions exceeding derived_max_model_len lead to \
             nan. If the model uses absolute position encoding, positions exceeding \
             derived_max_model_len will cause a CUDA array out-of-bounds error.",
            self.key
        ))
    }
}
