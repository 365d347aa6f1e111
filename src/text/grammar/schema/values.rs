//! Numbers, texts and constants of a schema, where the engine would read them otherwise than they
//! are meant: it holds numbers as f64, and knows formats by its own list. Called by the writer of
//! schemas; each function sees one value.

use serde_json::{Map, Number, Value};

use crate::error::Result;
use crate::invalid;

/// The largest f64 below 2^63: bounds of integers are held as i64.
const EDGE: f64 = 9_223_372_036_854_774_784.0;
/// Beyond it an f64 does not hold every integer.
const EXACT: i128 = 1 << 53;
/// Numbers of so many digits cannot be told from one side only.
const WIDE: i128 = 1_000_000_000_000_000_000;
/// Digits of `multipleOf`, without the point: the engine computes with u32.
const MAX_MULTIPLE: u128 = 100_000_000;

const DATE: &str = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|\
                    (?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-9]))";
const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:[.][0-9]{1,9})?\
                    (?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

pub(super) enum Format {
    /// By the engine, as it is meant.
    Known,
    /// This is what is meant.
    Pattern(String),
    /// A note for readers.
    Unknown,
}

/// RFC 3339 allows small letters in times; vLLM's default engine writes `T` and `Z` only, and most
/// readers take no others. Nor do they take more than nanoseconds, which a model writes for ever.
pub(super) fn format(name: &str) -> Format {
    const KNOWN: [&str; 9] =
        ["date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown"];
    match name {
        "date-time" => Format::Pattern(format!("^{DATE}T{TIME}$")),
        "time" => Format::Pattern(format!("^{TIME}$")),
        name if KNOWN.contains(&name) => Format::Known,
        _ => Format::Unknown,
    }
}

/// Round the bounds of an integer inwards to what the engine holds: what it writes then keeps the
/// bounds that were meant.
pub(super) fn bound_integers(schema: &mut Map<String, Value>) {
    let named = |name: &str| match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(list)) => list.iter().any(|one| one == name),
        _ => false,
    };
    if !named("integer") || named("number") {
        return;
    }

    for (key, exclusive, inward) in
        [("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)]
    {
        if let Some(bound) = schema.get(exclusive).and_then(whole).filter(|n| n.abs() >= EXACT) {
            let other = schema.get(key).and_then(whole);
            let meant = match (other, inward) {
                (Some(other), 1) => other.max(bound + 1),
                (Some(other), _) => other.min(bound - 1),
                (None, _) => bound + inward,
            };
            schema.shift_remove(exclusive);
            schema.insert(key.into(), rounded(meant, inward));
        } else if let Some(bound) = schema.get(key).and_then(whole).filter(|n| n.abs() >= EXACT) {
            schema.insert(key.into(), rounded(bound, inward));
        }
    }

    let bound = |key: &str| schema.get(key).and_then(whole);
    let (low, high) = (bound("minimum"), bound("maximum"));
    if low.is_some_and(|low| low >= WIDE) && high.is_none() {
        schema.insert("maximum".into(), EDGE.into());
    } else if high.is_some_and(|high| high <= -WIDE) && low.is_none() {
        schema.insert("minimum".into(), (-EDGE).into());
    }
}

/// A number without a fraction.
fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let float = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e38);
    integer.or_else(|| float.map(|f| f as i128))
}

/// The nearest f64 that is not outside of the bound.
fn rounded(bound: i128, inward: i128) -> Value {
    let mut near = bound as f64;
    if (near as i128 - bound) * inward < 0 {
        near = if inward > 0 { near.next_up() } else { near.next_down() };
    }
    Number::from_f64(near.clamp(-EDGE, EDGE)).map_or(Value::Null, Value::Number)
}

/// # Errors
/// InvalidArgument: an integer that the engine would change.
pub(super) fn check_exact(constant: &Value) -> Result<()> {
    let mut open = vec![constant];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(map) => open.extend(map.values()),
            Value::Number(number)
                if (number.is_i64() || number.is_u64())
                    && whole(value).is_some_and(|n| n.abs() > EXACT) =>
            {
                return Err(invalid!(
                    "Grammar error: the constant {number} of the schema is larger than 2^53: make \
                     it a text"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// # Errors
/// InvalidArgument: the least common multiple of these has too many digits.
pub(super) fn check_common_multiple<'a>(all: impl Iterator<Item = &'a Value>) -> Result<()> {
    let parsed: Vec<(u128, u32)> = all.filter_map(Value::as_f64).map(decimal).collect();
    let digits = parsed.iter().map(|(_, digits)| *digits).max().unwrap_or(0);
    let mut common: u128 = 1;
    for (coefficient, own) in parsed {
        let scaled = coefficient.saturating_mul(10u128.saturating_pow(digits - own)).max(1);
        common = (common / divisor(common, scaled)).saturating_mul(scaled);
        if common > MAX_MULTIPLE {
            return Err(invalid!(
                "Grammar error: multipleOf, with those that hold together with it, makes a number \
                 above the limit of {MAX_MULTIPLE} (without its point): use smaller values"
            ));
        }
    }
    Ok(())
}

/// A number as an integer and how many of its digits stand behind the point; at most 12.
fn decimal(number: f64) -> (u128, u32) {
    let (mut number, mut digits) = (number.abs(), 0);
    while number.fract() != 0.0 && digits < 12 {
        number *= 10.0;
        digits += 1;
    }
    (number as u128, digits)
}

fn divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}
