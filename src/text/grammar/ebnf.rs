//! EBNF with `root ::=` (GBNF, as xgrammar and llama.cpp take it) to the Lark dialect of the
//! grammar engine. Called by [`super::Grammars`]; a pure function of texts.
//!
//! The engine reads a text as lexemes, longest match first. What is regular (reaches no rule that
//! reaches itself) becomes one lexeme as far as it goes, because then nothing can be cut wrongly: a
//! grammar without recursion is one regular expression and exact. Between lexemes of a recursive
//! grammar the longest match wins, so some of its texts are never generated; no other texts are.

use std::collections::HashMap;
use std::fmt::Write;

use crate::error::{Error, Result};
use crate::invalid;

/// Parentheses inside each other: the parser and the engine recurse.
const MAX_DEPTH: usize = 100;
const MAX_REPETITIONS: u32 = 10_000;
/// Characters of the grammar that a message shows on each side of the place.
const SHOWN_CHARS: usize = 30;

/// Does the text define rules the EBNF way? Lark has a single colon.
pub(super) fn is_ebnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start().split("::=").next().unwrap_or_default().trim_end();
        line.contains("::=") && !name.is_empty() && name.chars().all(is_name)
    })
}

/// # Errors
/// InvalidArgument: what was expected, and where.
pub(super) fn to_lark(text: &str) -> Result<String> {
    let rules = Parser { text, at: 0, depth: 0, names: HashMap::new() }.grammar()?;
    Ok(Writer::new(&rules).grammar())
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

enum Node {
    /// As it stands in Lark: a quoted text, or a class between slashes.
    Terminal(String),
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    /// With Lark's suffix: `?`, `*`, `+`, `{2,5}`.
    Repeat(Box<Node>, String),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Of rules that are defined or asked for; `root` is the first that is written down.
    names: HashMap<&'a str, usize>,
}

impl<'a> Parser<'a> {
    /// Bodies in the order of their numbers, with that of `root` as number 0.
    fn grammar(mut self) -> Result<Vec<Node>> {
        self.names.insert("root", 0);
        let mut rules: Vec<Option<Node>> = vec![None];
        self.blank();
        while self.at < self.text.len() {
            let number = self.rule_name()?;
            self.want("::=")?;
            self.blank();
            let body = self.choice()?;
            rules.resize_with(self.names.len().max(rules.len()), || None);
            if rules[number].replace(body).is_some() {
                return Err(self.error("a rule is defined twice"));
            }
            self.blank();
        }
        if let Some((name, _)) =
            self.names.iter().find(|(_, &number)| rules.get(number).is_none_or(Option::is_none))
        {
            return Err(self.error(&format!("Rule '{name}' is not defined")));
        }
        Ok(rules.into_iter().flatten().collect())
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skip blanks, line ends and comments: the head of the next rule ends a rule, nothing else.
    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let skip = match rest.chars().next() {
                Some('#') => rest.find('\n').unwrap_or(rest.len()),
                Some(c) if c.is_whitespace() => c.len_utf8(),
                _ => return,
            };
            self.at += skip;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn want(&mut self, token: &str) -> Result<()> {
        self.blank();
        if !self.take(token) {
            return Err(self.error(&format!("Expected '{token}'")));
        }
        Ok(())
    }

    fn error(&self, what: &str) -> Error {
        let (before, after) = self.text.split_at(self.at);
        let number = before.matches('\n').count() + 1;
        let line = before.rsplit('\n').next().unwrap_or_default();
        let skipped = line.chars().count().saturating_sub(SHOWN_CHARS);
        let head: String = line.chars().skip(skipped).collect();
        let tail = after.lines().next().unwrap_or_default();
        let tail: String = tail.chars().take(SHOWN_CHARS).collect();
        invalid!(
            "Failed to convert the grammar from GBNF to Lark: {what} at line {number}, '{head}' ^ \
             '{tail}'"
        )
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        self.at += name.len();
        (!name.is_empty()).then_some(name)
    }

    fn number_of(&mut self, name: &'a str) -> usize {
        let next = self.names.len();
        *self.names.entry(name).or_insert(next)
    }

    fn rule_name(&mut self) -> Result<usize> {
        match self.name() {
            Some(name) => Ok(self.number_of(name)),
            None => Err(self.error("Expected a rule name")),
        }
    }

    fn choice(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(&format!("more than {MAX_DEPTH} nested parentheses")));
        }
        let mut branches = vec![self.sequence()?];
        while self.take("|") {
            branches.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(match branches.len() {
            1 => branches.remove(0),
            _ => Node::Choice(branches),
        })
    }

    fn sequence(&mut self) -> Result<Node> {
        let mut parts = Vec::new();
        loop {
            self.blank();
            if self.starts_rule() {
                break;
            }
            let Some(part) = self.item()? else { break };
            parts.push(self.repeated(part)?);
        }
        Ok(Node::Sequence(parts))
    }

    /// Is what follows the head of the next rule?
    fn starts_rule(&self) -> bool {
        let rest = self.rest();
        let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        name > 0 && rest[name..].trim_start_matches([' ', '\t']).starts_with("::=")
    }

    fn item(&mut self) -> Result<Option<Node>> {
        let Some(first) = self.rest().chars().next() else { return Ok(None) };
        Ok(Some(match first {
            '"' => Node::Terminal(self.literal()?),
            '[' => Node::Terminal(self.class()?),
            '.' if !self.rest()[1..].starts_with(is_name) => {
                self.at += 1;
                Node::Terminal(r"/(?s:.)/".into())
            }
            '(' if self.rest().starts_with("(=") => {
                return Err(self.error("lookahead '(=' is not supported"));
            }
            '(' => {
                self.at += 1;
                let inner = self.choice()?;
                self.want(")")?;
                inner
            }
            c if is_name(c) => Node::Rule(self.rule_name()?),
            '|' | ')' => return Ok(None),
            _ => return Err(self.error("Expected a literal, a class, a rule or '('")),
        }))
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node> {
        loop {
            self.blank();
            let Some(first) = self.rest().chars().next() else { return Ok(node) };
            let suffix = match first {
                '?' | '*' | '+' => {
                    self.at += 1;
                    first.to_string()
                }
                '{' => self.bounds()?,
                _ => return Ok(node),
            };
            node = Node::Repeat(Box::new(node), suffix);
        }
    }

    /// `{m}`, `{m,}`, `{,n}`, `{m,n}`
    fn bounds(&mut self) -> Result<String> {
        let start = self.at;
        let Some(end) = self.rest().find('}') else { return Err(self.error("Expected '}'")) };
        let inner = self.rest()[1..end].to_string();
        self.at += end + 1;

        let number = |text: &str| match text.trim() {
            "" => Some(None),
            digits => digits.parse::<u32>().ok().filter(|n| *n <= MAX_REPETITIONS).map(Some),
        };
        let (low, high) = match inner.split_once(',') {
            None => (number(&inner), number(&inner)),
            Some((low, high)) => (number(low), number(high)),
        };

        match (low, high) {
            (Some(low), Some(None)) if inner.contains(',') => {
                Ok(format!("{{{},}}", low.unwrap_or(0)))
            }
            (Some(low), Some(Some(high))) if low.unwrap_or(0) <= high => {
                Ok(format!("{{{},{high}}}", low.unwrap_or(0)))
            }
            _ => {
                self.at = start;
                let limit = format!("Expected bounds of at most {MAX_REPETITIONS}");
                Err(self.error(&limit))
            }
        }
    }

    fn literal(&mut self) -> Result<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.character()? {
                None | Some(('\n', false)) => return Err(self.error("Expected '\"'")),
                Some(('"', false)) => break,
                Some((c, _)) => text.push(c),
            }
        }
        Ok(serde_json::Value::from(text).to_string())
    }

    fn class(&mut self) -> Result<String> {
        self.at += 1;
        let mut class = String::from("/[");
        if self.take("^") {
            class.push('^');
        }

        let mut empty = true;

        loop {
            match self.character()? {
                None | Some(('\n', false)) => return Err(self.error("Expected ']'")),
                Some((']', false)) => break,
                Some(('-', false)) if !empty && !self.rest().starts_with(']') => class.push('-'),
                Some((c, _)) => {
                    let _ = write!(class, "\\u{{{:x}}}", u32::from(c));
                    empty = false;
                }
            }
        }

        if empty {
            return if class == "/[^" {
                Ok(r"/(?s:.)/".into())
            } else {
                Err(self.error("a class is empty"))
            };
        }
        class.push_str("]/");
        Ok(class)
    }

    /// The next character of a literal or a class, and whether it was escaped.
    fn character(&mut self) -> Result<Option<(char, bool)>> {
        let mut chars = self.rest().chars();
        let Some(c) = chars.next() else { return Ok(None) };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(Some((c, false)));
        }
        let Some(escape) = chars.next() else { return Ok(None) };
        self.at += escape.len_utf8();
        let digits = match escape {
            'n' => return Ok(Some(('\n', true))),
            'r' => return Ok(Some(('\r', true))),
            't' => return Ok(Some(('\t', true))),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Ok(Some((other, true))),
        };
        let code = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(c) = code.and_then(char::from_u32) else {
            return Err(self.error(&format!("Expected {digits} hexadecimal digits of a character")));
        };
        self.at += digits;
        Ok(Some((c, true)))
    }
}

