//! From good JSON texts to spoiled ones: sometimes as a tree (odd values, keys of other texts),
//! sometimes as bytes. A function of the seed.

use serde_json::{json, Map, Value};

const WORDS: [&str; 18] = [
    "NaN",
    "-Infinity",
    "1e999",
    "-1e-999",
    "99999999999999999999999999999999999999999999",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\n",
    "\"",
    "{",
    "}",
    "[[[[[[[[",
    ":",
    ",",
    "é🦀",
    "null",
    "-0.0",
];

pub struct Mutator<'a> {
    state: u64,
    corpus: &'a [String],
    /// Odd values beside the general ones.
    values: &'a [Value],
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, corpus: &'a [String], values: &'a [Value]) -> Mutator<'a> {
        Mutator { state: seed, corpus, values }
    }

    /// splitmix64
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    pub fn text(&mut self) -> String {
        let text = self.pick(self.corpus);
        let text = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(map)) if self.below(10) > 0 => self.tree(map).to_string(),
            _ => text,
        };
        match self.below(10) {
            0..3 => self.bytes(text.into_bytes()),
            _ => text,
        }
    }

    fn tree(&mut self, mut map: Map<String, Value>) -> Value {
        for _ in 0..self.below(4) {
            let other = self.pick(self.corpus);
            let other: Value = serde_json::from_str(&other).unwrap_or_default();
            let keys: Vec<String> = match other.as_object() {
                Some(other) => other.keys().chain(map.keys()).cloned().collect(),
                None => map.keys().cloned().collect(),
            };
            if keys.is_empty() {
                continue;
            }
            let key = self.pick(&keys);
            match self.below(8) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(self.word(), json!(1))),
                2 | 3 => drop(map.insert(key.clone(), other[&key].clone())),
                _ => {
                    let value = self.value(0);
                    map.insert(key, value);
                }
            }
        }
        Value::Object(map)
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        for _ in 0..self.below(4) {
            word.push_str(self.pick(&WORDS));
        }
        word
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth < 3 { 14 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(200)),
            3 => json!(-(self.below(5) as i64)),
            4 => json!(self.below(3000) as f64 / 1000.0),
            5 => self.pick(&[
                json!(u64::MAX),
                json!(i64::MIN),
                json!(1e300),
                json!(-0.0),
                json!(1e-320),
            ]),
            6 => json!(self.below(40).to_string()),
            7 => json!(self.word()),
            8 | 9 if !self.values.is_empty() => self.pick(self.values),
            8..11 => json!(["true", "False", " 7 ", "1_0", "+.5", ""][self.below(6)]),
            // Arrays and maps: past three levels there are none.
            11 => (0..self.below(4)).map(|_| self.value(depth + 1)).collect(),
            12 => {
                let member = |m: &mut Self| (m.word(), m.value(depth + 1));
                (0..self.below(3)).map(|_| member(self)).collect()
            }
            _ => (0..self.below(300)).collect(),
        }
    }

    fn bytes(&mut self, mut text: Vec<u8>) -> String {
        for _ in 0..1 + self.below(4) {
            let at = self.below(text.len() + 1);
            match self.below(5) {
                0 => text.truncate(at),
                1 => drop(text.splice(at..at, self.word().into_bytes())),
                2 => {
                    let end = (at + self.below(8)).min(text.len());
                    text.drain(at..end);
                }
                3 if at < text.len() => text[at] = self.below(256) as u8,
                _ => {
                    let end = (at + self.below(40)).min(text.len());
                    let piece = text[at..end].to_vec();
                    let to = self.below(text.len() + 1);
                    text.splice(to..to, piece);
                }
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
