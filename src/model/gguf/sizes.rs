//! The sizes of a GGUF model that both its configuration and its tensors depend on. Called by
//! `config` and `tensors`.

use super::architectures::{self, Architecture};
use super::value::Keys;
use crate::error::{Error, Result};
use crate::invalid;

/// Widths and counts above this are a mistake in the file.
const SIZE_MAX: u64 = 1 << 24;

/// What a file's keys say of its sizes.
#[derive(Debug)]
pub(super) struct Sizes {
    pub architecture: &'static Architecture,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// 0: no layer has any.
    pub experts: usize,
}

impl Sizes {
    /// # Errors
    /// InvalidArgument: a key is missing or no size. Unsupported: another architecture.
    pub fn read(keys: &Keys) -> Result<Sizes> {
        const NAME: &str = "general.architecture";
        let name = keys.text(NAME)?;
        let name = name.ok_or_else(|| invalid!("'{NAME}' is missing: it is no language model."))?;
        let architecture = architectures::find(name)?;

        let size = |key: &str| size(keys, &format!("{name}.{key}"));
        let needed = |key: &str| {
            let missing = || invalid!("'{name}.{key}' is missing.");
            size(key)?.ok_or_else(missing)
        };
        let hidden = needed("embedding_length")?;
        let heads = needed("attention.head_count")?;
        let kv_heads = size("attention.head_count_kv")?.unwrap_or(heads);
        let key_length = size("attention.key_length")?;
        let value_length = size("attention.value_length")?;
        if value_length.is_some() && value_length != key_length {
            return Err(Error::Unsupported(format!(
                "'{name}.attention.value_length' is not '{name}.attention.key_length', which is \
                 not supported."
            )));
        }
        let head_dim = key_length.unwrap_or(hidden / heads);
        if head_dim == 0 {
            return Err(invalid!("'{name}.embedding_length' is {hidden}, less than its heads."));
        }

        let experts = match keys.count(&format!("{name}.expert_count"))? {
            None | Some(0) => 0,
            Some(_) => needed("expert_count")?,
        };
        Ok(Sizes { architecture, hidden, heads, kv_heads, head_dim, experts })
    }
}

/// A size from 1 on.
///
/// # Errors
/// InvalidArgument: another value.
pub(super) fn size(keys: &Keys, key: &str) -> Result<Option<usize>> {
    match keys.count(key)? {
        None => Ok(None),
        Some(n) if (1..=SIZE_MAX).contains(&n) => Ok(Some(n as usize)),
        Some(n) => Err(invalid!("'{key}' must be an integer in 1..={SIZE_MAX}, got {n}.")),
    }
}