/// Rules to Lark: regular ones are terminals (`T0`), the others rules (`r0`).
struct Writer<'a> {
    rules: &'a [Node],
    regular: Vec<bool>,
    out: String,
    /// Runs of regular parts in rules: one terminal each.
    runs: usize,
}

impl<'a> Writer<'a> {
    fn new(rules: &'a [Node]) -> Writer<'a> {
        let regular = regular(rules);
        Writer { rules, regular, out: String::new(), runs: 0 }
    }

    fn grammar(mut self) -> String {
        self.out.push_str(if self.regular[0] { "start: T0\n" } else { "start: r0\n" });
        for (number, rule) in self.rules.iter().enumerate() {
            let (name, body) = if self.regular[number] {
                ("T", self.terminal(rule))
            } else {
                ("r", self.rule(rule))
            };
            let _ = writeln!(self.out, "{name}{number}: {body}");
        }
        self.out
    }

    fn is_regular(&self, node: &Node) -> bool {
        match node {
            Node::Terminal(_) => true,
            Node::Rule(number) => self.regular[*number],
            Node::Sequence(parts) | Node::Choice(parts) => parts.iter().all(|p| self.is_regular(p)),
            Node::Repeat(inner, _) => self.is_regular(inner),
        }
    }

    /// The body of a terminal; everything in it is regular.
    fn terminal(&self, node: &Node) -> String {
        match node {
            Node::Terminal(text) => text.clone(),
            Node::Rule(number) => format!("T{number}"),
            Node::Sequence(parts) if parts.is_empty() => "\"\"".into(),
            Node::Sequence(parts) => self.joined(parts, " "),
            Node::Choice(parts) => format!("({})", self.joined(parts, " | ")),
            Node::Repeat(inner, suffix) => format!("({}){suffix}", self.terminal(inner)),
        }
    }

    fn joined(&self, parts: &[Node], by: &str) -> String {
        parts.iter().map(|part| self.terminal(part)).collect::<Vec<_>>().join(by)
    }

    fn rule(&mut self, node: &Node) -> String {
        if self.is_regular(node) {
            return self.run(std::slice::from_ref(node));
        }
        match node {
            Node::Terminal(text) => text.clone(),
            Node::Rule(number) => format!("r{number}"),
            Node::Choice(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.rule(part)).collect();
                format!("({})", parts.join(" | "))
            }
            Node::Repeat(inner, suffix) => format!("({}){suffix}", self.rule(inner)),

            Node::Sequence(parts) => {
                let mut written = Vec::new();
                let mut rest = &parts[..];
                while let Some(first) = rest.first() {
                    let regular = rest.iter().take_while(|part| self.is_regular(part)).count();
                    written.push(match regular {
                        0 => self.rule(first),
                        _ => self.run(&rest[..regular]),
                    });
                    rest = &rest[regular.max(1)..];
                }
                written.join(" ")
            }
        }
    }

