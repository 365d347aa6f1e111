//! Values of a GGUF file's keys, read by type. Made by `header`; what a key means is known to who
//! asks for it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::invalid;
use crate::json::cut;

/// Kinds of values, by their numbers in a file.
pub(super) mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// Bytes of a value of this kind; None: it has no fixed length, or there is no such kind.
pub(super) fn width(kind: u32) -> Option<usize> {
    match kind {
        kind::U8 | kind::I8 | kind::BOOL => Some(1),
        kind::U16 | kind::I16 => Some(2),
        kind::U32 | kind::I32 | kind::F32 => Some(4),
        kind::U64 | kind::I64 | kind::F64 => Some(8),
        _ => None,
    }
}

/// A key's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    Array(Array),
}

/// An array as it lies in the file; its bytes were found to hold `count` elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub kind: u32,
    pub count: usize,
    /// Empty where the elements are arrays, which nobody reads.
    pub bytes: Vec<u8>,
}

impl Value {
    /// A number or flag of these bytes, as many as `width` says.
    pub fn of(kind: u32, bytes: &[u8]) -> Option<Value> {
        let int = |n: i128| Some(Value::Int(n));
        match kind {
            kind::U8 => int(bytes.first().copied()?.into()),
            kind::I8 => int(bytes.first().copied()?.cast_signed().into()),
            kind::BOOL => Some(Value::Flag(*bytes.first()? != 0)),
            kind::U16 => int(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::I16 => int(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::U32 => int(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::I32 => int(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::U64 => int(u64::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::I64 => int(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            kind::F32 => Some(Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into())),
            kind::F64 => Some(Value::Float(f64::from_le_bytes(bytes.try_into().ok()?))),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Value::Int(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Text(text) => format!("'{}'", cut(text)),
            Value::Array(array) => format!("an array of {} values", array.count),
        }
    }
}

impl Array {
    /// Its numbers and flags; None: it holds something else.
    fn values(&self) -> Option<impl Iterator<Item = Option<Value>> + '_> {
        let width = width(self.kind)?;
        Some(self.bytes.chunks_exact(width).map(|bytes| Value::of(self.kind, bytes)))
    }

    /// Its texts; None: it holds something else. A text that is not UTF-8 is its number.
    fn texts(&self) -> Option<std::result::Result<Vec<&str>, usize>> {
        if self.kind != kind::TEXT {
            return None;
        }
        let mut rest = &self.bytes[..];
        let mut texts = Vec::with_capacity(self.count);
        while let Some((length, more)) = rest.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, more) = more.split_at_checked(length)?;
            match std::str::from_utf8(text) {
                Ok(text) => texts.push(text),
                Err(_) => return Some(Err(texts.len())),
            }
            rest = more;
        }
        Some(Ok(texts))
    }
}

/// All keys of a file.
#[derive(Debug, Default)]
pub(super) struct Keys(pub BTreeMap<String, Value>);

impl Keys {
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        of(value).map(Some).ok_or_else(|| wrong(key, expected, value))
    }

    /// # Errors
    /// InvalidArgument: another value.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// # Errors
    /// InvalidArgument: another value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An integer from 0 on; of an array (one for each layer), what all of them are.
    ///
    /// # Errors
    /// InvalidArgument: another value. Unsupported: layers that differ.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        if let Value::Array(array) = value {
            let mut values = array.values().into_iter().flatten();
            let first = values.next().flatten();
            if values.any(|value| value != first) {
                return Err(Error::Unsupported(format!(
                    "'{key}' differs from layer to layer, which is not supported."
                )));
            }
            let first = first.as_ref().and_then(natural);
            return first.map(Some).ok_or_else(|| wrong(key, "an integer", value));
        }
        self.read(key, "an integer from 0 on", natural)
    }

    /// # Errors
    /// InvalidArgument: another value, or no finite one.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", number)
    }

    /// # Errors
    /// InvalidArgument: another value, or a text that is not UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let texts = self.read(key, "an array of texts", |value| match value {
            Value::Array(array) => array.texts(),
            _ => None,
        });
        match texts? {
            None => Ok(None),
            Some(Ok(texts)) => Ok(Some(texts)),
            Some(Err(n)) => Err(invalid!("text {n} of '{key}' is not UTF-8.")),
        }
    }

    /// None also where it is no array.
    ///
    /// # Errors
    /// InvalidArgument: an array of something else.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let flag = |value: Option<Value>| match value? {
            Value::Flag(flag) => Some(flag),
            _ => None,
        };
        match self.0.get(key) {
            Some(Value::Array(_)) => self.read(key, "an array of flags", |value| match value {
                Value::Array(array) => array.values()?.map(flag).collect(),
                _ => None,
            }),
            _ => Ok(None),
        }
    }

    /// # Errors
    /// InvalidArgument: another value.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.read(key, "an array of numbers", |value| match value {
            Value::Array(array) => array.values()?.map(|value| number(&value?)).collect(),
            _ => None,
        })
    }
}

fn natural(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(x) => Some(*x).filter(|x| x.is_finite()),
        _ => None,
    }
}

fn wrong(key: &str, expected: &str, value: &Value) -> Error {
    invalid!("'{key}' must be {expected}, got {}.", value.shown())
}
