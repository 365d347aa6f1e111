//! Regular expressions and shell wildcards out of a configuration, over names of layers. What a
//! stranger wrote is bounded here: its length, its size when compiled and the steps of a match.
//! Called by `names`. It knows no layer.

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};
use crate::invalid;
use crate::json;

/// Of a list; published ones have below 20.
const MAX_PATTERNS: usize = 256;
/// Bytes of a pattern; the longest published ones list all layers of a model.
const MAX_BYTES: usize = 16 << 10;
/// Bytes of a compiled pattern.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// A pattern that looks ahead or behind is compiled piece by piece, without that limit: a piece of
/// six bytes takes up to 64 KiB, and with a number of repetitions a hundred times as many.
const MAX_BACKTRACKING: usize = 32;
const MAX_BACKTRACKING_BYTES: usize = 512;
/// Steps of a match of such a pattern; others take time by the name's length.
const MAX_STEPS: usize = 20_000;

/// A regular expression.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    regex: Regex,
    text: String,
}

/// Makes the patterns of one list.
#[derive(Debug)]
pub(super) struct Patterns {
    /// Where the list stands, for messages.
    named: String,
    made: usize,
    backtracking: usize,
}

impl Patterns {
    pub fn of(named: String) -> Patterns {
        Patterns { named, made: 0, backtracking: 0 }
    }

    /// Of names that begin with it (Python's `re.match`).
    ///
    /// # Errors
    /// InvalidArgument: it is none, or the list has too many of them.
    pub fn at_start(&mut self, text: &str) -> Result<Pattern> {
        self.pattern(text, format!(r"\A(?:{text})"))
    }

    /// Of names that contain it (`re.search`).
    ///
    /// # Errors
    /// As `at_start`.
    pub fn anywhere(&mut self, text: &str) -> Result<Pattern> {
        self.pattern(text, text.to_string())
    }

    fn pattern(&mut self, text: &str, whole: String) -> Result<Pattern> {
        let named = &self.named;
        let shown = json::cut(text);
        let backtracks = may_backtrack(text);
        self.made += 1;
        self.backtracking += usize::from(backtracks);
        if self.made > MAX_PATTERNS {
            return Err(invalid!(
                "{named} has more than {MAX_PATTERNS} regular expressions, with '{shown}'."
            ));
        }
        if backtracks && self.backtracking > MAX_BACKTRACKING {
            return Err(invalid!(
                "{named} has more than {MAX_BACKTRACKING} regular expressions that look ahead or \
                 behind, with '{shown}'."
            ));
        }

        let most = if backtracks { MAX_BACKTRACKING_BYTES } else { MAX_BYTES };
        if text.len() > most {
            let bytes = text.len();
            return Err(invalid!(
                "{named}: the regular expression '{shown}' has {bytes} bytes, at most {most}."
            ));
        }
        if backtracks && text.contains('{') {
            return Err(invalid!(
                "{named}: the regular expression '{shown}' looks ahead or behind, and may not \
                 count repetitions ({{n}}) too."
            ));
        }

        let mut builder = RegexBuilder::new(&whole);
        builder.backtrack_limit(MAX_STEPS).delegate_size_limit(MAX_COMPILED_BYTES);
        let regex = builder.build().map_err(|why| {
            let why = json::cut(&why.to_string());
            invalid!("{named}: '{shown}' is no regular expression: {why}.")
        })?;
        Ok(Pattern { regex, text: text.to_string() })
    }
}

/// Whether a pattern has what only backtracking finds: anything but groups, flags, classes and
/// plain repetitions. It may say so of a few that have not.
fn may_backtrack(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['(', '\\', '+', '*', '?', '}']) {
        let (start, tail) = rest[at..].split_at(1);
        let mut next = tail.chars();
        rest = tail;
        match (start, next.next()) {
            ("(", Some('?')) => {
                let plain = matches!(next.next(), Some(':' | 'i' | 's' | 'm' | 'x' | 'u' | '-'));
                if !plain && !tail.starts_with("?P<") {
                    return true;
                }
                rest = &tail[1..];
            }
            ("\\", Some(escaped)) => {
                if escaped.is_ascii_alphanumeric() && !"dDsSwWbBAzntrfv".contains(escaped) {
                    return true;
                }
                rest = next.as_str();
            }
            // Possessive: nothing is given back.
            ("+" | "*" | "?" | "}", Some('+')) => return true,
            _ => {}
        }
    }
    false
}

impl Pattern {
    /// # Errors
    /// Unsupported: it takes more steps than any pattern of a published model.
    pub fn hits(&self, name: &str) -> Result<bool> {
        self.regex.is_match(name).map_err(|_| {
            Error::Unsupported(format!(
                "the regular expression '{}' takes more than {MAX_STEPS} steps on '{}'; write it \
                 without nested repetitions.",
                json::cut(&self.text),
                json::cut(name)
            ))
        })
    }
}

/// One place of a wildcard.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// `*`: any text, dots too.
    Text,
    /// `?`: any character.
    Any,
    Char(char),
    /// `[a-c]`, or `[!a-c]`.
    Class(bool, Vec<(char, char)>),
}

/// A shell wildcard (Python's `fnmatch`).
#[derive(Debug, Clone)]
pub(super) struct Wildcard {
    places: Vec<Place>,
}

