//! What a regular expression that splits texts into words does where a blank stands between two
//! ASCII letters: judged from its text, once at load. Called by `cut_rule`. It knows no tokenizer.
//!
//! Only the blank and the letters count there, so a set of characters is a set of these 53. What is
//! not in the small grammar below (assertions, lookbehind, back references, possessive quantifiers,
//! flags but `(?i:`, sets in sets) is not known.

/// The blank and the ASCII letters, one bit each.
type Set = u64;
const BLANK: Set = 1;
const UPPER: Set = ((1 << 26) - 1) << 1;
const LOWER: Set = UPPER << 26;
const LETTERS: Set = UPPER | LOWER;
const ALL: Set = BLANK | LETTERS;

/// The one assertion that is known. It sees one character, and to it a blank is as good as the end
/// of the text.
const LAST_SPACES: &str = r"\s+(?!\S)";
/// Alternatives of a pattern with that assertion. The crate's matcher gives up on a text, without a
/// word, after a million steps back; it takes one for each alternative and character.
const MAX_ALTERNATIVES: usize = 16;
/// Groups in groups.
const MAX_DEPTH: usize = 8;

/// How a pattern splits in front of a blank between two letters, where no match ever holds both the
/// first letter and the blank, and a match that ends in front of the blank would end there if the
/// text did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtBlank {
    /// A match begins there, always.
    Begins,
    /// Perhaps none.
    Passes,
}

/// None: a match may hold both, or is not known.
pub(super) fn judge(pattern: &str) -> Option<AtBlank> {
    let mut parser = Parser { rest: pattern, folds: false, depth: 0, sees_ahead: false };
    let (whole, alternatives) = parser.alternatives()?;
    // An empty match would be where the text ends, but not where it goes on.
    if !parser.rest.is_empty() || whole.empty || whole.joins {
        return None;
    }
    // Where nothing matches for long, the matcher gives up.
    if parser.sees_ahead && (!whole.blank || alternatives > MAX_ALTERNATIVES) {
        return None;
    }
    Some(if whole.blank { AtBlank::Begins } else { AtBlank::Passes })
}

/// The same of a text that is searched for.
pub(super) fn judge_literal(text: &str) -> Option<AtBlank> {
    let mut whole = Shape::NOTHING;
    for char in text.chars() {
        whole = whole.then(Shape::one(bit(char)));
    }
    if whole.empty || whole.joins {
        return None;
    }
    Some(if whole.blank { AtBlank::Begins } else { AtBlank::Passes })
}

/// What matters of a part of a pattern.
#[derive(Clone, Copy)]
struct Shape {
    /// It matches nothing at all, too.
    empty: bool,
    /// What a match of it may begin and end with.
    first: Set,
    last: Set,
    /// A letter may be followed by a blank in it.
    joins: bool,
    /// It matches a blank alone, whatever follows.
    blank: bool,
}

impl Shape {
    const NOTHING: Shape = Shape { empty: true, first: 0, last: 0, joins: false, blank: false };

    /// A character of these, or one that does not matter.
    fn one(set: Set) -> Shape {
        let blank = set & BLANK != 0;
        Shape { empty: false, first: set, last: set, joins: false, blank }
    }

    fn then(self, next: Shape) -> Shape {
        Shape {
            empty: self.empty && next.empty,
            first: self.first | if self.empty { next.first } else { 0 },
            last: next.last | if next.empty { self.last } else { 0 },
            joins: self.joins || next.joins || joins(self.last, next.first),
            blank: (self.blank && next.empty) || (self.empty && next.blank),
        }
    }

    fn or(self, other: Shape) -> Shape {
        Shape {
            empty: self.empty || other.empty,
            first: self.first | other.first,
            last: self.last | other.last,
            joins: self.joins || other.joins,
            blank: self.blank || other.blank,
        }
    }

    fn repeated(self, min: usize, max: usize) -> Shape {
        Shape {
            empty: self.empty || min == 0,
            joins: self.joins || (max > 1 && joins(self.last, self.first)),
            blank: self.blank && (min <= 1 || self.empty),
            ..self
        }
    }
}

fn joins(before: Set, after: Set) -> bool {
    before & LETTERS != 0 && after & BLANK != 0
}

