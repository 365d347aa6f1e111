//! What Falcon-H1 multiplies the inputs and outputs of products by, as factors of the products'
//! outputs: `load` folds them into weights. Called by `config` alone. It knows no tensor.

use serde_json::Value;

use super::keys::positive;
use crate::error::Result;
use crate::json::Object;
use crate::model::architectures::{Family, Multipliers};

/// Factors of products' outputs. All are 1 but in families that have some.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// Of q, k and v.
    pub qkv: [f32; 3],
    /// Of attention's output product.
    pub attn_out: f32,
    /// Of gate and up.
    pub gate_up: [f32; 2],
    /// Of the MLP's second product.
    pub down: f32,
    /// Of x, B, C, gate and rates of a selective scan.
    pub scan: [f32; 5],
    /// Of its output product.
    pub scan_out: f32,
}

impl Factors {
    /// All are 1.
    pub const ONE: Factors = Factors {
        qkv: [1.0; 3],
        attn_out: 1.0,
        gate_up: [1.0; 2],
        down: 1.0,
        scan: [1.0; 5],
        scan_out: 1.0,
    };
}

/// # Errors
/// A multiplier that is no positive number; a list of another length.
pub fn factors(config: &Object, family: &Family) -> Result<Factors> {
    if family.multipliers != Multipliers::FalconH1 {
        return Ok(Factors::ONE);
    }
    let attention = positive(config, "attention_in_multiplier")?;
    let key = positive(config, "key_multiplier")?;
    let [gate, down] = list(config, "mlp_multipliers")?;
    // config.json has the gate first.
    let [z, x, b, c, rates] = list(config, "ssm_multipliers")?;
    let scan = positive(config, "ssm_in_multiplier")?;
    Ok(Factors {
        qkv: [attention, attention * key, attention].map(|factor| factor as f32),
        attn_out: positive(config, "attention_out_multiplier")? as f32,
        gate_up: [gate as f32, 1.0],
        down: down as f32,
        scan: [x, b, c, z, rates].map(|factor| (scan * factor) as f32),
        scan_out: positive(config, "ssm_out_multiplier")? as f32,
    })
}

/// So many positive numbers; null means ones.
fn list<const N: usize>(config: &Object, key: &str) -> Result<[f64; N]> {
    let expected = format!("a list of {N} positive numbers");
    let Some(values) = config.list(key)? else { return Ok([1.0; N]) };
    let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
    let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
    numbers.and_then(|all| all.try_into().ok()).ok_or_else(|| config.wrong(key, &expected))
}
