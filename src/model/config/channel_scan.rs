//! The selective scan of Mamba 1 by config.json: channels, widths and norms. Called by `recurrent`
//! alone. Keys are Jamba's, or spelled as these by the row. It knows no tensor and no layer.

use super::keys::{flag, needed_width, positive, width, MAX_WIDTH};
use crate::device::ChannelScanSpec;
use crate::error::Result;
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{ChannelNorms, ChannelScan, Flag};

/// Columns of a channel's row at most: what devices are made for.
const MAX_STATE: usize = 64;
const RANK: &str = "mamba_dt_rank";

/// A layer's scan, of a whole model or of what one rank holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelScanShape {
    /// Its channels.
    pub scan: ChannelScanSpec,
    /// Width of what rates are made of.
    pub rank: usize,
    /// The convolution has a bias.
    pub convolution_bias: bool,
    /// The products in front of it and behind it have one.
    pub bias: bool,
    /// Epsilon of the norms of rates, B and C, if these have no weights.
    pub norm_eps: Option<f32>,
}

/// # Errors
/// A size that is no such thing; a state wider than devices take.
pub fn shape(config: &Object, row: &ChannelScan, hidden: usize) -> Result<ChannelScanShape> {
    let own = match row.width {
        Some(key) => width(config, key)?,
        None => None,
    };
    let channels = match own {
        Some(channels) => channels,
        None => hidden.saturating_mul(needed_width(config, "mamba_expand")?),
    };
    if channels > MAX_WIDTH {
        return Err(invalid!(
            "{} makes {channels} channels, at most {MAX_WIDTH} can be.",
            config.name("mamba_expand")
        ));
    }

    let state = config.count("mamba_d_state", MAX_STATE)?;
    let state = config.needed("mamba_d_state", "an integer", state)?;
    let auto = config.given(RANK).is_none_or(|value| value == "auto");
    let norm_eps = match row.norms {
        ChannelNorms::Unweighted(key) => Some(positive(config, key)? as f32),
        ChannelNorms::None | ChannelNorms::Weighted(_) => None,
    };
    Ok(ChannelScanShape {
        scan: ChannelScanSpec { width: channels, state },
        rank: if auto { hidden.div_ceil(16) } else { needed_width(config, RANK)? },
        convolution_bias: flag(config, Flag::Key("mamba_conv_bias"))?,
        bias: flag(config, Flag::Key("mamba_proj_bias"))?,
        norm_eps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architectures;
    use serde_json::{json, Value};

    fn of(architecture: &str, config: Value) -> Result<ChannelScanShape> {
        let family = architectures::find(architecture).unwrap();
        let Some(architectures::Recurrent::ChannelScan(row)) = &family.recurrent else {
            panic!("{architecture} has another scan")
        };
        let defaults = serde_json::from_str(family.defaults).unwrap();
        let config = Object::new("config.json", config.as_object().unwrap());
        shape(&config.with(family.spellings, &defaults), row, 40)
    }

    #[test]
    fn channels_and_ranks_are_given_or_made() {
        let shape = of("JambaForCausalLM", json!({"intermediate_size": 7})).unwrap();
        assert_eq!((shape.scan.width, shape.scan.state, shape.rank), (80, 16, 3));
        let own = json!({"intermediate_size": 96, "time_step_rank": 5, "state_size": 8});
        let shape = of("MambaForCausalLM", own).unwrap();
        assert_eq!((shape.scan.width, shape.scan.state, shape.rank), (96, 8, 5));
        let shape = of("FalconMambaForCausalLM", json!({})).unwrap();
        assert_eq!((shape.scan.width, shape.norm_eps), (80, Some(1e-6)));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (config, word) in [
            (json!({"mamba_d_state": 65}), "mamba_d_state"),
            (json!({"mamba_expand": 0}), "mamba_expand"),
            (json!({"mamba_dt_rank": -1}), "mamba_dt_rank"),
            (json!({"mamba_conv_bias": 1}), "mamba_conv_bias"),
        ] {
            let text = of("JambaForCausalLM", config).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
