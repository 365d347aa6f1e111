//! How compressed-tensors describes the quantisation of one tensor: `weights`, `input_activations`
//! and the like of a group (its `QuantizationArgs`). Called by `compressed`, which judges what they
//! make together.

use std::fmt;

use crate::error::Result;
use crate::json::Object;

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    Tensor,
    /// Each row.
    Channel,
    /// So many inputs of a row.
    Group(usize),
    /// 128 x 128, the only block there is.
    Block,
    /// Each row of activations.
    Token,
    /// So many inputs, and one scale for all of them beside.
    TensorGroup(usize),
    /// Each head.
    Head,
}

/// Why an order of inputs was chosen when the weight was made, and what of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Usual,
    /// `weight_g_idx`: the group of each input.
    Stored,
}

/// Of one tensor.
#[derive(Debug, Clone)]
pub struct Args {
    pub bits: u32,
    /// E4M3 or E2M1; else integers.
    pub float: bool,
    pub symmetric: bool,
    pub strategy: Strategy,
    /// Scales are made as the model runs.
    pub dynamic: bool,
    pub order: Order,
    /// Scales are powers of two in a byte.
    pub byte_scales: bool,
}

impl fmt::Display for Args {
    /// As messages of the Python backend show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |yes| if yes { "True" } else { "False" };
        let (strategy, group) = match self.strategy {
            Strategy::Tensor => ("tensor", None),
            Strategy::Channel => ("channel", None),
            Strategy::Group(group) => ("group", Some(group)),
            Strategy::Block => ("block", None),
            Strategy::Token => ("token", None),
            Strategy::TensorGroup(group) => ("tensor_group", Some(group)),
            Strategy::Head => ("attn_head", None),
        };
        write!(
            f,
            "QuantizationArgs(num_bits={}, type='{}', symmetric={}, group_size={}, \
             strategy='{strategy}', dynamic={})",
            self.bits,
            if self.float { "float" } else { "int" },
            word(self.symmetric),
            group.map_or("None".into(), |group| group.to_string()),
            word(self.dynamic)
        )
    }
}

/// Groups are no longer than a row.
const MAX_GROUP: i64 = 1 << 20;

/// The object under `key`; None: absent or null.
///
/// # Errors
/// InvalidArgument: a value of a key that is none.
pub fn args(group: &Object, key: &str) -> Result<Option<Args>> {
    let Some(object) = group.object(key)? else { return Ok(None) };
    let bits = object.integer("num_bits", 1, 32)?.unwrap_or(8);
    let float = match object.text("type")?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("int") => false,
        Some("float") => true,
        Some(_) => return Err(object.wrong("type", "'int' or 'float'")),
    };
    Ok(Some(Args {
        bits: bits as u32,
        float,
        symmetric: object.flag("symmetric")?.unwrap_or(true),
        strategy: strategy(&object)?,
        dynamic: dynamic(&object)?,
        order: order(&object)?,
        byte_scales: object.text("scale_dtype")?.is_some_and(|d| d.ends_with("uint8")),
    }))
}

/// As the package infers it where it is not said.
fn strategy(object: &Object) -> Result<Strategy> {
    const SIZE: &str = "group_size";
    let size = object.integer(SIZE, -1, MAX_GROUP)?;
    let group = || match size.and_then(|size| usize::try_from(size).ok()) {
        Some(0) | None => Err(object.wrong(SIZE, "an integer above 0")),
        Some(size) => Ok(size),
    };

    Ok(match object.text("strategy")?.map(str::to_ascii_lowercase).as_deref() {
        None => match size {
            None => Strategy::Tensor,
            Some(-1) => Strategy::Channel,
            Some(_) => Strategy::Group(group()?),
        },
        Some("tensor") => Strategy::Tensor,
        Some("channel") => Strategy::Channel,
        Some("group") => Strategy::Group(group()?),
        Some("tensor_group") => Strategy::TensorGroup(group()?),
        Some("block") => block(object)?,
        Some("token") => Strategy::Token,
        Some("attn_head") => Strategy::Head,
        Some(_) => {
            return Err(object.wrong(
                "strategy",
                "one of tensor, channel, group, tensor_group, block, token, attn_head",
            ))
        }
    })
}

/// `[128, 128]`, or `"128x128"` as older files have it.
fn block(object: &Object) -> Result<Strategy> {
    const KEY: &str = "block_structure";
    let is_text = object.given(KEY).is_some_and(serde_json::Value::is_string);
    if is_text {
        return match object.text(KEY)? {
            Some("128x128") => Ok(Strategy::Block),
            _ => Err(object.wrong(KEY, "[128, 128]")),
        };
    }
    super::layers::block(object, KEY).map(|()| Strategy::Block)
}

/// True, false, or "local": the scales of groups only.
fn dynamic(object: &Object) -> Result<bool> {
    const KEY: &str = "dynamic";
    match object.given(KEY) {
        None => Ok(false),
        Some(serde_json::Value::Bool(dynamic)) => Ok(*dynamic),
        Some(serde_json::Value::String(text)) if text.eq_ignore_ascii_case("local") => Ok(true),
        Some(_) => Err(object.wrong(KEY, "true, false or 'local'")),
    }
}

/// `weight` and `static` change nothing that is stored, `group` and `dynamic` do.
fn order(object: &Object) -> Result<Order> {
    const KEY: &str = "actorder";
    match object.given(KEY) {
        None | Some(serde_json::Value::Bool(false)) => Ok(Order::Usual),
        Some(serde_json::Value::Bool(true)) => Ok(Order::Stored),
        Some(serde_json::Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "weight" | "static" => Ok(Order::Usual),
            "group" | "dynamic" => Ok(Order::Stored),
            _ => Err(object.wrong(KEY, "one of weight, static, group, dynamic")),
        },
        Some(_) => Err(object.wrong(KEY, "one of weight, static, group, dynamic")),
    }
}
