//! Long functions have air: a blank line or a comment of its own between the steps, so that a
//! reader sees where one ends.

use super::source::{self, Source};
use super::{complaints, holds};

/// Counted from `fn` to the closing brace, as for the longest function there may be.
const DENSE_LINES_MAX: usize = 25;
const PLACES: [&str; 6] = ["src/", "tests/", "examples/", "fuzz/", "build/", "build.rs"];

fn air(source: &Source) -> Vec<String> {
    if !source.is_rust() || !PLACES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let raw: Vec<&str> = source.text.lines().collect();
    let functions = source::functions(&source.code_and_tests());
    let dense = functions.into_iter().filter(|lines| {
        lines.len() > DENSE_LINES_MAX && !raw[lines.clone()].iter().any(|line| is_air(line))
    });
    dense
        .map(|lines| {
            let (at, name, length) = (lines.start + 1, name(raw[lines.start]), lines.len());
            format!(
                "line {at}: {name} has {length} lines and no air (over {DENSE_LINES_MAX}: put a \
                 blank line or a comment between its steps)"
            )
        })
        .collect()
}

/// A blank line, or one that is a comment and nothing else.
fn is_air(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || (line.starts_with("//") && !line.starts_with("///"))
}

/// What a line calls the function that begins there.
fn name(line: &str) -> &str {
    let after = line.split_once("fn ").map_or(line, |(_, after)| after);
    after.split(['(', '<']).next().unwrap_or(after).trim()
}

#[test]
fn long_functions_have_air() {
    let steps = "        g();\n".repeat(24);
    let dense = format!("    fn f<T>(x: T) {{\n{steps}    }}\n");
    assert_eq!(complaints(air, "src/a.rs", &dense), 1);
    assert_eq!(complaints(air, "src/a.rs", &format!("#[cfg(test)]\nmod b {{\n{dense}}}\n")), 1);
    assert_eq!(complaints(air, "tests/a/main.rs", &dense), 1);
    assert_eq!(complaints(air, "src/a.rs", &dense.replacen("g();", "/// G.", 1)), 1);
    assert_eq!(complaints(air, "src/a.rs", &dense.replacen("        g();\n", "", 1)), 0);
    assert_eq!(complaints(air, "src/a.rs", &dense.replacen("        g();", "", 1)), 0);
    assert_eq!(complaints(air, "src/a.rs", &dense.replacen("g();", "// Step two.", 1)), 0);
    assert_eq!(complaints(air, "ci/a.rs", &dense), 0);
    assert_eq!(name("    pub fn f<T>(x: T) {"), "f");
    holds(air);
}
