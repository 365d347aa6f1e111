//! The selective scan of Mamba 2 by config.json: heads, groups and widths. Called by `recurrent`
//! alone. Keys are Granite's, or spelled as these by the row. It knows no tensor and no layer.

use super::keys::{flag, needed_width, width, MAX_WIDTH};
use crate::device::ScanSpec;
use crate::error::Result;
use crate::invalid;
use crate::json::Object;
use crate::model::architectures::{Flag, SelectiveScan};

/// Columns of a matrix at most: what devices are made for.
const MAX_STATE: usize = 256;
const HEADS: &str = "mamba_n_heads";
const HEAD_DIM: &str = "mamba_d_head";
const GROUPS: &str = "mamba_n_groups";

/// A layer's scan, of a whole model or of what one rank holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanShape {
    /// Its heads.
    pub scan: ScanSpec,
    /// The convolution has a bias.
    pub convolution_bias: bool,
    /// The products in front of it and behind it have one.
    pub bias: bool,
    /// Its gated output is normed.
    pub normed: bool,
}

/// # Errors
/// A size that is no such thing; heads that are no multiple of the groups; heads whose widths are
/// no width; a state wider than devices take.
pub fn shape(config: &Object, row: &SelectiveScan, hidden: usize) -> Result<ScanShape> {
    let heads = needed_width(config, HEADS)?;
    let groups = needed_width(config, GROUPS)?;
    let state = config.count("mamba_d_state", MAX_STATE)?;
    let state = config.needed("mamba_d_state", "an integer", state)?;
    let scan = ScanSpec { heads, head_dim: head_dim(config, hidden, heads)?, groups, state };
    if !heads.is_multiple_of(groups) {
        return Err(invalid!(
            "{} is {heads}, which is not a multiple of '{GROUPS}' {groups}.",
            config.name(HEADS)
        ));
    }
    // Each is small, so these products are numbers.
    if scan.inner_width() > MAX_WIDTH || scan.group_width() > MAX_WIDTH {
        return Err(invalid!(
            "{} is {heads}, and its heads or groups make more than {MAX_WIDTH} columns.",
            config.name(HEADS)
        ));
    }
    Ok(ScanShape {
        scan,
        convolution_bias: flag(config, Flag::Key("mamba_conv_bias"))?,
        bias: flag(config, Flag::Key("mamba_proj_bias"))?,
        normed: flag(config, row.normed)?,
    })
}

/// Width of a head; "auto": what heads have of `mamba_d_ssm`, or of `mamba_expand` times the
/// residual.
fn head_dim(config: &Object, hidden: usize, heads: usize) -> Result<usize> {
    let auto = config.given(HEAD_DIM).is_none_or(|value| value == "auto");
    if !auto {
        return needed_width(config, HEAD_DIM);
    }
    let inner = match width(config, "mamba_d_ssm")? {
        Some(inner) => inner,
        None => hidden.saturating_mul(needed_width(config, "mamba_expand")?),
    };
    if !inner.is_multiple_of(heads) {
        return Err(invalid!(
            "{} is {heads}, which does not divide the {inner} columns of all heads.",
            config.name(HEADS)
        ));
    }
    Ok(inner / heads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Map, Value};

    const ROW: SelectiveScan = SelectiveScan {
        layers: crate::model::architectures::ScanLayers::Listed,
        module: "mamba",
        normed: Flag::Always,
    };

    fn of(more: Value) -> Result<ScanShape> {
        let keys = json!({"mamba_n_heads": 8, "mamba_d_head": "auto", "mamba_n_groups": 2,
            "mamba_d_state": 16, "mamba_expand": 2, "mamba_conv_bias": true,
            "mamba_proj_bias": false});
        let mut keys = keys.as_object().unwrap().clone();
        keys.extend(more.as_object().unwrap().clone());
        let defaults = Map::new();
        shape(&Object::new("config.json", &keys).with(&[], &defaults), &ROW, 48)
    }

    #[test]
    fn heads_have_a_width_or_share_one() {
        let widths = |more| of(more).map(|shape| shape.scan.head_dim).unwrap();
        assert_eq!(widths(json!({})), 12);
        assert_eq!(widths(json!({"mamba_d_ssm": 64})), 8);
        assert_eq!(widths(json!({"mamba_d_head": 10})), 10);
        let shape = of(json!({})).unwrap();
        assert_eq!(shape.scan.mixed_width(), 96 + 2 * 2 * 16);
        assert!(shape.convolution_bias && shape.normed && !shape.bias);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (more, word) in [
            (json!({"mamba_n_heads": 0}), "mamba_n_heads"),
            (json!({"mamba_n_heads": 7}), "mamba_n_heads"),
            (json!({"mamba_n_groups": 3}), "mamba_n_groups"),
            (json!({"mamba_d_state": 257}), "mamba_d_state"),
            (json!({"mamba_d_head": "x"}), "mamba_d_head"),
            (json!({"mamba_d_head": 1 << 20}), "mamba_n_heads"),
            (json!({"mamba_expand": null}), "mamba_expand"),
            (json!({"mamba_conv_bias": 1}), "mamba_conv_bias"),
        ] {
            let text = of(more).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
