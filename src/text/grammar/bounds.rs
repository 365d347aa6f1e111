//! What one grammar may cost. The crate counts most of what it spends and gives up; what it does
//! not count is bounded here, before it begins: how deep and how wide a grammar is, and the lexer's
//! first transitions, which it computes without a limit. Called by [`super::Grammars`].

use std::collections::HashMap;

use llguidance::api::ParserLimits;
use llguidance::earley::lexerspec::LexerSpec;

use super::interrupt::Interrupt;
use crate::error::{Error, Result};
use crate::invalid;

/// Brackets inside each other in a regular expression or a grammar.
const MAX_NESTING: usize = 500;
/// Rules and terminals of a grammar. The crate makes an error longer at each one on the way to it.
const MAX_DEFINITIONS: usize = 2000;
/// Names, literals and numbers in the rules of a grammar, together. The crate compares each new
/// literal with all others.
const MAX_RULE_PARTS: usize = 10_000;
/// Alternatives in one rule: each is tried at every token. Those of a terminal cost nothing there.
const MAX_ALTERNATIVES: usize = 2000;
/// Bytes of a grammar's literals and expressions once each terminal stands where it is used.
const MAX_TERMINAL_BYTES: usize = 500_000;
/// Steps of building a lexer until its first byte is read: 50 ms, and as long again in the crate. A
/// number with bounds takes 600.
const MAX_FIRST_STEPS: u64 = 400_000;
/// Steps of building a lexer, over the whole life of a grammar: 13 bytes each at worst.
pub(super) const MAX_STEPS: u64 = 20_000_000;
/// Bytes of what stands in brackets behind a name.
const MAX_ATTRIBUTES: usize = 200;
const MESSAGE_CHARS: usize = 1000;

/// The crate's own limits. Times are those of its authors, on one core.
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        // Compiling: 20 ms.
        initial_lexer_fuel: 1_000_000,
        max_grammar_size: 500_000,
        // One mask: 14 ms and 3 ms.
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_items_in_row: 2_000,
        // 1 to 2 KiB each.
        max_lexer_states: 1 << 15,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Refuse what nests deeper than the stack is sure to bear, counting every bracket as one.
pub(super) fn check_nesting(name: &str, text: &str) -> Result<()> {
    let mut depth = 0usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest <= MAX_NESTING {
        return Ok(());
    }
    Err(invalid!(
        "structured_outputs.{name} has {deepest} nested brackets, more than {MAX_NESTING}."
    ))
}

/// Refuse more definitions, wider rules and more parts of them than anybody writes.
pub(super) fn check_size(lark: &str) -> Result<()> {
    let definitions = lark.lines().filter(|line| line.contains(':')).count();
    if definitions > MAX_DEFINITIONS {
        return Err(invalid!(
            "structured_outputs.grammar has {definitions} definitions, more than \
             {MAX_DEFINITIONS}."
        ));
    }

    let size = Size::of(lark);
    if size.alternatives > MAX_ALTERNATIVES {
        return Err(invalid!(
            "structured_outputs.grammar has a rule of {} alternatives, more than \
             {MAX_ALTERNATIVES}: make it a terminal (a name in upper case).",
            size.alternatives
        ));
    }
    if size.parts > MAX_RULE_PARTS {
        return Err(invalid!(
            "structured_outputs.grammar has {} names and literals in its rules, more than \
             {MAX_RULE_PARTS}: make terminals of them (names in upper case).",
            size.parts
        ));
    }
    if size.terminal_bytes > MAX_TERMINAL_BYTES {
        return Err(invalid!(
            "structured_outputs.grammar has a terminal of more than {MAX_TERMINAL_BYTES} bytes, \
             those that it uses included."
        ));
    }
    Ok(())
}

/// How large a grammar in Lark is.
#[derive(Debug, Default, PartialEq)]
struct Size {
    /// Of the widest rule, inner ones included.
    alternatives: usize,
    /// Of all rules.
    parts: usize,
    /// Of the largest terminal, with those that it uses.
    terminal_bytes: usize,
}

/// A terminal by itself, and what it uses, as often as it does.
#[derive(Default)]
struct Terminal<'a> {
    bytes: usize,
    uses: Vec<&'a str>,
}

