//! One vocabulary, the field's: words that this code once used in a sense of its own, and what to
//! write instead. The glossary is in `docs/architecture.md`.

use super::source::Source;
use super::{complaints, holds};

#[derive(Clone, Copy, PartialEq)]
enum Match {
    /// In any case, with an s or without, and as a part of a name too: `bank` is in `bank_of`,
    /// `RowBanks` and `BANKS`.
    Part,
    /// The whole name as it is written here: `Terms` is in neither `terms` nor `NewTerms`.
    Name,
}
use Match::{Name, Part};

/// Of several that begin at one place the first counts. A word of two parts may be broken over two
/// lines.
const BANNED: [(&str, Match, &str); 26] = [
    ("THE DOOR", Name, "the `triton` module, or the Triton front end"),
    ("THE HEART", Name, "what the module does, without a slogan"),
    ("THE POLICY", Name, "what the module does, without a slogan"),
    ("THE LEDGER", Name, "what the module does, without a slogan"),
    ("THE WORDS", Name, "what the module does, without a slogan"),
    ("THE TASTE", Name, "what the module does, without a slogan"),
    ("THE NET", Name, "what the module does, without a slogan"),
    ("THE MUSCLE", Name, "what the module does, without a slogan"),
    ("incumbent", Part, "the Python backend"),
    ("verb", Part, "op"),
    ("ledger", Part, "the cache manager (KvCacheManager)"),
    ("farewell", Part, "delayed end (DelayedEnds)"),
    ("seat", Part, "slot, or assign"),
    ("follower", Part, "sibling"),
    ("manieth", Part, "n-th"),
    ("design law", Part, "docs/architecture.md and the law by its name"),
    ("soften", Part, "online_softmax"),
    ("take_over", Part, "sync_stage"),
    ("skinny", Part, "small m (gemm_small_m)"),
    ("Circle", Name, "RepetitionDetector"),
    ("Wish", Name, "EmbedOptions"),
    ("Terms", Name, "RequestOptions"),
    ("Keeper", Name, "Supervisor"),
    ("BankId", Name, "AdapterSlotId"),
    ("bank", Part, "adapter slot"),
    ("accountant", Part, "the trace device"),
];
/// What may stand: a word, where (the beginning of a path), and the text that it is part of.
const ALLOWED: [(&str, &str, &str); 2] = [
    ("verb", "tests/contract/test_configs.py", "verb"),
    ("bank", "src/device/cuda/", "bank conflict"),
];
const PLACES: [&str; 8] =
    ["src/", "tests/", "examples/", "fuzz/", "docs/", "build", "ci/", "README.md"];
/// Recorded, or this table.
const LEFT_OUT: [&str; 3] = ["ci/runs/", "tests/goldens/", "tests/tidy/words.rs"];
/// Data: vocabularies of models, names of packages.
const DATA: [&str; 5] = [".json", ".jsonl", ".txt", ".pem", ".lock"];

