//! Finds the files of the tree and reads Rust just well enough to tell code from comments, strings
//! and tests. Not a parser: rustfmt and the compiler have already seen these files.

use std::ops::Range;
use std::path::{Path, PathBuf};

pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    pub text: String,
    /// Compiled for tests only: its `mod` is declared under `#[cfg(test)]`.
    pub test_module: bool,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Text files of the repository: folders with a dot (but `.ci`), build outputs and bulk data left
/// out.
pub fn all() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root(), &mut sources);
    assert!(sources.len() > 20, "the sources were not found: {} files", sources.len());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let stems: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        source.test_module = stems.iter().any(|stem| {
            let rest = source.path.strip_prefix(stem);
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
    sources
}

/// Paths, without `.rs`, of the modules that a file declares for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.strip_suffix(".rs").filter(|&stem| stem != "mod" && stem != "lib");
    let children = stem.map_or(folder.to_string(), |stem| format!("{folder}/{stem}"));
    let declaration = |after: &str| {
        let path = after.strip_prefix("#[path = \"").and_then(|rest| rest.split_once(".rs\"]"));
        let (named, rest) = path.map_or((None, after), |(name, rest)| (Some(name), rest.trim()));
        let module = rest.trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
        let (name, _) = module.split_once(';').filter(|(name, _)| !name.contains('{'))?;
        Some(named.map_or(format!("{children}/{name}"), |named| format!("{folder}/{named}")))
    };
    source.text.split("#[cfg(test)]").skip(1).filter_map(|rest| declaration(rest.trim())).collect()
}

fn collect(folder: &Path, into: &mut Vec<Source>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let hidden = name.starts_with('.') && name != ".ci";
        if path.is_dir() {
            if !hidden && name != "target" && name != "goldens" {
                collect(&path, into);
            }
            continue;
        }
        let small = path.metadata().is_ok_and(|file| file.len() < 1 << 20);
        let lock = name == "Cargo.lock" || name.ends_with(".log");
        if hidden || lock || !small {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(&path) {
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            into.push(Source { path, text, test_module: false });
        }
    }
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Part of the product, as opposed to its tests.
    pub fn is_product(&self) -> bool {
        self.path.starts_with("src/") && self.is_rust() && !self.test_module
    }

    /// `src/kv/pages.rs` and `src/kv.rs` are in module `kv`; `src/lib.rs` is in none.
    pub fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let module = path.split('/').next()?;
        (module != "lib").then_some(module)
    }

    /// How far the file's module is below the crate: `src/kv/mod.rs` 1, `src/kv/pages.rs` 2.
    pub fn depth(&self) -> usize {
        let parts = self.path.matches('/').count();
        if self.path.ends_with("/mod.rs") {
            parts - 1
        } else {
            parts
        }
    }

    /// The lines with comments, the insides of literals and `#[cfg(test)]` items blanked out.
    pub fn code(&self) -> Vec<String> {
        let mut code = blank_prose(&self.text);
        blank_tests(&mut code);
        lines(&code)
    }

    /// The same with the `#[cfg(test)]` items left in.
    pub fn code_and_tests(&self) -> Vec<String> {
        lines(&blank_prose(&self.text))
    }
}

fn lines(code: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(code).lines().map(str::to_string).collect()
}

/// Whether `line` has `word` and no longer one around it.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next())
    })
}

/// The lines of each function of several lines in what `Source::code` gives, from its `fn` to its
/// brace. By indentation, which rustfmt vouches for: a function ends at the brace below its `fn`.
pub fn functions(code: &[String]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (start, line) in code.iter().enumerate().filter(|(_, line)| has_word(line, "fn")) {
        let ends = |line: &&String| line.trim_end().ends_with(['{', '}', ';']);
        let signature = code[start..].iter().find(ends);
        if !signature.is_some_and(|line| line.trim_end().ends_with('{')) {
            continue;
        }

        let indent = line.len() - line.trim_start().len();
        let brace = format!("{}}}", " ".repeat(indent));
        let close = code[start..].iter().position(|line| line.trim_end() == brace);
        found.extend(close.map(|close| start..start + close + 1));
    }
    found
}