impl Size {
    fn of(lark: &str) -> Size {
        let mut size = Size::default();
        let mut wide = 1;
        let mut in_terminal = None;
        let mut terminals: HashMap<&str, Terminal> = HashMap::new();
        let mut rest = lark;

        while let Some(c) = rest.chars().next() {
            let taken = match c {
                '"' => quoted_len(rest, b'"'),
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' => quoted_len(rest, b'/'),
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                c => c.len_utf8(),
            };
            let (token, behind) = rest.split_at(taken);
            if is_word(c) && starts_definition(token, behind) {
                size.alternatives = size.alternatives.max(wide);
                wide = 1;
                in_terminal = Some(token).filter(|_| c.is_ascii_uppercase());
            } else if let Some(name) = in_terminal {
                let terminal = terminals.entry(name).or_default();
                if is_word(c) {
                    terminal.uses.push(token);
                } else if c == '"' || c == '/' && !token.starts_with("//") {
                    terminal.bytes += token.len();
                }
            } else {
                wide += usize::from(c == '|');
                let part = is_word(c) || c == '"' || c == '/' && !token.starts_with("//");
                size.parts += usize::from(part);
            }
            rest = behind;
        }

        size.alternatives = size.alternatives.max(wide);
        let mut known = HashMap::new();
        let all = terminals.keys().map(|name| whole_bytes(name, &terminals, &mut known));
        size.terminal_bytes = all.max().unwrap_or(0);
        size
    }
}

