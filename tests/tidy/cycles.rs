//! Within a module no file needs another that needs it: whoever reads one of them would have to
//! read both. Reads `use` and qualified paths, follows re-exports to the file that defines an item,
//! and looks for the way back. What a method call alone needs stays unseen.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::source::{self, Source};

/// Whether a cycle may run through a file and its child (`a.rs` and `a/b.rs`): the child uses what
/// the parent defines, and the parent's own code, beyond `mod` and `pub use`, what the child does.
const PARENTS_COUNT: bool = true;
/// Of an import that leads to an import.
const HOPS_MAX: usize = 8;
/// Keywords before the name of an item.
const ITEMS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];

/// Names of modules from the root of the crate: `["kv", "pages"]`.
type Path = Vec<String>;

#[derive(Debug, PartialEq)]
struct Token<'a> {
    /// A name, `::`, or one character.
    text: &'a str,
    line: usize,
}

#[derive(Debug, Default)]
struct Import {
    /// As the file calls it; `*` stands for all of a module.
    name: String,
    path: Path,
    line: usize,
}

/// What a file says of itself and of others.
#[derive(Debug, Default)]
struct File {
    path: String,
    module: Path,
    items: HashSet<String>,
    imports: Vec<Import>,
    /// Paths of two names or more outside `use`, with their lines.
    paths: Vec<(Path, usize)>,
    /// Names outside `use`, with their first lines.
    names: BTreeMap<String, usize>,
}

#[derive(Debug, PartialEq)]
enum Found {
    Module(Path),
    /// In the file of this module.
    Item(Path),
}

/// Why one file needs another: the first such line and the name in it.
#[derive(Clone, Debug)]
struct Need {
    line: usize,
    name: String,
}

type Needs = BTreeMap<Path, BTreeMap<Path, Need>>;

fn module_of(path: &str) -> Option<Path> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let names = if path == "lib" { "" } else { path };
    Some(names.split('/').filter(|name| !name.is_empty()).map(str::to_string).collect())
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &[String]) -> Vec<Token<'_>> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    for (line, text) in code.iter().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match rest.find(|c| !part(c)).unwrap_or(rest.len()) {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            tokens.push(Token { text: &rest[..length], line: line + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The imports of one `use`, whose first token is at `at`. Returns where it ends.
fn read_use(tokens: &[Token], mut at: usize, before: &[String], into: &mut Vec<Import>) -> usize {
    let mut path = before.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = read_use(tokens, at, &path, into);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "*" => {
                into.push(Import { name: "*".into(), path, line });
                return at + 1;
            }
            "self" if path.len() > before.len() || !before.is_empty() => {}
            name if is_name(name) && name != "as" => path.push(name.to_string()),
            _ => break,
        }
        at += 1;
    }

    let renamed = tokens.get(at).is_some_and(|token| token.text == "as");
    let name = match tokens.get(at + 1).filter(|_| renamed) {
        Some(name) => name.text.to_string(),
        None => path.last().cloned().unwrap_or_default(),
    };
    into.push(Import { name, path, line });
    at + 2 * usize::from(renamed)
}

/// The names of a path that begins at `at`.
fn read_path(tokens: &[Token], at: usize) -> Path {
    let mut path = Path::new();
    for pair in tokens[at..].chunks(2) {
        if !is_name(pair[0].text) {
            break;
        }
        path.push(pair[0].text.to_string());
        if pair.get(1).is_none_or(|token| token.text != "::") {
            break;
        }
    }
    path
}

/// Seen from the file, a path that stands `levels` modules deep inside it (`mod a { … }`).
fn outward(mut path: Path, levels: usize) -> Path {
    let ups = path.iter().take_while(|name| *name == "super").count();
    path.drain(..ups.min(levels));
    if levels > 0 && ups > 0 && ups <= levels {
        path.insert(0, "self".into());
    }
    path
}

/// The name of the item whose keyword is the last token before `after`.
fn item_name(after: &[Token]) -> Option<String> {
    let names = after.iter().take(2).map(|token| token.text);
    let mut names = names.filter(|name| !["mut", "unsafe", "async", "fn"].contains(name));
    names.next().map(str::to_string)
}

