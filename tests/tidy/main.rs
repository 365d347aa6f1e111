//! The rules of this tree that the compiler does not know: who may import whom, where `unsafe` may
//! stand, what a file looks like, which words it uses, what the maps name, and what the finished
//! library may ask of the machine it runs on. Each law is a function from a file (or from all of
//! them) to complaints, and is shown a file that breaks it.

mod air;
mod bindings;
mod cycles;
mod library;
mod licences;
mod maps;
mod source;
mod words;

use source::{has_word, Source};

/// Module, and the modules below it that it may import. Leaves may be imported by all.
const MODULES: [(&str, &[&str]); 15] = [
    ("triton", &["engine"]),
    ("engine", &["scheduler", "text", "model", "device", "image"]),
    ("scheduler", &["kv"]),
    ("kv", &[]),
    ("text", &[]),
    ("model", &["device", "image"]),
    ("device", &[]),
    ("image", &[]),
    ("plan", &["sampling"]),
    ("sampling", &[]),
    ("error", &[]),
    ("threads", &[]),
    ("files", &[]),
    ("json", &[]),
    ("ids", &[]),
];
/// For every module but those in the list itself, where the order is that of imports.
const LEAVES: [&str; 7] = ["error", "threads", "files", "json", "ids", "sampling", "plan"];
/// `error`'s macros, exported at the root of the crate.
const MACROS: [&str; 2] = ["invalid", "internal"];
const UNSAFE_PLACES: [&str; 3] = ["src/triton/", "src/device/cuda/", "src/device/cpu/simd/"];
/// Code that gives up on input, prints past the log, or was left for later.
const BANNED_CODE: [(&str, &str); 7] = [
    (".unwrap()", "return an error"),
    ("todo!", "do it"),
    ("unimplemented!", "do it"),
    ("dbg!", "remove it"),
    ("println!", "use tracing"),
    ("eprintln!", "use tracing"),
    ("print!", "use tracing"),
];
/// A FIFO would hang them, a device fill the memory, a mapped file that shrinks end the process.
const FILE_READS: [&str; 4] = ["fs::read(", "fs::read_to_string(", "File::open(", "Mmap"];
/// The helper that judges what it opens, and the reader of the kernel's own files.
const FILE_PLACES: [&str; 2] = ["src/files.rs", "src/device/cpu/memory.rs"];
const LINES_MAX: usize = 600;
const LINES_COUNT: [&str; 5] = [".rs", ".cu", ".cuh", ".h", ".py"];
const COLUMNS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;

fn may_import(module: &str, other: &str) -> bool {
    let leaf = |name| LEAVES.iter().position(|&leaf| leaf == name);
    let below = match (leaf(module), leaf(other)) {
        (Some(module), Some(other)) => other < module,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let listed = MODULES.iter().any(|&(name, imports)| name == module && imports.contains(&other));
    module == other || below || listed || MACROS.contains(&other)
}

/// Names right after `crate::` in a line: one, or those in braces.
fn crate_paths(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut level = 0;
        let top_level = list.split(|c| {
            level += i32::from(c == '{') - i32::from(c == '}');
            level == 0 && c == ','
        });
        found.extend(top_level.map(word));
    }
    found.retain(|name| !name.is_empty());
    found
}

fn imports(source: &Source) -> Vec<String> {
    let (true, Some(module)) = (source.is_product(), source.module()) else { return Vec::new() };
    if !MODULES.iter().any(|&(name, _)| name == module) {
        return vec![format!("module {module} is not on the map in lib.rs and here")];
    }
    let code = source.code();
    let mut complaints = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let statement = code[at..].iter().take(if line.contains("crate::{") { 12 } else { 1 });
        let text: String = statement.map(String::as_str).collect();
        let text = text.split(';').next().unwrap_or_default();
        for other in crate_paths(if line.contains("crate::{") { text } else { line }) {
            if !may_import(module, &other) {
                complaints.push(format!("line {}: {module} imports {other}", at + 1));
            }
        }
        let up = "super::".repeat(source.depth());
        for (name, _) in MODULES {
            if line.contains(&format!("{up}{name}::")) && !may_import(module, name) {
                complaints.push(format!("line {}: {module} imports {name} by super", at + 1));
            }
        }
    }
    complaints
}