/// Of a terminal with all that it uses. What uses itself is refused later, by the crate.
fn whole_bytes<'a>(
    name: &'a str,
    terminals: &HashMap<&'a str, Terminal<'a>>,
    known: &mut HashMap<&'a str, usize>,
) -> usize {
    if let Some(bytes) = known.get(name) {
        return *bytes;
    }
    let Some(terminal) = terminals.get(name) else { return 0 };
    known.insert(name, 0);
    let used = terminal.uses.iter().map(|used| whole_bytes(used, terminals, known));
    let bytes = used.fold(terminal.bytes, usize::saturating_add);
    known.insert(name, bytes);
    bytes
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A name with a colon behind it, perhaps with a priority or attributes between them. (A key of
/// JSON is quoted, and no name.)
fn starts_definition(name: &str, behind: &str) -> bool {
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let blank = [' ', '\t'];
    let line = behind.trim_start_matches(blank);
    let line = match line.strip_prefix('[') {
        Some(attributes) => {
            let near = attributes.bytes().take(MAX_ATTRIBUTES).position(|b| b == b']');
            near.map_or("", |end| attributes[end + 1..].trim_start_matches(blank))
        }
        None => line,
    };
    named && line.starts_with([':', '.'])
}

/// Up to the quote that ends it, or the end of the line.
fn quoted_len(text: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'\n' => return at,
            b if b == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Compute what the crate's lexer computes first and without a limit, with one. What it costs
/// here, it costs there again, so that nothing is left that could take long.
pub(super) fn check_lexer(
    spec: &LexerSpec,
    extra_lexemes: &[String],
    limits: &ParserLimits,
    interrupt: &dyn Interrupt,
) -> Result<()> {
    let mut spec = spec.clone();
    spec.add_extra_lexemes(extra_lexemes);
    let mut limits = limits.clone();
    let lexer = spec.to_regex_vec(&mut limits);
    let mut lexer = lexer.map_err(|error| refusal(&error.to_string()))?;
    lexer.set_fuel(limits.initial_lexer_fuel.min(MAX_FIRST_STEPS));
    let start = lexer.initial_state(&spec.all_lexemes());
    for byte in 0..=u8::MAX {
        interrupt.check()?;
        lexer.transition(start, byte);
        if lexer.has_error() {
            return Err(too_costly());
        }
    }
    Ok(())
}

fn too_costly() -> Error {
    invalid!(
        "Grammar error: deciding what may begin a text takes more than the limit of \
         {MAX_FIRST_STEPS} steps: use smaller values of multipleOf, or fewer and simpler patterns \
         in intersections"
    )
}

/// The crate's error in words for a client: without its marks for logs, not as long as the grammar
/// that it quotes, and with what the client can change.
pub(super) fn refusal(message: &str) -> Error {
    let message = message.trim_end_matches("\n<non-verbose/>");
    if let Some(panic) = message.strip_prefix("panic: ") {
        let line = panic.lines().next().unwrap_or_default();
        tracing::warn!("a grammar was given up by its engine: {line}");
        return invalid!("Grammar error: the grammar is larger than its engine can hold");
    }

    if message.contains("initial lexer configuration (grammar) too big")
        || message.contains("fuel exhausted")
        || message.contains("lexer precomputation failed")
    {
        return invalid!(
            "Grammar error: the texts and patterns of the grammar take more than the limit of {} \
             steps to compile: use fewer or shorter ones",
            limits().initial_lexer_fuel
        );
    }
    if message.contains("too many expressions") || message.contains("too many states") {
        let limits = limits();
        return invalid!(
            "Grammar error: what may follow here takes more than the limit of {} steps or {} \
             states: use fewer and simpler patterns, or smaller values of multipleOf",
            limits.step_lexer_fuel,
            limits.max_lexer_states
        );
    }
    if message.contains("Too many items") {
        return invalid!(
            "Grammar error: a token mask takes more than the limit of {} steps through the \
             grammar: use fewer alternatives, or terminals (names in upper case) instead of \
             single letters",
            limits().step_max_items
        );
    }
    if let Some(rest) = message.split("Current row has ").nth(1) {
        let open = rest.split(' ').next().unwrap_or_default();
        return invalid!(
            "Grammar error: {open} alternatives are open at one place, more than the limit of {}: \
             use fewer alternatives or optional properties, or left recursion for right recursion",
            limits().max_items_in_row
        );
    }

    let text: String = message.chars().take(MESSAGE_CHARS).collect();
    invalid!("Grammar error: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_rule_and_all_parts_are_counted() {
        let size =
            |alternatives, parts, terminal_bytes| Size { alternatives, parts, terminal_bytes };
        assert_eq!(Size::of("start: \"a|b\" | (B | /x|y/) // | c\n  | d\nB: \"1\" | \"2\""), {
            size(4, 4, 6)
        });
        assert_eq!(Size::of("start: a\na.1: B | b\nB[lazy]: \"c\" | \"d\"\n").alternatives, 2);
        assert_eq!(Size::of("start: %json {\"enum\": [1, 2, \"a\\\"b\"]}"), size(1, 5, 0));
        assert_eq!(Size::of(""), size(1, 0, 0));
        assert_eq!(Size::of("A:BB\nB:\"12\"\nBB:B B").terminal_bytes, 8);
        let chain: String = (0..40).map(|i| format!("T{i}: T{} T{}\n", i + 1, i + 1)).collect();
        let refused = check_size(&(chain + "T40: \"b\"")).unwrap_err().to_string();
        assert!(refused.contains("a terminal of more than 500000 bytes"), "{refused}");
        assert!(Size::of("A: A").terminal_bytes < 10, "it uses itself");
    }

    #[test]
    fn rules_are_narrower_than_terminals() {
        let wide = vec!["\"a\""; MAX_ALTERNATIVES + 1].join(" | ");
        let refused = check_size(&format!("start: {wide}")).unwrap_err().to_string();
        assert!(refused.contains("a rule of 2001 alternatives, more than 2000"), "{refused}");
        assert!(check_size(&format!("start: A\nA: {wide}")).is_ok());
        let long = vec!["a"; MAX_RULE_PARTS].join(" ");
        let refused = check_size(&format!("start: {long} a")).unwrap_err().to_string();
        assert!(refused.contains("10001 names and literals"), "{refused}");
    }

    #[test]
    fn the_crates_words_become_ours() {
        for (theirs, ours) in [
            ("panic: assertion failed: a < b\n<backtrace>\nx\n</backtrace>", "can hold"),
            ("Parser Error: Current row has 3026 items; max is 2000; consider", "3026 alternat"),
            ("initial lexer configuration (grammar) too big (limit for this)", "1000000 steps"),
            ("parser error: Too many items (limit 50000; mask); try", "50000 steps"),
            ("lexer error: too many states: 32768 >= 32768", "200000 steps or 32768 states"),
        ] {
            let text = refusal(theirs).to_string();
            assert!(text.starts_with("Grammar error: ") && text.contains(ours), "{text}");
            assert!(!text.contains("assertion") && !text.contains("backtrace"), "{text}");
        }
    }
}
