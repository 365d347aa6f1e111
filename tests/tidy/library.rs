//! What the finished `libtriton_vllm.so` asks of the machine it is loaded on: the container of the
//! stock server has glibc 2.35, and no promise of a C++ runtime.

use std::path::PathBuf;

use object::elf::{FileHeader64, DT_NEEDED};
use object::read::elf::{Dyn, FileHeader, Sym};
use object::Endianness;

const NAME: &str = "libtriton_vllm.so";
/// The last number stands for all bug fixes of it.
const GLIBC_MAX: [u32; 3] = [2, 35, u32::MAX];
/// libgcc_s unwinds panics; it and the others belong to every glibc system.
const NEEDED: [&str; 5] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "libdl.so.2"];
/// The compiler's start files name these in every shared object, weakly, and test them for null
/// before use: profiling and transactional memory, which nobody need provide.
const WEAK: [&str; 3] =
    ["__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable"];

#[derive(Debug, PartialEq)]
struct Import {
    name: String,
    /// E.g. GLIBC_2.34.
    version: Option<String>,
    weak: bool,
}

#[derive(Debug, Default)]
struct Library {
    needed: Vec<String>,
    imports: Vec<Import>,
    exports: Vec<String>,
}

/// Next to this test: cargo builds the library and its tests in one go.
fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folders = test.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(NAME)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {NAME} near {}: cargo build --release", test.display()))
}

fn read(bytes: &[u8]) -> object::Result<Library> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let mut library = Library::default();
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED) {
            library.needed.push(text(entry.string(endian, strings)?));
        }
    }

    let symbols = sections.symbols(endian, bytes, object::elf::SHT_DYNSYM)?;
    let versions = sections.versions(endian, bytes)?;
    for (index, symbol) in symbols.enumerate().skip(1) {
        let name = text(symbol.name(endian, symbols.strings())?);
        if !symbol.is_undefined(endian) {
            library.exports.push(name);
            continue;
        }
        let version = match &versions {
            Some(versions) => versions.version(versions.version_index(endian, index).index())?,
            None => None,
        };
        let version = version.map(|version| text(version.name()));
        library.imports.push(Import { name, version, weak: symbol.is_weak() });
    }
    Ok(library)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn needed_complaint(name: &str) -> Option<String> {
    (!NEEDED.contains(&name)).then(|| format!("{name} must be installed to load it"))
}

fn import_complaint(import: &Import) -> Option<String> {
    let Import { name, version, weak } = import;
    let Some(version) = version else {
        let server = name.starts_with("TRITONSERVER_") || name.starts_with("TRITONBACKEND_");
        let start_file = *weak && WEAK.contains(&name.as_str());
        return (!server && !start_file).then(|| format!("{name}: nobody is known to provide it"));
    };
    if let Some(glibc) = version.strip_prefix("GLIBC_") {
        let parts: Vec<u32> = glibc.split('.').map_while(|part| part.parse().ok()).collect();
        let old_enough = !parts.is_empty() && parts[..] <= GLIBC_MAX[..];
        return (!old_enough)
            .then(|| format!("{name} is of glibc {glibc}, the container has 2.35"));
    }
    (!version.starts_with("GCC_")).then(|| format!("{name} is of {version}"))
}

#[test]
fn the_library_loads_in_the_stock_container() {
    let path = path();
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let library = read(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(library.imports.len() > 10, "few imports were read: {library:?}");
    let mut complaints: Vec<String> =
        library.needed.iter().filter_map(|name| needed_complaint(name)).collect();
    complaints.extend(library.imports.iter().filter_map(import_complaint));
    let ours = |name: &&String| name.starts_with("TRITONBACKEND_");
    let others: Vec<&String> = library.exports.iter().filter(|name| !ours(name)).collect();
    assert!(complaints.is_empty(), "{}:\n{}", path.display(), complaints.join("\n"));
    assert!(others.is_empty(), "{} exports more than its entry points: {others:?}", path.display());
}

#[test]
fn what_the_container_lacks_is_named() {
    let import = |name: &str, version: Option<&str>, weak| Import {
        name: name.into(),
        version: version.map(str::to_string),
        weak,
    };
    let bad = [
        import("__isoc23_strtol", Some("GLIBC_2.38"), false),
        import("arc4random", Some("GLIBC_2.36"), false),
        import("hidden", Some("GLIBC_PRIVATE"), false),
        import("_ZSt4cout", Some("GLIBCXX_3.4"), false),
        import("cuInit", None, false),
        import("cuInit", None, true),
    ];
    for bad in bad {
        assert!(import_complaint(&bad).is_some(), "{bad:?}");
    }

    let good = [
        import("dlopen", Some("GLIBC_2.34"), false),
        import("memcpy", Some("GLIBC_2.2.5"), false),
        import("_Unwind_Resume", Some("GCC_3.0"), false),
        import("TRITONBACKEND_ResponseNew", None, false),
        import("__gmon_start__", None, true),
    ];
    for good in good {
        assert_eq!(import_complaint(&good), None);
    }
    assert!(needed_complaint("libstdc++.so.6").is_some());
    assert_eq!(needed_complaint("libc.so.6"), None);
}