fn bit(char: char) -> Set {
    match char {
        ' ' => BLANK,
        'A'..='Z' => 1 << (1 + char as u32 - 'A' as u32),
        'a'..='z' => 1 << (27 + char as u32 - 'a' as u32),
        _ => 0,
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// Within `(?i:`.
    folds: bool,
    depth: usize,
    /// [`LAST_SPACES`] is among the alternatives.
    sees_ahead: bool,
}

/// One character of a pattern, or an escape that stands for several.
enum Item {
    Char(char),
    Set(Set),
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// And how many there are.
    fn alternatives(&mut self) -> Option<(Shape, usize)> {
        let mut whole = self.alternative()?;
        let mut count = 1;
        while self.take("|") {
            whole = whole.or(self.alternative()?);
            count += 1;
        }
        Some((whole, count))
    }

    fn alternative(&mut self) -> Option<Shape> {
        let ends = |rest: &&str| rest.is_empty() || rest.starts_with('|');
        if let (0, Some(rest)) = (self.depth, self.rest.strip_prefix(LAST_SPACES).filter(ends)) {
            self.rest = rest;
            self.sees_ahead = true;
            return Some(Shape { blank: false, ..Shape::one(BLANK) });
        }

        let mut whole = Shape::NOTHING;
        while self.peek().is_some_and(|next| next != '|' && next != ')') {
            let part = self.part()?;
            whole = whole.then(self.quantified(part)?);
        }
        Some(whole)
    }

    fn part(&mut self) -> Option<Shape> {
        match self.next()? {
            '(' => self.group(),
            '[' => Some(Shape::one(self.class()?)),
            '\\' => Some(Shape::one(match self.escape()? {
                Item::Char(char) => self.folded(char)?,
                Item::Set(set) => set,
            })),
            '.' | '^' | '$' | '*' | '+' | '?' | '{' | '}' | ']' => None,
            char => Some(Shape::one(self.folded(char)?)),
        }
    }

    fn group(&mut self) -> Option<Shape> {
        let folds = self.folds;
        if self.take("?i:") {
            self.folds = true;
        } else if !self.take("?:") && self.peek() == Some('?') {
            return None;
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let (whole, _) = self.alternatives()?;
        self.depth -= 1;
        self.folds = folds;
        self.take(")").then_some(whole)
    }

    fn quantified(&mut self, part: Shape) -> Option<Shape> {
        let (min, max) = match self.peek() {
            Some('?') => (0, 1),
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('{') => {
                let (inside, rest) = self.rest[1..].split_once('}')?;
                self.rest = rest;
                if !inside.chars().all(|char| char.is_ascii_digit() || char == ',') {
                    return None;
                }
                let (min, max) = inside.split_once(',').unwrap_or((inside, inside));
                let max = if max.is_empty() { usize::MAX } else { max.parse().ok()? };
                return self.greedy_or_not(part, min.parse().ok()?, max);
            }
            _ => return Some(part),
        };
        self.next();
        self.greedy_or_not(part, min, max)
    }

    fn greedy_or_not(&mut self, part: Shape, min: usize, max: usize) -> Option<Shape> {
        self.take("?");
        let more = matches!(self.peek(), Some('?' | '*' | '+' | '{'));
        (!more && min <= max && max > 0).then(|| part.repeated(min, max))
    }

    /// A letter in both cases where case does not count.
    fn folded(&self, char: char) -> Option<Set> {
        match self.folds {
            false => Some(bit(char)),
            true if char.is_ascii() => {
                Some(bit(char.to_ascii_lowercase()) | bit(char.to_ascii_uppercase()))
            }
            // There are two that are the same as an ASCII letter then.
            true => None,
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<Item> {
        Some(match self.next()? {
            's' | 'W' => Item::Set(BLANK),
            'S' | 'w' => Item::Set(LETTERS),
            'd' => Item::Set(0),
            'D' => Item::Set(ALL),
            'p' if !self.folds => Item::Set(self.property()?),
            'P' if !self.folds => Item::Set(ALL & !self.property()?),
            'r' => Item::Char('\r'),
            'n' => Item::Char('\n'),
            't' => Item::Char('\t'),
            '<' | '>' => return None,
            char if char.is_ascii_punctuation() || char == ' ' => Item::Char(char),
            _ => return None,
        })
    }

    /// Of a class of characters by its name, `{L}`.
    fn property(&mut self) -> Option<Set> {
        let (name, rest) = self.rest.strip_prefix('{')?.split_once('}')?;
        self.rest = rest;
        Some(match name {
            "L" => LETTERS,
            "Lu" => UPPER,
            "Ll" => LOWER,
            "Z" | "Zs" => BLANK,
            "Lt" | "Lm" | "Lo" | "M" | "Mn" | "Mc" | "Me" | "N" | "Nd" | "Nl" | "No" | "Zl"
            | "Zp" | "P" | "Pc" | "Pd" | "Ps" | "Pe" | "Pi" | "Pf" | "Po" | "S" | "Sm" | "Sc"
            | "Sk" | "So" | "Han" | "Hiragana" | "Katakana" | "Hangul" | "Thai" | "Arabic"
            | "Hebrew" | "Cyrillic" | "Greek" | "Devanagari" => 0,
            _ => return None,
        })
    }

    /// What stands behind `[`, up to and with `]`.
    fn class(&mut self) -> Option<Set> {
        let negated = self.take("^");
        let mut set = 0;
        if self.peek() == Some(']') {
            return None;
        }
        loop {
            let first = match self.next()? {
                ']' => break,
                '[' => return None,
                char @ ('&' | '-' | '~') if self.peek() == Some(char) => return None,
                '\\' => self.escape()?,
                char => Item::Char(char),
            };
            let ranges = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            set |= match first {
                Item::Set(_) if ranges => return None,
                Item::Set(set) => set,
                Item::Char(first) if ranges => self.range(first)?,
                Item::Char(char) => self.folded(char)?,
            };
        }
        Some(if negated { ALL & !set } else { set })
    }

    /// Behind its first character.
    fn range(&mut self, first: char) -> Option<Set> {
        self.next();
        let last = match self.next()? {
            '\\' => match self.escape()? {
                Item::Char(last) => last,
                Item::Set(_) => return None,
            },
            '[' => return None,
            last => last,
        };
        let mut set = 0;
        for char in (' '..='z').filter(|char| (first..=last).contains(char)) {
            set |= self.folded(char)?;
        }
        // As in `folded`.
        (!self.folds || last.is_ascii()).then_some(set)
    }
}

#[cfg(test)]
#[path = "split_pattern_tests.rs"]
mod tests;