impl Wildcard {
    pub fn new(text: &str) -> Wildcard {
        let chars: Vec<char> = text.chars().collect();
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            places.push(match c {
                '*' => Place::Text,
                '?' => Place::Any,
                '[' => match class(&chars[at..]) {
                    Some((class, length)) => {
                        at += length;
                        class
                    }
                    None => Place::Char(c),
                },
                c => Place::Char(c),
            });
        }
        places.dedup_by(|a, b| *a == Place::Text && *b == Place::Text);
        Wildcard { places }
    }

    pub fn hits(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let mut place = 0;
        let mut at = 0;
        // The last star, and the first character that it does not stand for.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&c) = name.get(at) {
            match self.places.get(place) {
                Some(Place::Text) => {
                    star = Some((place, at));
                    place += 1;
                }
                Some(other) if other.is(c) => {
                    place += 1;
                    at += 1;
                }
                _ => {
                    let Some((last, from)) = star else { return false };
                    star = Some((last, from + 1));
                    place = last + 1;
                    at = from + 1;
                }
            }
        }
        self.places[place..].iter().all(|place| *place == Place::Text)
    }
}

impl Place {
    fn is(&self, c: char) -> bool {
        match self {
            Place::Text => false,
            Place::Any => true,
            Place::Char(own) => *own == c,
            Place::Class(not, ranges) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *not
            }
        }
    }
}

/// The class behind `[`, and its characters up to and with `]`; None: there is no end.
fn class(chars: &[char]) -> Option<(Place, usize)> {
    let not = chars.first() == Some(&'!');
    let start = usize::from(not);
    // A `]` in the first place stands for itself.
    let end = start + 1 + chars.get(start + 1..)?.iter().position(|c| *c == ']')?;
    let mut ranges = Vec::new();
    let mut rest = &chars[start..end];
    loop {
        rest = match rest {
            [] => return Some((Place::Class(not, ranges), end + 1)),
            [from, '-', to, tail @ ..] => {
                ranges.push((*from, *to));
                tail
            }
            [c, tail @ ..] => {
                ranges.push((*c, *c));
                tail
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored_as_pythons_are() {
        let make = || Patterns::of("x".into());
        let start = |text: &str, name: &str| make().at_start(text).unwrap().hits(name);
        assert_eq!(start(".*gate", "model.layers.0.mlp.gate_proj"), Ok(true));
        assert_eq!(start("gate", "model.gate"), Ok(false));
        assert_eq!(start("a|model", "xa"), Ok(false), "the anchor holds for all of it");
        assert_eq!(start("(?!.*experts).*", "model.mlp"), Ok(true));
        assert_eq!(start("(?!.*experts).*", "model.experts.1"), Ok(false));
        let search = make().anywhere("gate$").unwrap();
        assert_eq!((search.hits("model.gate"), search.hits("gate_proj")), (Ok(true), Ok(false)));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let make = || Patterns::of("config.json: 'ignore'".into());
        let said = |text: &str| make().at_start(text).unwrap_err().to_string();
        let broken = said("(a");
        assert!(broken.starts_with("config.json: 'ignore': '(a' is no regular expression: "));
        assert!(!broken.contains('\n'), "{broken}");
        assert!(said(&"a".repeat(MAX_BYTES + 1)).contains("has 16385 bytes, at most 16384"));
        assert!(said(&format!("{}a", "(".repeat(5000))).contains("no regular expression"));
        assert!(said("(?:(?:a{1000}){1000}){1000}").contains("no regular expression"));
        assert!(said(&format!("(?=a){}", "a".repeat(512))).contains("517 bytes, at most 512"));
        assert!(said(r"(?!\w{99})").contains("may not count repetitions ({n}) too"));

        let mut many = make();
        assert!((0..32).all(|_| many.at_start("(?!a)").is_ok()));
        let said = many.at_start("(?!a)").unwrap_err();
        assert!(said.message().contains("more than 32 regular expressions that look"), "{said}");
        assert!((33..256).all(|_| many.at_start("a").is_ok()));
        let said = many.at_start("a").unwrap_err();
        assert!(said.message().contains("has more than 256 regular expressions"), "{said}");

        let slow = make().at_start(r"(?=(a+)+$)\1b").unwrap();
        let said = slow.hits(&"a".repeat(200)).unwrap_err();
        assert!(said.message().contains("takes more than 20000 steps"), "{said}");
    }

    #[test]
    fn patterns_that_may_backtrack_are_known() {
        for plain in [
            r".*\.mlp\.(gate|up|down)_proj$",
            r"(?:a)(?P<x>b)(?i)c*d+e?f{2}",
            r"\w\d\.\\+\(?x",
            "a+?b*?c??",
        ] {
            assert!(!may_backtrack(plain), "{plain}");
        }
        for hard in [
            "(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", "(?>a)", r"(a)\1", r"(?P=x)", "a++", r"\Kx",
            "a{2}+",
        ] {
            assert!(may_backtrack(hard), "{hard}");
        }
    }

    #[test]
    fn wildcards_cross_dots() {
        let hits = |text: &str, name: &str| Wildcard::new(text).hits(name);
        for (text, name) in [
            ("lm_head", "lm_head"),
            ("model.layers.0*", "model.layers.0.mlp.up"),
            ("*.gate", "model.layers.0.mlp.gate"),
            ("*a*b*", "xaybz"),
            ("**", ""),
            ("l?.[0-2].x", "l1.2.x"),
            ("[!a-c]", "d"),
            ("[]]", "]"),
            ("[a", "[a"),
            ("[-a]", "-"),
        ] {
            assert!(hits(text, name), "{text} {name}");
        }

        for (text, name) in [
            ("lm", "lm_head"),
            ("*.gate", "mlp.gate_proj"),
            ("[0-2]", "3"),
            ("?", ""),
            ("[!a]", "a"),
        ] {
            assert!(!hits(text, name), "{text} {name}");
        }
        let long = "a".repeat(300);
        assert!(!hits(&"*a".repeat(150), &format!("{long}b")));
    }
}
