//! The maps are complete and true: the table in `src/lib.rs` names every module of the crate, the
//! map in README.md these and every folder of the repository, and whatever a map names exists.

use std::collections::BTreeSet;
use std::process::Command;

use super::source;

/// The pages whose paths in code spans must exist. The architecture may be described later.
const PAGES: [&str; 1] = ["docs/architecture.md"];
/// What a file's name ends with; `org/name` and `a/b` in prose are no paths.
const ENDS: [&str; 14] = [
    ".rs", ".cu", ".cuh", ".h", ".py", ".md", ".sh", ".toml", ".json", ".txt", ".yaml", ".yml",
    ".pbtxt", ".lock",
];

/// A tree of files as the laws see it.
struct Tree<'a> {
    lib: &'a str,
    readme: &'a str,
    /// At the root, and tracked.
    folders: &'a [String],
    exists: &'a dyn Fn(&str) -> bool,
}

/// Names of the modules that `lib.rs` declares.
fn modules(lib: &str) -> Vec<&str> {
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    declared.filter_map(|rest| rest.strip_suffix(';')).collect()
}

/// The module of each row of the table in the head of `lib.rs`.
fn rows(lib: &str) -> Vec<&str> {
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.filter_map(|rest| rest.split_once("`]")).map(|(name, _)| name).collect()
}

/// The paths that README's map begins its lines with: those indented by four spaces that begin with
/// a path and go on with what it is for. A line may begin with several paths, with commas. The
/// commands of other such lines have a `#` there.
fn paths(readme: &str) -> Vec<&str> {
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let is_path = |word: &str| {
        let begins = word.starts_with(|c: char| c == '.' || c.is_ascii_alphanumeric());
        begins && word.contains('/')
    };
    let entries = lines.map(first_words).filter(|(words, rest)| {
        words.iter().all(|word| is_path(word)) && !rest.is_empty() && !rest.starts_with('#')
    });
    entries.flat_map(|(words, _)| words).collect()
}

/// The first word of a line, the next after each that ends with a comma, and the rest of it.
fn first_words(line: &str) -> (Vec<&str>, &str) {
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        found.push(word.trim_end_matches(','));
        rest = after.trim_start();
        if !word.ends_with(',') {
            return (found, rest);
        }
    }
}

/// What stands between two `` ` `` in prose and looks like a path: of several parts, with the end
/// of a file or of a folder. The number of a line may follow.
fn spans(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in page.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let spans = line.split('`').skip(1).step_by(2).filter(|_| !fenced);
        let paths = spans.map(|span| span.split_once(':').map_or(span, |(path, _)| path));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let is_path = |path: &&str| {
            let end = path.ends_with('/') || ENDS.iter().any(|end| path.ends_with(end));
            end && !path.starts_with('/') && path.contains('/') && path.chars().all(plain)
        };
        found.extend(paths.filter(is_path).map(|path| (at + 1, path)));
    }
    found
}

fn maps(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    let (modules, rows, paths) = (modules(tree.lib), rows(tree.lib), paths(tree.readme));
    for module in &modules {
        let (file, folder) = (format!("src/{module}.rs"), format!("src/{module}/"));
        if !rows.contains(module) {
            complaints.push(format!("src/lib.rs: the table has no row for [`{module}`]"));
        }
        if !paths.iter().any(|&path| path == file || path == folder) {
            complaints.push(format!("README.md: the map has no line for src/{module}"));
        }
    }
    for row in rows.iter().filter(|row| !modules.contains(row)) {
        complaints.push(format!("src/lib.rs: the table has a row for {row}, which is no module"));
    }

    for folder in tree.folders {
        if !paths.iter().any(|path| path.starts_with(&format!("{folder}/"))) {
            complaints.push(format!("README.md: the map has no line for {folder}/"));
        }
    }
    for path in paths.iter().filter(|path| !(tree.exists)(path)) {
        complaints.push(format!("README.md: the map names {path}, which does not exist"));
    }
    let head = tree.lib.lines().take_while(|line| line.starts_with("//!"));
    let head: Vec<&str> = head.collect();
    complaints.extend(missing("src/lib.rs", &head.join("\n"), tree.exists));
    complaints
}

