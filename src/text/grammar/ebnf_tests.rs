//! What the conversion writes, and what it refuses. What the written grammars accept is tested next
//! door, with the engine.

use super::*;

fn lark(text: &str) -> String {
    to_lark(text).unwrap()
}

fn refusal(text: &str) -> String {
    let error = to_lark(text).unwrap_err().to_string();
    let lead = "Failed to convert the grammar from GBNF to Lark: ";
    error.strip_prefix(lead).unwrap_or_else(|| panic!("{error}")).to_string()
}

#[test]
fn ebnf_is_told_from_lark() {
    assert!(is_ebnf("root ::= \"a\""));
    assert!(is_ebnf("# x\n  root::=a\na ::= [a]"));
    assert!(!is_ebnf("start: \"::=\""));
    assert!(!is_ebnf("start: a\na: \"x ::= y\""));
}

#[test]
fn regular_rules_are_terminals() {
    assert_eq!(lark("root ::= \"yes\" | \"no\""), "start: T0\nT0: (\"yes\" | \"no\")\n");
    assert_eq!(
        lark("root ::= a+ \"\\x41\\u00e9\\n\"\na ::= [^a-z\\]-] {2,} | b?\nb ::= ."),
        "start: T0\nT0: (T1)+ \"A\u{e9}\\n\"\nT1: ((/[^\\u{61}-\\u{7a}\\u{5d}\\u{2d}]/){2,} | \
         (T2)?)\nT2: /(?s:.)/\n"
    );
}

#[test]
fn recursive_rules_are_rules_with_long_lexemes() {
    assert_eq!(
        lark("root ::= \"(\" ws root ws \")\" | [0-9]+ ws\nws ::= \" \"*"),
        "start: r0\nRUN1: \"(\" T1\nRUN2: T1 \")\"\nRUN3: (/[\\u{30}-\\u{39}]/)+ T1\n\
         r0: (RUN1 r0 RUN2 | RUN3)\nT1: (\" \")*\n"
    );
}

#[test]
fn lines_and_comments_are_blanks() {
    let one = lark("root ::= a | \"b\" # end\na ::= \"c\"");
    assert_eq!(lark("# start\nroot ::=\n  a |\n\n \"b\"\n a::=(\"c\")"), one);
    assert_eq!(lark("root ::= a\n  | \"b\"\na ::=\n\"c\"\n"), one);
}

#[test]
fn errors_say_what_and_where() {
    assert_eq!(refusal("root ::= ("), "Expected ')' at line 1, 'root ::= (' ^ ''");
    assert_eq!(refusal("root ::= \"a"), "Expected '\"' at line 1, 'root ::= \"a' ^ ''");
    assert_eq!(refusal("# x\nroot ::= a\na ::= [z"), "Expected ']' at line 3, 'a ::= [z' ^ ''");
    assert_eq!(refusal("root = \"a\"\nx ::= y"), "Expected '::=' at line 1, 'root ' ^ '= \"a\"'");
    for (text, what) in [
        ("a ::= \"x\"", "Rule 'root' is not defined"),
        ("root ::= b", "Rule 'b' is not defined"),
        ("root ::= \"a\"\nroot ::= \"b\"", "a rule is defined twice"),
        ("root ::= []", "a class is empty"),
        ("root ::= \"\\xZZ\"", "Expected 2 hexadecimal digits of a character"),
        ("root ::= \"\\ud800\"", "Expected 4 hexadecimal digits of a character"),
        ("root ::= \"a\"{3,2}", "Expected bounds of at most 10000"),
        ("root ::= \"a\"{99999999}", "Expected bounds of at most 10000"),
        ("root ::= \"a\"{", "Expected '}'"),
        ("root ::= (= \"a\")", "lookahead '(=' is not supported"),
        ("root ::= \"a\" )", "Expected a rule name"),
        ("root ::= &", "Expected a literal, a class, a rule or '('"),
    ] {
        assert!(refusal(text).starts_with(what), "{text}: {}", refusal(text));
    }
    let deep = format!("root ::= {}", "(".repeat(100_000));
    assert!(refusal(&deep).starts_with("more than 100 nested parentheses at line 1"));
}