fn unsafe_places(source: &Source) -> Vec<String> {
    if !source.is_product() {
        return Vec::new();
    }
    let raw: Vec<&str> = source.text.lines().collect();
    let mut complaints = Vec::new();
    for (at, line) in source.code().iter().enumerate().filter(|(_, line)| has_word(line, "unsafe"))
    {
        if !UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
            complaints.push(format!("line {}: unsafe in a module that has none", at + 1));
        }
        // `unsafe extern "C" fn(…)` as a type promises nothing yet; its calls do. `deny(unsafe_…)`
        // is no unsafe code either.
        let is_type = line.contains("fn(") || line.contains("fn (");
        let near = &raw[at.saturating_sub(8)..(at + 2).min(raw.len())];
        if !is_type && !near.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety"))
        {
            complaints.push(format!("line {}: unsafe without a SAFETY comment", at + 1));
        }
    }
    complaints
}

fn banned_code(source: &Source) -> Vec<String> {
    if !source.is_product() {
        return Vec::new();
    }
    let raw: Vec<&str> = source.text.lines().collect();
    let mut complaints = Vec::new();
    for (at, line) in source.code().iter().enumerate() {
        for (code, instead) in BANNED_CODE {
            // `triton` may find a server without the functions that a log needs.
            if code == "eprintln!" && source.path == "src/triton/mod.rs" {
                continue;
            }
            let starts = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric());
            if line.match_indices(code).any(|(at, _)| code.starts_with('.') || starts(at)) {
                complaints.push(format!("line {}: {code} ({instead})", at + 1));
            }
        }
        let expects = line.contains(".expect(\"") || line.trim_end().ends_with(".expect(");
        let proven = raw[at.saturating_sub(3)..=at].iter().any(|line| line.contains("// proof:"));
        if expects && !proven {
            complaints.push(format!("line {}: expect without `// proof:`", at + 1));
        }
    }
    complaints
}

fn file_reads(source: &Source) -> Vec<String> {
    if !source.is_product() || FILE_PLACES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (at, line) in source.code().iter().enumerate() {
        for call in FILE_READS.iter().filter(|call| line.contains(*call)) {
            complaints.push(format!("line {}: {call} (use crate::files)", at + 1));
        }
    }
    complaints
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let counts = LINES_COUNT.iter().any(|end| source.path.ends_with(end));
    if !counts || lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{lines} lines, at most {LINES_MAX}: split it")]
}

fn shape(source: &Source) -> Vec<String> {
    let kernel = [".cu", ".cuh"].iter().any(|end| source.path.ends_with(end));
    if !source.is_rust() && !kernel {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    if source.is_rust() && !source.text.starts_with("//! ") {
        complaints.push("does not begin with `//! ` and what it is for".into());
    }
    for (at, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        // A row of a table in Markdown cannot be broken.
        if columns > COLUMNS_MAX && !line.trim_start().starts_with("//! |") {
            complaints.push(format!("line {}: {columns} columns, at most {COLUMNS_MAX}", at + 1));
        }
    }
    complaints
}

fn function_length(source: &Source) -> Vec<String> {
    if !source.is_product() {
        return Vec::new();
    }
    let functions = source::functions(&source.code());
    let long = functions.iter().filter(|lines| lines.len() > FUNCTION_LINES_MAX);
    long.map(|lines| {
        let (at, length) = (lines.start + 1, lines.len());
        format!("line {at}: a function of {length} lines, at most {FUNCTION_LINES_MAX}")
    })
    .collect()
}

/// Marks of unfinished work, and paths of the machine somebody worked on.
fn leftovers(source: &Source) -> Vec<String> {
    let words = [["FIX", "ME"], ["XX", "X"], ["/wo", "rk/"], ["/tmp/", "w/"], ["/home", "/"]];
    let mut complaints = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        for word in words.map(|halves| halves.concat()) {
            let whole = word.starts_with('/') || has_word(line, &word);
            if line.contains(&word) && whole {
                complaints.push(format!("line {}: {word}", at + 1));
            }
        }
    }
    complaints
}

type Law = fn(&Source) -> Vec<String>;