/// Same length, same lines. Anything that is not ASCII is prose or inside a literal.
fn blank_prose(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + block_comment(rest)
        } else if let Some(length) = literal(rest, at.checked_sub(1).map(|before| bytes[before])) {
            // The quotes stay: `expect("` can then be told from a method of that name.
            blank(&mut out[at + 1..at + length - 1]);
            at += length;
            continue;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        blank(&mut out[at..end]);
        at = end;
    }
    out
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn block_comment(rest: &str) -> usize {
    let mut level = 0;
    for (at, _) in rest.char_indices() {
        if rest[at..].starts_with("/*") {
            level += 1;
        } else if rest[at..].starts_with("*/") {
            level -= 1;
            if level == 0 {
                return at + 2;
            }
        }
    }
    rest.len()
}

/// Length of the string or character literal that `rest` starts with.
fn literal(rest: &str, before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if rest.starts_with('r') && (!in_word || before == Some(b'b')) {
        let hashes = rest[1..].bytes().take_while(|&byte| byte == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = 2 + hashes;
            return Some(inside + rest[inside..].find(&close)? + close.len());
        }
    }
    let quote = rest.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return Some(at + 1),
            // A lifetime: what looks like a character has more than one and is not escaped.
            _ if quote == '\'' && !rest.starts_with("'\\") && at > 1 => return None,
            _ => {}
        }
    }
    None
}

/// Blank what follows each `#[cfg(test)]`, up to its `;` or its closing brace.
fn blank_tests(code: &mut [u8]) {
    const MARK: &[u8] = b"#[cfg(test)]";
    let mut at = 0;
    while at + MARK.len() <= code.len() {
        if !code[at..].starts_with(MARK) {
            at += 1;
            continue;
        }
        let (mut end, mut level) = (at + MARK.len(), 0);
        while end < code.len() {
            match code[end] {
                b'{' => level += 1,
                b'}' => level -= 1,
                _ => {}
            }
            let over = (level == 0 && matches!(code[end], b'}' | b';')) || level < 0;
            end += 1;
            if over {
                break;
            }
        }
        blank(&mut code[at..end]);
        at = end;
    }
}

#[test]
fn prose_and_tests_are_not_code() {
    let text = r####"//! use crate::x
fn a<'a>(x: &'a str) -> char { /* unsafe /* x */ */ '"' } // .unwrap()
const S: &str = "todo!() \" unsafe"; const R: &str = r#"dbg!() " "#; const Q: char = '\'';
#[cfg(test)]
mod tests { fn b() { x.unwrap() } }
fn c() { d.unwrap() }
"####;
    let source = Source { path: "src/kv/pages.rs".into(), text: text.into(), test_module: false };
    let code = source.code();
    assert_eq!(code.len(), text.lines().count());
    let joined = code.join("\n");
    for word in ["use", "unsafe", "todo", "dbg", "tests", "x.unwrap"] {
        assert!(!joined.contains(word), "{word} is left in {joined}");
    }
    assert!(joined.contains("fn a<'a>(x: &'a str) -> char {"), "{joined}");
    assert!(code[5].contains("d.unwrap()"), "{joined}");
    assert_eq!((source.module(), source.depth()), (Some("kv"), 2));
}

#[test]
fn functions_are_found_by_their_braces() {
    let text = "fn a() { b() }\n\nfn c(\n    d: E,\n) -> F {\n    g();\n}\nfn h();\nfn i() {\n}\n";
    let source = Source { path: "src/a.rs".into(), text: text.into(), test_module: false };
    assert_eq!(functions(&source.code()), [2..7, 8..10]);
}

#[test]
fn test_modules_are_found_by_their_declaration() {
    let text =
        "#[cfg(test)]\nmod rig;\n#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod tests;\nmod c;\n\
                #[cfg(test)]\npub(crate) mod d;\n#[cfg(test)]\nmod e { mod f; }\n";
    let of = |path: &str| {
        test_modules(&Source { path: path.into(), text: text.into(), test_module: false })
    };
    assert_eq!(of("src/kv/mod.rs"), ["src/kv/rig", "src/kv/b_tests", "src/kv/d"]);
    assert_eq!(of("src/kv/a.rs"), ["src/kv/a/rig", "src/kv/b_tests", "src/kv/a/d"]);
    let found = all().iter().filter(|source| source.test_module).count();
    assert!(found > 0, "there are such files, and none was found");
}