/// The paths in code spans of a page that are neither below the root nor below `src/`.
fn missing(page: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let spans = spans(text).into_iter();
    let lost = spans.filter(|(_, path)| !exists(path) && !exists(&format!("src/{path}")));
    lost.map(|(at, path)| format!("{page}: line {at}: names {path}, which does not exist"))
        .collect()
}

/// Folders of the root that hold files of the repository. A copy without git has no others.
fn folders() -> Vec<String> {
    let root = source::root();
    let safe = format!("safe.directory={}", root.display());
    let git = Command::new("git").args(["-c", &safe, "ls-files"]).current_dir(&root).output();
    let tracked = git.ok().filter(|output| output.status.success());
    let tracked = tracked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let files = tracked.unwrap_or_else(|| {
        source::all().iter().map(|source| format!("{}\n", source.path)).collect()
    });
    let folders = files.lines().filter_map(|file| file.split_once('/'));
    let folders: BTreeSet<String> = folders.map(|(folder, _)| folder.to_string()).collect();
    folders.into_iter().collect()
}

fn on_disk(path: &str) -> bool {
    source::root().join(path).exists()
}

#[test]
fn maps_are_complete_and_true() {
    let read = |path: &str| std::fs::read_to_string(source::root().join(path));
    let (lib, readme) = (read("src/lib.rs").expect("lib.rs"), read("README.md").expect("README"));
    let folders = folders();
    assert!(folders.iter().any(|folder| folder == "src"), "{folders:?}");
    let tree = Tree { lib: &lib, readme: &readme, folders: &folders, exists: &on_disk };
    let mut complaints = maps(&tree);
    for page in PAGES {
        complaints.extend(missing(page, &read(page).unwrap_or_default(), &on_disk));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn gaps_in_maps_are_named() {
    let lib = "//! | [`kv`] | pages |\n//!\n//! See `kv/pages.rs`.\n\npub mod kv;\npub mod ids;\n";
    let readme =
        "    ci/test     # all\n\n    src/lib.rs   map\n    src/kv/, src/ids.rs  pages; ids\n";
    let files = ["src/lib.rs", "src/kv/", "src/ids.rs", "src/kv/pages.rs", "ci/"];
    let gaps = |lib: &str, readme: &str, folders: &[&str]| {
        let folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
        let exists = |path: &str| files.contains(&path);
        maps(&Tree { lib, readme, folders: &folders, exists: &exists })
    };

    assert_eq!(gaps(lib, readme, &["src"]), ["src/lib.rs: the table has no row for [`ids`]"]);
    let lib = &lib.replacen("//!\n", "//! | [`ids`] | names |\n", 1);
    assert_eq!(gaps(lib, readme, &["src"]), [""; 0]);
    assert_eq!(gaps(lib, readme, &["ci"]), ["README.md: the map has no line for ci/"]);
    assert_eq!(gaps(lib, &readme.replace("src/kv/", "src/kw/"), &[]).len(), 2);
    assert_eq!(gaps(&lib.replace("pages.rs", "leaves.rs"), readme, &[]).len(), 1);
    assert_eq!(gaps(&lib.replace("pub mod ids;", ""), readme, &[]).len(), 1);
}

#[test]
fn only_paths_in_prose_are_looked_up() {
    let page =
        "`kv/pages.rs:12` `org/name` `pages.rs` `kv/` `x::y` `/opt/a.rs`\n```\n`a/b.rs`\n```\n";
    assert_eq!(spans(page), [(1, "kv/pages.rs"), (1, "kv/")]);
    let exists = |path: &str| path == "src/kv/pages.rs";
    assert_eq!(
        missing("docs/a.md", page, &exists),
        ["docs/a.md: line 1: names kv/, which does not exist"]
    );
}
