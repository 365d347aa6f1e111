//! `src/triton/sys/*.rs` is exactly what bindgen makes of `triton_headers/`. The files are in the
//! repository so that a build needs no libclang; this test needs one (`ci/setup` brings it) and
//! fails where there is none.

use std::path::{Path, PathBuf};

use super::source;

/// A generated file: the Rust side of one header, as a table of function pointers.
pub struct Table {
    pub file: &'static str,
    header: &'static str,
    name: &'static str,
}

/// The laws on shape, reasons and length do not judge these: nobody writes or reads them, and a
/// server lacks the functions that `expect` in them stands for only if `triton::sys` says so.
pub const GENERATED: [Table; 2] = [
    Table { file: "src/triton/sys/required.rs", header: "triton_backend.h", name: "Required" },
    Table { file: "src/triton/sys/newer.rs", header: "triton_newer.h", name: "Newer" },
];

/// Set to write the files instead of comparing them.
const WRITE: &str = "TRITON_VLLM_WRITE_BINDINGS";

impl Table {
    fn generate(&self) -> String {
        let header = format!("triton_headers/{}", self.header);
        let first = format!(
            "//! Made from `{header}` by `{WRITE}=1 cargo test --release --test tidy bindings`."
        );
        let builder = bindgen::Builder::default()
            .header(source::root().join(&header).display().to_string())
            // Only integers and pointers cross this interface: no header of the compiler is needed.
            .clang_arg("-nostdinc")
            .dynamic_library_name(self.name)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .prepend_enum_name(false)
            .generate_comments(false)
            .layout_tests(false)
            .disable_header_comment()
            .rustfmt_configuration_file(Some(source::root().join("rustfmt.toml")))
            .raw_line(first);

        let builder = if self.name == "Required" {
            builder.dynamic_link_require_all(true)
        } else {
            // Types of the older header are those of the other table.
            builder
                .allowlist_file(format!(".*{}", self.header.replace('.', "\\.")))
                .allowlist_recursively(false)
                .raw_line("\nuse super::required::*;")
        };
        builder.generate().unwrap_or_else(|e| panic!("{header}: {e}")).to_string()
    }
}

/// For bindgen: LIBCLANG_PATH if set, else the wheel that `ci/setup` installs, else what bindgen
/// itself finds in the system.
fn find_libclang() {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let mut targets = vec![source::root().join("target")];
    targets.extend(std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    if let Some(folder) = targets.iter().find_map(|target| wheel(&target.join("venv/lib"))) {
        std::env::set_var("LIBCLANG_PATH", folder);
    }
}

/// `<lib>/python3*/site-packages/clang/native`, where the wheel has libclang.so.
fn wheel(lib: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(lib).ok()?.flatten();
    pythons
        .map(|python| python.path().join("site-packages/clang/native"))
        .find(|folder| folder.join("libclang.so").is_file())
}

#[test]
fn bindings_are_those_of_the_headers() {
    find_libclang();
    for table in &GENERATED {
        let made = table.generate();
        let path = source::root().join(table.file);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &made).unwrap_or_else(|e| panic!("{}: {e}", table.file));
        }

        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = made.lines().zip(committed.lines()).position(|(a, b)| a != b);
        assert!(
            made == committed,
            "{} is not what {} says (first difference in line {:?}): run {WRITE}=1 cargo test \
             --release --test tidy bindings",
            table.file,
            table.header,
            differs.map(|at| at + 1)
        );
    }
}

#[test]
fn a_changed_header_is_noticed() {
    find_libclang();
    let changed = Table { header: "triton_newer.h", ..GENERATED[0] };
    let committed = std::fs::read_to_string(source::root().join(GENERATED[0].file));
    assert_ne!(changed.generate(), committed.expect("the first table is in the repository"));
}