    fn run(&mut self, parts: &[Node]) -> String {
        let body = match parts {
            [Node::Rule(number)] => return format!("T{number}"),
            [] => return "\"\"".into(),
            _ => self.joined(parts, " "),
        };
        self.runs += 1;
        let name = format!("RUN{}", self.runs);
        let _ = writeln!(self.out, "{name}: {body}");
        name
    }
}

/// Which rules reach no rule that reaches itself. Without recursion in this function: the depth of
/// a client's grammar is not ours.
fn regular(rules: &[Node]) -> Vec<bool> {
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    for (number, rule) in rules.iter().enumerate() {
        let mut nodes = vec![rule];
        while let Some(node) = nodes.pop() {
            match node {
                Node::Terminal(_) => {}
                Node::Rule(used) => {
                    uses[number].push(*used);
                    users[*used].push(number);
                }
                Node::Sequence(parts) | Node::Choice(parts) => nodes.extend(parts),
                Node::Repeat(inner, _) => nodes.push(inner),
            }
        }
    }
    // From the leaves up: a rule is regular once all that it uses are known to be.
    let mut open: Vec<usize> = uses.iter().map(Vec::len).collect();
    let mut regular = vec![false; rules.len()];
    let mut ready: Vec<usize> = (0..rules.len()).filter(|&rule| open[rule] == 0).collect();
    while let Some(rule) = ready.pop() {
        regular[rule] = true;
        for &user in &users[rule] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.push(user);
            }
        }
    }
    regular
}

#[cfg(test)]
#[path = "ebnf_tests.rs"]
mod tests;