fn read(source: &Source) -> Option<File> {
    let (path, module) = (source.path.clone(), module_of(&source.path)?);
    let mut file = File { path, module, ..File::default() };
    let code = source.code();
    let tokens = tokens(&code);
    // Braces that are open, and after how many of them each module inside the file began.
    let (mut braces, mut inside) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let Token { text, line } = tokens[at];
        let next = tokens.get(at + 1).map_or("", |token| token.text);
        match text {
            "use" if next != "<" => {
                let mut imports = Vec::new();
                at = read_use(&tokens, at + 1, &[], &mut imports);
                file.imports.extend(
                    imports.into_iter().map(|import| Import {
                        path: outward(import.path, inside.len()),
                        ..import
                    }),
                );
                continue;
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                inside.push(braces);
            }
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                inside.retain(|&outside| outside < braces);
            }
            "macro_rules" => file.items.extend(item_name(&tokens[at + 2..])),
            _ if braces == 0 && ITEMS.contains(&text) => {
                file.items.extend(item_name(&tokens[at + 1..]));
            }
            _ => {}
        }

        if is_name(text) {
            file.names.entry(text.to_string()).or_insert(line);
            let continues = at > 0 && tokens[at - 1].text == "::";
            if next == "::" && !continues {
                file.paths.push((outward(read_path(&tokens, at), inside.len()), line));
            }
        }
        at += 1;
    }
    Some(file)
}

struct Crate(BTreeMap<Path, File>);

impl Crate {
    fn read(sources: &[Source]) -> Crate {
        let product = sources.iter().filter(|source| source.is_product());
        Crate(product.filter_map(read).map(|file| (file.module.clone(), file)).collect())
    }

    /// What `path` means in the file of `module`; none if it leads out of the crate.
    fn resolve(&self, module: &[String], path: &[String], hops: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(&[], rest, hops),
            "self" | "super" => self.walk(module, path, hops),
            _ => {
                let known = self.knows(module, first);
                known.then(|| self.walk(module, path, hops)).flatten()
            }
        }
    }

    /// Whether a file has a child, an item or an import of this name.
    fn knows(&self, module: &[String], name: &str) -> bool {
        let file = self.0.get(module);
        self.0.contains_key(&child(module, name))
            || file.is_some_and(|file| {
                file.items.contains(name) || file.imports.iter().any(|import| import.name == name)
            })
    }

    fn walk(&self, module: &[String], path: &[String], hops: usize) -> Option<Found> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Found::Module(module.to_vec()));
        };
        let file = self.0.get(module).filter(|_| hops < HOPS_MAX)?;
        if name == "self" {
            return self.walk(module, rest, hops);
        }
        if name == "super" {
            return self.walk(module.split_last()?.1, rest, hops);
        }

        // A function may have the name of a module: the last name of a path is rather that.
        let below = child(module, name);
        let is_item = file.items.contains(name);
        if self.0.contains_key(&below) && !(is_item && rest.is_empty()) {
            return self.walk(&below, rest, hops);
        }
        if is_item {
            return Some(Found::Item(module.to_vec()));
        }
        if let Some(import) = file.imports.iter().find(|import| import.name == *name) {
            return match self.resolve(module, &import.path, hops + 1)? {
                Found::Module(found) => self.walk(&found, rest, hops + 1),
                item => Some(item),
            };
        }
        for all in file.imports.iter().filter(|import| import.name == "*") {
            match self.resolve(module, &all.path, hops + 1) {
                Some(Found::Module(found)) if found != module && self.knows(&found, name) => {
                    return self.walk(&found, path, hops + 1);
                }
                _ => {}
            }
        }
        // Made by a macro.
        Some(Found::Item(module.to_vec()))
    }

    /// The other files of its module that a file needs.
    fn needs(&self, file: &File) -> BTreeMap<Path, Need> {
        let mut needs = BTreeMap::new();
        let mut add = |path: &[String], line: usize| {
            let Some(Found::Item(other)) = self.resolve(&file.module, path, 0) else { return };
            if other != file.module && other.first() == file.module.first() {
                let name = path.last().cloned().unwrap_or_default();
                needs.entry(other).or_insert(Need { line, name });
            }
        };

        for import in &file.imports {
            match self.resolve(&file.module, &import.path, 0) {
                // Passed on, or not: what counts is whether the parent's own code names it.
                Some(Found::Item(other)) if other.starts_with(&file.module) => {
                    if let Some(&line) = file.names.get(&import.name) {
                        add(&import.path, line);
                    }
                }
                Some(Found::Module(other)) if import.name == "*" => {
                    for (name, &line) in file.names.iter().filter(|(n, _)| self.knows(&other, n)) {
                        add(&child(&import.path, name), line);
                    }
                }
                _ => add(&import.path, import.line),
            }
        }
        for (path, line) in &file.paths {
            add(path, *line);
        }
        needs
    }
}

