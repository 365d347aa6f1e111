//! Keys of a JSON object of a file, read by type. What is there with another type is an error that
//! names the file, the key, the value and what was expected; nothing is taken for absent but null.
//! Called by whoever reads a configuration; it never knows what a key means.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::shown::{cut, shown};
use crate::error::{Error, Result};
use crate::invalid;

/// Keys that were read, by their path; a caller may see which of its own nobody read.
pub type KeysRead = RefCell<BTreeSet<String>>;

/// Where a key may have come from: what stands in front of it in messages, and the keys there.
#[derive(Clone)]
struct Layer<'a> {
    file: &'a str,
    /// E.g. `rope_scaling.`
    path: String,
    keys: &'a Map<String, Value>,
}

/// An object, and what it is called.
#[derive(Clone)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    /// Looked at where `map` has no such key, which is not the same as null.
    defaults: Option<&'a Map<String, Value>>,
    /// Keys as they may be spelled in `map`, and as they are asked for.
    spellings: &'a [(&'a str, &'a str)],
    /// The first that holds a key names it; the last names those that none holds.
    layers: Vec<Layer<'a>>,
    keys_read: Option<&'a KeysRead>,
}

impl<'a> Object<'a> {
    /// The object that the file of this name (or path) holds.
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Object<'a> {
        let layers = vec![Layer { file, path: String::new(), keys: map }];
        Object { map, defaults: None, spellings: &[], layers, keys_read: None }
    }

    /// The same with other spellings of some keys, and values for absent ones.
    pub fn with(
        mut self,
        spellings: &'a [(&'a str, &'a str)],
        defaults: &'a Map<String, Value>,
    ) -> Object<'a> {
        (self.spellings, self.defaults) = (spellings, Some(defaults));
        self
    }

    /// The same where `keys`, found under `path` of another file, have been merged into it.
    pub fn over(mut self, file: &'a str, path: &str, keys: &'a Map<String, Value>) -> Object<'a> {
        self.layers.insert(0, Layer { file, path: path.into(), keys });
        self
    }

    /// The same, with a list in which every key that is read is noted.
    pub fn noting(mut self, keys_read: &'a KeysRead) -> Object<'a> {
        self.keys_read = Some(keys_read);
        self
    }

    /// The key as it stands here.
    fn spelled<'k>(&self, key: &'k str) -> &'k str
    where
        'a: 'k,
    {
        let other = |&&(other, own): &&(&str, &str)| own == key && self.map.contains_key(other);
        if self.map.contains_key(key) {
            return key;
        }
        self.spellings.iter().find(other).map_or(key, |&(other, _)| other)
    }

    /// The keys that are there, as they are spelled.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// What is there, null too.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        let spelled = self.spelled(key);
        if let Some(keys_read) = self.keys_read {
            let path = self.layers.last().map_or("", |layer| &layer.path);
            keys_read.borrow_mut().insert(format!("{path}{spelled}"));
        }
        self.map.get(spelled).or_else(|| self.defaults?.get(key))
    }

    /// What is there and not null.
    pub fn given(&self, key: &str) -> Option<&'a Value> {
        self.value(key).filter(|value| !value.is_null())
    }

    /// `<file>: '<key>'`, by where the key came from.
    pub fn name(&self, key: &str) -> String {
        let key = self.spelled(key);
        let holds = |layer: &&Layer| layer.keys.contains_key(key);
        let Some(layer) = self.layers.iter().find(holds).or(self.layers.last()) else {
            return format!("'{}'", cut(key));
        };
        format!("{}: '{}{}'", layer.file, cut(&layer.path), cut(key))
    }

    /// The key's value is not what it must be.
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        match self.map.get(self.spelled(key)) {
            Some(got) => {
                invalid!("{} must be {expected}, got {}.", self.name(key), shown(got))
            }
            None => invalid!("{} is missing; it must be {expected}.", self.name(key)),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let read = |value| of(value).ok_or_else(|| self.wrong(key, expected));
        self.given(key).map(read).transpose()
    }

    /// What was read of a key that must be there.
    ///
    /// # Errors
    /// InvalidArgument: it is absent or null.
    pub fn needed<T>(&self, key: &str, expected: &str, read: Option<T>) -> Result<T> {
        read.ok_or_else(|| self.wrong(key, expected))
    }

    /// An integer from 1 to `most`.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let fits = |n: &usize| (1..=most).contains(n);
        let count = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(fits);
        self.read(key, &format!("an integer in 1..={most}"), count)
    }

    /// An integer from `least` to `most`.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn integer(&self, key: &str, least: i64, most: i64) -> Result<Option<i64>> {
        let fits = |n: &i64| (least..=most).contains(n);
        let integer = |value: &Value| value.as_i64().filter(fits);
        self.read(key, &format!("an integer in {least}..={most}"), integer)
    }

    /// A number above 0 that single precision holds.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a positive number", positive)
    }

    /// # Errors
    /// InvalidArgument: another value, also 0, 1 and texts.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// # Errors
    /// InvalidArgument: another value.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    /// # Errors
    /// InvalidArgument: another value.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.read(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A list of strings.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let texts = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.read(key, "a list of strings", texts)
    }

    /// A list of `length` numbers above 0.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn positives(&self, key: &str, length: usize) -> Result<Option<Vec<f64>>> {
        let numbers = |value: &Value| {
            let list = value.as_array().filter(|list| list.len() == length)?;
            list.iter().map(positive).collect()
        };
        self.read(key, &format!("a list of {length} positive numbers"), numbers)
    }

    /// An object inside of this one.
    ///
    /// # Errors
    /// InvalidArgument: another value.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        let key = self.spelled(key);
        let Some(map) = self.read(key, "an object", Value::as_object)? else { return Ok(None) };
        let inner = |layer: &Layer<'a>| {
            let keys = layer.keys.get(key)?.as_object()?;
            Some(Layer { file: layer.file, path: format!("{}{key}.", layer.path), keys })
        };
        let layers = self.layers.iter().filter_map(inner).collect();
        Ok(Some(Object { map, defaults: None, spellings: &[], layers, keys_read: self.keys_read }))
    }
}

fn positive(value: &Value) -> Option<f64> {
    // Single precision is what a device gets.
    value.as_f64().filter(|&x| x as f32 > 0.0 && (x as f32).is_finite())
}
