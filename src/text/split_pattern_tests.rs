//! Known patterns, patterns that must not pass, and patterns at random, which the crate itself
//! applies to both sides of a cut and to the whole.

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use super::*;
use crate::text::cut_rule::piece_starts;
use crate::text::testing::Random;

#[test]
fn what_models_have() {
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let llama3 = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let qwen2 = llama3.replace("{1,3}", "");
    let deepseek_v3 = concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"##,
        r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let gpt_oss = concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );

    let begins = [gpt2, llama3, &qwen2, deepseek_v3, gpt_oss, r"\s", " "];
    for pattern in begins {
        assert_eq!(judge(pattern), Some(AtBlank::Begins), "{pattern}");
    }
    for pattern in [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", r"[0-9][0-9][0-9]", r"\p{L}+", "'s|[^a-z ]"]
    {
        assert_eq!(judge(pattern), Some(AtBlank::Passes), "{pattern}");
    }
    assert_eq!(judge_literal(" "), Some(AtBlank::Begins));
    assert_eq!(judge_literal(" a"), Some(AtBlank::Passes));
    assert_eq!(judge_literal("a b"), None);
    assert_eq!(judge_literal(""), None);
}

#[test]
fn what_must_not_pass() {
    let holds_both = [
        r"\p{L}+ \p{L}+",
        r"\w+ ?",
        r"[^\r\n]+",
        r"\D+",
        "(?: ?[a-z]+)+",
        r"(?:[a-z]|\s)+",
        r"[a ]{2,}",
        r"x(?:y|'s)* ",
        r"(?i:S)?'? ",
        r"[^b-zA-Z]+",
        r"\PN+",
    ];
    let not_known = [
        r"\p{L}+(?= )| ",
        r"(?<=a) | ",
        r"(?<!a) | ",
        r"\b\w+\b| ",
        "^ | ",
        r"\w+$| ",
        ".| ",
        r"\p{L}++| ",
        r"(?>\p{L}+)| ",
        r"(\p{L})\1| ",
        r"\p{Latin}+| ",
        r"[\p{L}&&[^a]]+| ",
        r"\x20",
        r"\u0061",
        r"(?i)a| ",
        r"(?x) a| ",
        r"a\K | ",
        r"\G | ",
        r"(?!\S)| ",
        r"\p{L}+(?!\S)| ",
        r"[[:alpha:]]+| ",
        r"a{+3}| ",
        "(?i:ſ)| ",
        "(?i:[a-ſ])| ",
        r"\<a| ",
        "(a",
        "a)",
        "a|*",
        "[a",
        r"a\",
        "[]",
        r"\p{L",
        "a{2",
        "a{2,1}",
        "a{0}| ",
        // Nothing at all may match.
        "",
        "a*",
        r"\s*",
        " |",
        r"(?:)| ",
        // The assertion without something that matches every blank, or with too much beside it.
        r"\s+(?!\S)",
        r"\p{L}+|\s+(?!\S)",
        "a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|\\s+(?!\\S)|\\s+",
    ];
    for pattern in holds_both.iter().chain(&not_known) {
        assert_eq!(judge(pattern), None, "{pattern}");
    }
    let deep = |depth| format!("{}a{}| ", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(judge(&deep(MAX_DEPTH)), Some(AtBlank::Begins));
    assert_eq!(judge(&deep(MAX_DEPTH + 1)), None);
    assert_eq!(judge(&deep(100_000)), None);
}

/// A pattern of the grammar, or nearly.
fn pattern(rng: &mut Random, depth: usize) -> String {
    const ATOMS: [&str; 16] = [
        r"\s",
        " ",
        r"\p{L}",
        r"[^\s\p{L}\p{N}]",
        r"\p{N}",
        "a",
        "'",
        "[a-c]",
        r"[\r\n]",
        r"\S",
        r"[^\r\n\p{L}]",
        r"\w",
        "(?i:'S)",
        "é",
        r"[ a]",
        r"\P{L}",
    ];

    let mut alternatives = Vec::new();
    for _ in 0..1 + rng.below(3) {
        let mut one = String::new();
        for _ in 0..1 + rng.below(3) {
            one += &match rng.below(6) {
                0 if depth < 2 => format!("(?:{})", pattern(rng, depth + 1)),
                _ => ATOMS[rng.below(ATOMS.len())].to_string(),
            };
            one += ["", "", "?", "*", "+", "{1,2}", "+?"][rng.below(7)];
        }
        alternatives.push(one);
    }
    if depth == 0 && rng.below(2) == 0 {
        alternatives.extend([LAST_SPACES.to_string(), r"\s+".to_string()]);
    }
    alternatives.join("|")
}

/// Where words begin, and the end.
fn borders(split: &Split, text: &str) -> Vec<usize> {
    let mut words = PreTokenizedString::from(text);
    split.pre_tokenize(&mut words).unwrap();
    let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    words.iter().flat_map(|(_, offsets, _)| [offsets.0, offsets.1]).collect()
}

/// Both sides of every cut, split alone, have the words of the whole, but for a border at the cut,
/// which the whole has too where a match begins at every blank.
#[test]
fn patterns_at_random() {
    const CHARS: [&str; 12] = ["a", "b", "x", " ", " ", " ", "\n", "1", "'s", "é", "-", "S"];
    let mut rng = Random(7);
    let (mut begins, mut passes, mut cuts) = (0, 0, 0);
    for _ in 0..4000 {
        let pattern = pattern(&mut rng, 0);
        let Some(judged) = judge(&pattern) else { continue };
        let of_kind = match judged {
            AtBlank::Begins => &mut begins,
            AtBlank::Passes => &mut passes,
        };
        *of_kind += 1;
        let split = SplitPattern::Regex(pattern.clone());
        let split = Split::new(split, SplitDelimiterBehavior::Isolated, false).unwrap();

        for _ in 0..10 {
            let text: String = (0..24).map(|_| CHARS[rng.below(CHARS.len())]).collect();
            let mut whole = borders(&split, &text);
            for cut in piece_starts(&text, text.len()).into_iter().skip(1) {
                let mut sides = borders(&split, &text[..cut]);
                sides.extend(borders(&split, &text[cut..]).iter().map(|at| at + cut));
                sides.dedup();
                if judged == AtBlank::Passes {
                    whole.push(cut);
                    whole.sort_unstable();
                }
                whole.dedup();
                assert_eq!(sides, whole, "{pattern} on {text:?} cut at {cut}");
                whole = borders(&split, &text);
                cuts += 1;
            }
        }
    }
    assert!(begins > 300 && passes > 100 && cuts > 5000, "{begins} {passes} {cuts}");
}
