//! How much longer a tokenizer's rules can make a text. Those of `tokenizer.json` are judged before
//! the tokenizers crate runs any of them: a chain of replacements that each double a text would
//! fill the memory with the first request. `load` asks.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::Decoder;

use crate::threads;

/// Characters that one character of a text may become. The charsmaps of published sentencepiece
/// models make 18 of one, all their other rules one of one.
const MAX_FACTOR: u64 = 64;
/// Characters that a rule may put before a text: one in published files.
const MAX_PREPENDED: u64 = 256;
/// Rules that change texts in one key of the file; published files have tens at most.
const MAX_RULES: usize = 1024;

/// The keys of `tokenizer.json` whose rules change texts.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// What a rule does to a text.
struct Rule {
    /// Characters that it makes of one, at most.
    factor: u64,
    prepended: u64,
    /// The text that it looks for; None: it may look for any.
    pattern: Option<String>,
    /// The text that it writes; None: it may write any.
    content: Option<String>,
}

/// Judge the rules of a `tokenizer.json`.
///
/// # Errors
/// Which key makes a text too long, by how much, and the limit; or why it is no such file.
pub(super) fn judge(whole: &[u8]) -> Result<(), String> {
    let rules: Rules = serde_json::from_slice(whole).map_err(|e| e.to_string())?;
    for (key, value) in [
        ("normalizer", &rules.normalizer),
        ("pre_tokenizer", &rules.pre_tokenizer),
        ("decoder", &rules.decoder),
    ] {
        let mut list = Vec::new();
        if collect(key, value, &mut list).is_break() {
            return Err(format!("'{key}' has more than {MAX_RULES} rules that change a text"));
        }

        let (factor, prepended) = growth(&list);
        if factor > MAX_FACTOR {
            return Err(format!(
                "'{key}' can make {factor} characters or more of one, at most {MAX_FACTOR} are \
                 allowed"
            ));
        }
        if prepended > MAX_PREPENDED {
            return Err(format!(
                "'{key}' puts up to {prepended} characters or more before a text, at most \
                 {MAX_PREPENDED} are allowed"
            ));
        }
    }
    Ok(())
}

/// Rules in the order in which they run. The crate takes some without their `type`, so what a rule
/// has says what it is.
fn collect(key: &str, value: &Value, list: &mut Vec<Rule>) -> ControlFlow<()> {
    for sequence in ["normalizers", "pretokenizers", "decoders"] {
        for inner in value.get(sequence).and_then(Value::as_array).into_iter().flatten() {
            collect(key, inner, list)?;
        }
    }

    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let anything = |factor| Rule { factor, prepended: 0, pattern: None, content: None };
    if let (Some(pattern), Some(content)) = (value.get("pattern"), text("content")) {
        let words = pattern.get("String").and_then(Value::as_str);
        let regex = pattern.get("Regex").and_then(Value::as_str);
        // What matches the empty text is put between any two characters.
        let between = words == Some("") || regex.is_some_and(matches_empty);
        let replaced = words.map_or(1, chars).max(1);
        list.push(Rule {
            factor: chars(content).div_ceil(replaced).max(1) + u64::from(between),
            prepended: 0,
            pattern: words.filter(|_| !between).map(str::to_string),
            content: Some(content.to_string()),
        });
    }
    if let Some(prepend) = text("prepend") {
        list.push(Rule {
            factor: 1,
            prepended: chars(prepend),
            pattern: Some(String::new()),
            content: Some(prepend.to_string()),
        });
    }
    if let Some(map) = text("precompiled_charsmap") {
        list.push(anything(longest_replacement(map)));
    }
    // Two bytes for a byte of what is not ASCII, each a character the next time.
    if text("type") == Some("ByteLevel") && key != "decoder" {
        list.push(anything(2));
    }
    // The crate replaces the empty text: a blank between any two characters.
    if [text("suffix"), text("word_delimiter_token")].contains(&Some("")) {
        list.push(anything(2));
    }
    match list.len() > MAX_RULES {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// What one character can become, and what can come before a text, both at most. A rule multiplies
/// what another has written only where its pattern has a character of that.
fn growth(list: &[Rule]) -> (u64, u64) {
    // Of a character that each rule has written, what the later ones make of it.
    let mut later = vec![1u64; list.len()];
    let (mut factor, mut prepended) = (1, 0);
    for i in (0..list.len()).rev() {
        let takes = |j: &usize| list[i].is_changed_by(&list[*j]);
        let most = (i + 1..list.len()).filter(takes).map(|j| grown(list[j].factor, later[j]));
        later[i] = most.max().unwrap_or(1);
        factor = factor.max(grown(list[i].factor, later[i]));
        prepended = grown(list[i].prepended, later[i]).saturating_add(prepended);
    }
    (factor, prepended)
}

fn grown(characters: u64, factor: u64) -> u64 {
    characters.saturating_mul(factor)
}

impl Rule {
    fn is_changed_by(&self, later: &Rule) -> bool {
        match (&self.content, &later.pattern) {
            (Some(written), Some(pattern)) => pattern.chars().any(|c| written.contains(c)),
            (Some(written), None) => !written.is_empty(),
            (None, _) => true,
        }
    }
}

/// Whether a pattern finds the empty text somewhere in a usual one; what the crate cannot read, it
/// refuses itself.
fn matches_empty(regex: &str) -> bool {
    let sample = "a B1.\né日_";
    let found = threads::catch_quietly(|| {
        let rule = Replace::new(ReplacePattern::Regex(regex.to_string()), "").ok()?;
        let marked = Replace::new(ReplacePattern::Regex(regex.to_string()), "\u{1}").ok()?;
        let text = |rule: Replace| rule.decode_chain(vec![sample.to_string()]).ok();
        Some(chars(&text(marked)?.concat()) > chars(&text(rule)?.concat()).max(chars(sample)))
    });
    // A panic is one of the crate's about empty matches.
    found.map_or(true, Option::unwrap_or_default)
}

fn chars(text: &str) -> u64 {
    text.chars().count() as u64
}

/// Characters of the longest text that a sentencepiece charsmap writes for one character: behind a
/// trie of so many bytes as the first four say, texts that end with a zero.
fn longest_replacement(base64: &str) -> u64 {
    let Some(bytes) = super::tekken::from_base64(base64) else { return 1 };
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return 1 };
    let texts = rest.get(u32::from_le_bytes(*head) as usize..).unwrap_or_default();
    let longest = texts.split(|&byte| byte == 0).map(|t| chars(&String::from_utf8_lossy(t))).max();
    longest.unwrap_or(1).max(1)
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