fn words(source: &Source) -> Vec<String> {
    let path = source.path.as_str();
    let among = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
    if !among(&PLACES) || among(&LEFT_OUT) || DATA.iter().any(|end| path.ends_with(end)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (word, instead) in banned(path, path, "") {
        complaints.push(format!("the path says {word} (write: {instead})"));
    }

    let mut lines = source.text.lines().peekable();
    let mut at = 0;
    while let Some(line) = lines.next() {
        at += 1;
        let next = lines.peek().map_or("", |next| prose(next));
        for (word, instead) in banned(path, line, next) {
            complaints.push(format!("line {at}: {word} (write: {instead})"));
        }
    }
    complaints
}

/// A line without the marks that make it a comment.
fn prose(line: &str) -> &str {
    line.trim_start().trim_start_matches(['/', '!', '#', '*']).trim_start()
}

/// The banned words that begin in `line`, as they are written there, and what to write.
fn banned(path: &str, line: &str, next: &str) -> Vec<(String, &'static str)> {
    let text = format!("{} {next}", line.trim_end());
    let lower = text.to_ascii_lowercase();
    let mut found: Vec<(usize, String, &str)> = Vec::new();
    for (word, matching, instead) in BANNED {
        let inside = if matching == Part { &lower } else { &text };
        for (at, _) in inside.match_indices(word).filter(|&(at, _)| at < line.trim_end().len()) {
            let plural = matching == Part && lower[at + word.len()..].starts_with('s');
            let end = at + word.len() + usize::from(plural);
            let is_first = found.iter().all(|&(other, ..)| other != at);
            let stands = stands_alone(&text, at, end, matching);
            if is_first && stands && !allowed(path, &lower, at, word) {
                found.push((at, text[at..end].to_string(), instead));
            }
        }
    }
    found.into_iter().map(|(_, word, instead)| (word, instead)).collect()
}

/// Whether no letter or digit is around it, or (a part of a name) the next part begins there.
fn stands_alone(text: &str, start: usize, end: usize, matching: Match) -> bool {
    let (before, after) = (text[..start].chars().next_back(), text[end..].chars().next());
    let (first, last) = (text[start..].chars().next(), text[..end].chars().next_back());
    if matching == Name {
        return !is_letter(before, true) && !is_letter(after, true);
    }
    let begins = !is_letter(before, false) || turns_upper(before, first);
    let ends = !is_letter(after, false) || turns_upper(last, after);
    begins && ends
}

fn is_letter(char: Option<char>, or_line: bool) -> bool {
    char.is_some_and(|char| char.is_alphanumeric() || (or_line && char == '_'))
}

/// `wB` in `rowBanks`: the second begins a part of its name.
fn turns_upper(one: Option<char>, two: Option<char>) -> bool {
    one.is_some_and(|one| !one.is_uppercase()) && two.is_some_and(char::is_uppercase)
}

/// Whether the word at `at` of a line in small letters is one of `ALLOWED`.
fn allowed(path: &str, lower: &str, at: usize, word: &str) -> bool {
    let mut here =
        ALLOWED.iter().filter(|(name, place, _)| *name == word && path.starts_with(place));
    here.any(|(_, _, context)| {
        let before = context.find(word).unwrap_or_default();
        at.checked_sub(before).is_some_and(|start| lower[start..].starts_with(context))
    })
}

#[test]
fn words_are_those_of_the_field() {
    let says = |text: &str| complaints(words, "src/engine/step.rs", text);
    let bad = [
        "//! THE HEART: it beats.",
        "/// As the Incumbent does.",
        "let bank_of = Row::new();",
        "let x = RowBanks::new();",
        "fn take_over() {}",
        "const BANKS: usize = 3;",
        "// (design law 12)",
        "// what the design\n    // law says",
        "fn f(x: &Terms) {}",
        "use super::skinny::plan;",
        "// each so-manieth send",
    ];
    for bad in bad {
        assert_eq!(says(bad), 1, "{bad}");
    }
    assert_eq!(says("x: BankId, banks: u32 // the ledger"), 3);

    let good = [
        "let terms = NewTerms::default(); // the heart of it",
        "verbatim, verbose, adverbs, seated, embankment",
        "let circle = wish(keeper);",
        "// overtake over there\nlet law = design;",
    ];
    for good in good {
        assert_eq!(says(good), 0, "{good}");
    }
    holds(words);
}

#[test]
fn words_have_their_places() {
    assert_eq!(complaints(words, "tests/cuda_verbs.rs", "//! Ops.\n"), 1);
    assert_eq!(complaints(words, "tests/contract/test_configs.py", "verb = 1\n"), 0);
    assert_eq!(complaints(words, "tests/contract/test_chaos.py", "verb = 1\n"), 1);
    assert_eq!(complaints(words, "src/device/cuda/kernels/a.cu", "// no bank conflicts\n"), 0);
    assert_eq!(complaints(words, "src/device/cuda/kernels/a.cu", "// 32 banks: no conflict\n"), 1);
    for left_out in ["CHANGELOG.md", "ci/runs/a.md", "tests/fixtures/a/vocab.json"] {
        assert_eq!(complaints(words, left_out, "the bank's ledger\n"), 0, "{left_out}");
    }
}