fn holds(law: Law) {
    let mut complaints = Vec::new();
    let generated = |path: &str| bindings::GENERATED.iter().any(|table| table.file == path);
    for source in source::all().iter().filter(|source| !generated(&source.path)) {
        complaints.extend(law(source).iter().map(|text| format!("{}: {text}", source.path)));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn complaints(law: Law, path: &str, text: &str) -> usize {
    law(&Source { path: path.into(), text: text.into(), test_module: false }).len()
}

#[test]
fn imports_go_down_only() {
    let bad = "use crate::engine::Engine;\nuse crate::{error::Error, scheduler::{a, b}, model};\n";
    assert_eq!(complaints(imports, "src/kv/mod.rs", bad), 3);
    assert_eq!(
        complaints(imports, "src/kv/pages.rs", "use crate::{\n    ids::X,\n    text,\n};"),
        1
    );
    assert_eq!(complaints(imports, "src/device/cpu/mod.rs", "fn f() { crate::model::g() }"), 1);
    assert_eq!(complaints(imports, "src/triton/mod.rs", "use crate::scheduler::X;"), 1);
    assert_eq!(complaints(imports, "src/ids.rs", "use crate::plan::StepPlan;"), 1);
    assert_eq!(complaints(imports, "src/kv/mod.rs", "use super::engine::Engine;"), 1);
    assert_eq!(complaints(imports, "src/attic/mod.rs", ""), 1);
    let good = "use crate::error::Result;\nuse crate::{plan, kv::X};\ncrate::invalid!(\"\");";
    assert_eq!(complaints(imports, "src/scheduler/mod.rs", good), 0);
    holds(imports);
}

#[test]
fn unsafe_has_its_places_and_reasons() {
    let naked = "fn f() {\n    unsafe { g() }\n}\n";
    assert_eq!(complaints(unsafe_places, "src/engine/step.rs", naked), 2);
    assert_eq!(complaints(unsafe_places, "src/triton/sys.rs", naked), 1);
    let reasoned = "// SAFETY: g is harmless.\nunsafe { g() }\n";
    assert_eq!(complaints(unsafe_places, "src/triton/sys.rs", reasoned), 0);
    assert_eq!(complaints(unsafe_places, "src/device/cpu/mod.rs", reasoned), 1);
    holds(unsafe_places);
}

#[test]
fn the_product_neither_gives_up_nor_prints() {
    let bad = "fn f() {\n    x.unwrap();\n    dbg!(y);\n    z.expect(\"z\");\n    todo!()\n}\n";
    assert_eq!(complaints(banned_code, "src/engine/step.rs", bad), 4);
    let good = "fn f() {\n    parser.expect(b'x');\n    // proof: z is.\n    z.expect(\"z\");\n}\n";
    assert_eq!(complaints(banned_code, "src/engine/step.rs", good), 0);
    holds(banned_code);
}

#[test]
fn files_are_read_by_one_helper() {
    let bad = "fn f() {\n    std::fs::read(p);\n    File::open(p);\n    Mmap::map(&f)\n}\n";
    assert_eq!(complaints(file_reads, "src/model/config.rs", bad), 3);
    assert_eq!(complaints(file_reads, "src/files.rs", bad), 0);
    assert_eq!(complaints(file_reads, "src/model/config.rs", "files::read(p, Kind::Config)\n"), 0);
    holds(file_reads);
}

#[test]
fn files_have_their_shape() {
    assert_eq!(complaints(shape, "src/a.rs", "fn f() {}\n"), 1);
    assert_eq!(complaints(shape, "src/a.rs", &format!("//! A.\n// {}\n", "x".repeat(98))), 1);
    assert_eq!(complaints(shape, "src/device/cuda/kernels/a.cu", "// A.\n"), 0);
    holds(shape);
}

#[test]
fn files_end_before_the_reader_tires() {
    for path in ["src/a.rs", "tests/a.rs", "kernels/a.cu", "kernels/a.cuh", "abi.h", "ci/a.py"] {
        assert_eq!(complaints(file_length, path, &"A\n".repeat(601)), 1, "{path}");
        assert_eq!(complaints(file_length, path, &"A\n".repeat(600)), 0, "{path}");
    }
    assert_eq!(complaints(file_length, "CHANGELOG.md", &"A\n".repeat(601)), 0);
    holds(file_length);
}

#[test]
fn functions_fit_a_page() {
    let long = format!("    fn f() {{\n{}    }}\n", "        g();\n".repeat(69));
    assert_eq!(complaints(function_length, "src/a.rs", &long), 1);
    assert_eq!(complaints(function_length, "src/a.rs", &long.replacen("        g();\n", "", 1)), 0);
    holds(function_length);
}

#[test]
fn nothing_is_left_over() {
    assert_eq!(complaints(leftovers, "README.md", concat!("see /wo", "rk/main\n")), 1);
    assert_eq!(complaints(leftovers, "src/a.rs", concat!("// FIX", "ME later\n")), 1);
    assert_eq!(complaints(leftovers, "README.md", concat!("repository/XX", "XX\n")), 0);
    holds(leftovers);
}