fn child(module: &[String], name: &str) -> Path {
    module.iter().cloned().chain([name.to_string()]).collect()
}

/// The shortest way through `needs`, both ends included.
fn way(needs: &Needs, from: &Path, to: &Path) -> Option<Vec<Path>> {
    let mut before: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front().filter(|&at| at != to) {
        for next in needs.get(at).into_iter().flat_map(BTreeMap::keys) {
            if next != from && !before.contains_key(next) {
                before.insert(next, at);
                queue.push_back(next);
            }
        }
    }

    let mut way = vec![to.clone()];
    while way.last() != Some(from) {
        let last = way.last()?;
        way.push((*before.get(last)?).clone());
    }
    way.reverse();
    Some(way)
}

/// For each file that needs another, the shortest way back; each cycle once.
fn cycles(sources: &[Source], parents_count: bool) -> Vec<String> {
    let files = Crate::read(sources);
    let mut needs = Needs::new();
    for file in files.0.values() {
        let mut of_file = files.needs(file);
        let related = |other: &Path| {
            other.starts_with(&file.module) || file.module.starts_with(other.as_slice())
        };
        of_file.retain(|other, _| parents_count || !related(other));
        needs.insert(file.module.clone(), of_file);
    }

    let mut found: BTreeSet<Vec<Path>> = BTreeSet::new();
    for (from, others) in &needs {
        for to in others.keys() {
            let Some(mut cycle) = way(&needs, to, from) else { continue };
            let least = (0..cycle.len()).min_by_key(|&at| &cycle[at]).unwrap_or_default();
            cycle.rotate_left(least);
            found.insert(cycle);
        }
    }
    found.iter().map(|cycle| describe(&files, &needs, cycle)).collect()
}

fn describe(files: &Crate, needs: &Needs, cycle: &[Path]) -> String {
    let steps = cycle.iter().zip(cycle.iter().cycle().skip(1));
    let steps = steps.map(|(from, to)| {
        let Need { line, name } = &needs[from][to];
        format!("{}: line {line}: needs `{name}` of {}", files.0[from].path, files.0[to].path)
    });
    let steps: Vec<String> = steps.collect();
    format!(
        "{} files in a cycle (move what both need into a third, or the user to the used):\n    {}",
        cycle.len(),
        steps.join("\n    ")
    )
}

/// How many cycles there are in these files of `src/`; the rest of the way to them is empty.
fn count(files: &[(&str, &str)], parents_count: bool) -> usize {
    let source = |path: &str, text: &str| Source {
        path: format!("src/{path}"),
        text: text.into(),
        test_module: false,
    };
    let parents = ["lib.rs", "kv/mod.rs", "text/mod.rs"].map(|path| source(path, ""));
    let given = files.iter().map(|(path, text)| source(path, text));
    let sources: Vec<Source> = parents.into_iter().chain(given).collect();
    cycles(&sources, parents_count).len()
}

#[test]
fn paths_are_read() {
    let source = Source {
        path: "src/kv/pages.rs".into(),
        text: "use super::{a::{self, B as C}, d::*};\npub const fn e() { f::g::<H>(i::j) }\n"
            .into(),
        test_module: false,
    };
    let file = read(&source).expect("a file of src/");
    let imports: Vec<String> = file
        .imports
        .iter()
        .map(|import| format!("{} = {}", import.name, import.path.join("::")))
        .collect();
    assert_eq!(imports, ["a = super::a", "C = super::a::B", "* = super::d"]);
    assert_eq!(file.items, HashSet::from(["e".to_string()]));
    let paths: Vec<String> = file.paths.iter().map(|(path, _)| path.join("::")).collect();
    assert_eq!(paths, ["f::g", "i::j"]);
    assert_eq!(module_of("src/kv/mod.rs"), module_of("src/kv.rs"));
}

#[test]
fn siblings_that_need_each_other_are_found() {
    let a = ("kv/a.rs", "use super::b::B;\npub struct A;\n");
    let by_path = ("kv/b.rs", "pub struct B;\nfn f() { crate::kv::a::A }\n");
    assert_eq!(count(&[a, by_path], false), 1);
    let by_module = ("kv/b.rs", "use super::a;\npub struct B;\nfn f() { a::A }\n");
    assert_eq!(count(&[a, by_module], false), 1);
    let by_all = ("kv/b.rs", "use super::a::*;\npub struct B;\nfn f() { A }\n");
    assert_eq!(count(&[a, by_all], false), 1);
    let inside = ("kv/b.rs", "pub struct B;\nmod c {\n    use super::super::a::A;\n}\n");
    assert_eq!(count(&[a, inside], false), 1);
    let (nested, b) = (("kv/a/deep.rs", "use super::super::b::B;"), ("kv/b.rs", "pub struct B;"));
    assert_eq!(count(&[a, nested, b], false), 0);

    let third = ("kv/c.rs", "use super::a::A;\npub struct C;\n");
    assert_eq!(count(&[a, ("kv/b.rs", "use super::c::C;\npub struct B;\n"), third], false), 1);
    let by_parent = ("kv/b.rs", "use super::A;\npub struct B;\n");
    assert_eq!(count(&[("kv/mod.rs", "pub use a::A;\n"), a, by_parent], false), 1);
    assert_eq!(count(&[("kv/mod.rs", "pub use b::*;\n"), a, by_parent], false), 0);
}

#[test]
fn what_tests_need_makes_no_cycle() {
    let a = ("kv/a.rs", "use super::b::B;\npub struct A;\n");
    let tested = "pub struct B;\n#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}\n";
    assert_eq!(count(&[a, ("kv/b.rs", tested)], true), 0);
    let elsewhere = ("text/b.rs", "use crate::kv::a::A;\npub struct B;\n");
    assert_eq!(
        count(&[("kv/a.rs", "use crate::text::b::B;\npub struct A;\n"), elsewhere], true),
        0
    );
    let prose = ("kv/b.rs", "//! See [`super::a::A`].\npub struct B;\n");
    assert_eq!(count(&[a, prose], true), 0);
}

#[test]
fn parents_count_if_asked() {
    let child = ("kv/a.rs", "use super::Pool;\npub struct A(Pool);\n");
    let own_use = ("kv/mod.rs", "mod a;\nuse a::A;\npub struct Pool;\nfn f(a: A) {}\n");
    assert_eq!((count(&[own_use, child], true), count(&[own_use, child], false)), (1, 0));
    let own_path = ("kv/mod.rs", "mod a;\npub struct Pool;\nfn f(a: a::A) {}\n");
    assert_eq!(count(&[own_path, child], true), 1);
    let passed_on = ("kv/mod.rs", "mod a;\npub use a::A;\npub struct Pool;\n");
    assert_eq!(count(&[passed_on, child], true), 0);
    let only_used = ("kv/a.rs", "pub struct A;\n");
    assert_eq!(count(&[own_use, only_used], true), 0);
}

#[test]
fn no_file_needs_one_that_needs_it() {
    let found = cycles(&source::all(), PARENTS_COUNT);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}
