//! `src/triton/sys/*.rs` and `src/device/cuda/abi.rs` are exactly what bindgen makes of
//! `triton_headers/` and of `src/device/cuda/kernels/*.h`. They are in the repository so that a
//! build needs no libclang; this test needs one (`ci/setup` brings it) and fails where there is
//! none.

use std::path::{Path, PathBuf};

use bindgen::callbacks::{
    DeriveInfo, DeriveTrait, EnumVariantValue, ImplementsTrait, ParseCallbacks,
};

use super::source;

/// A generated file: the Rust side of one header.
pub struct Generated {
    pub file: &'static str,
    header: &'static str,
    kind: Kind,
}

/// What is made of a header.
#[derive(Clone, Copy)]
enum Kind {
    /// A table of function pointers of this name; every function is there.
    Required(&'static str),
    /// The same where functions may be missing. Types of the older header are those of the other
    /// table.
    Newer(&'static str),
    /// Structs, enums and constants.
    Abi,
}

/// The laws on shape, reasons and length do not judge these: nobody writes or reads them, and a
/// server lacks the functions that `expect` in them stands for only if `triton::sys` says so.
pub const GENERATED: [Generated; 3] = [
    Generated {
        file: "src/triton/sys/required.rs",
        header: "triton_headers/triton_backend.h",
        kind: Kind::Required("Required"),
    },
    Generated {
        file: "src/triton/sys/newer.rs",
        header: "triton_headers/triton_newer.h",
        kind: Kind::Newer("Newer"),
    },
    Generated {
        file: "src/device/cuda/abi.rs",
        // It includes abi_ops.h, which includes abi.h.
        header: "src/device/cuda/kernels/abi_codes.h",
        kind: Kind::Abi,
    },
];

/// Set to write the files instead of comparing them.
const WRITE: &str = "TRITON_VLLM_WRITE_BINDINGS";

impl Generated {
    fn generate(&self) -> String {
        let header = self.header;
        let first = format!(
            "//! Made from `{header}` by `{WRITE}=1 cargo test --release --test tidy bindings`."
        );
        let builder = bindgen::Builder::default()
            .header(source::root().join(header).display().to_string())
            // Only integers, floats and pointers cross these interfaces: no header of the compiler
            // is needed.
            .clang_arg("-nostdinc")
            .default_enum_style(bindgen::EnumVariation::Consts)
            .prepend_enum_name(false)
            .generate_comments(false)
            .layout_tests(false)
            .disable_header_comment()
            .rustfmt_configuration_file(Some(source::root().join("rustfmt.toml")))
            .raw_line(first);

        let builder = match self.kind {
            Kind::Required(name) => {
                builder.dynamic_library_name(name).dynamic_link_require_all(true)
            }
            Kind::Newer(name) => {
                let (_, name_of_header) = header.rsplit_once('/').unwrap_or_default();
                builder
                    .dynamic_library_name(name)
                    .allowlist_file(format!(".*{}", name_of_header.replace('.', "\\.")))
                    .allowlist_recursively(false)
                    .raw_line("\nuse super::required::*;")
            }
            Kind::Abi => abi(builder),
        };
        builder.generate().unwrap_or_else(|e| panic!("{header}: {e}")).to_string()
    }
}

/// C++ as NVRTC reads it, for the machine that the GPU's host is. Comments become documentation,
/// layouts are asserted, enums are enums, and what travels as words is `Pod`.
fn abi(builder: bindgen::Builder) -> bindgen::Builder {
    builder
        .clang_args(["-x", "c++", "-std=c++17", "--target=x86_64-unknown-linux-gnu"])
        .clang_arg("-fparse-all-comments")
        .generate_comments(true)
        .layout_tests(true)
        .default_enum_style(bindgen::EnumVariation::Rust { non_exhaustive: false })
        .blocklist_type("DevicePtr")
        .blocklist_type("uint.*_t")
        .raw_line("\nuse super::device_ptr::DevicePtr;")
        .parse_callbacks(Box::new(AbiNames))
}

/// How C's names and types become Rust's.
#[derive(Debug)]
struct AbiNames;

/// Structs that lie in buffers as words: every bit pattern is a value, and none has padding.
const WORDS: [&str; 12] = [
    "ExpertTile",
    "LogitsRecord",
    "LogprobAnswer",
    "LogprobRequest",
    "RowChange",
    "RowDrafts",
    "RowPair",
    "SlotHeader",
    "SpanTile",
    "StepRecord",
    "TokenLogprob",
    "WorkItem",
];

impl ParseCallbacks for AbiNames {
    /// `NORM_KIND_RMS` of `NormKind` is `NormKind::Rms`.
    fn enum_variant_name(
        &self,
        enum_name: Option<&str>,
        variant: &str,
        _: EnumVariantValue,
    ) -> Option<String> {
        let mut prefix = String::new();
        for char in enum_name?.trim_start_matches("enum ").chars() {
            if char.is_uppercase() && !prefix.is_empty() {
                prefix.push('_');
            }
            prefix.push(char.to_ascii_uppercase());
        }
        let words = variant.strip_prefix(&prefix)?.split('_').filter(|word| !word.is_empty());
        Some(words.map(|word| format!("{}{}", &word[..1], word[1..].to_lowercase())).collect())
    }

    /// A shape is no link.
    fn process_comment(&self, comment: &str) -> Option<String> {
        Some(comment.replace('[', "\\["))
    }

    fn blocklisted_type_implements_trait(
        &self,
        _: &str,
        derive: DeriveTrait,
    ) -> Option<ImplementsTrait> {
        match derive {
            DeriveTrait::Copy | DeriveTrait::Debug => Some(ImplementsTrait::Yes),
            _ => None,
        }
    }

    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        let derives = ["Default", "PartialEq", "bytemuck::Pod", "bytemuck::Zeroable"];
        let words = WORDS.contains(&info.name);
        derives.iter().filter(|_| words).map(|name| name.to_string()).collect()
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
    let changed = Generated { header: "triton_headers/triton_newer.h", ..GENERATED[0] };
    let committed = std::fs::read_to_string(source::root().join(GENERATED[0].file));
    assert_ne!(changed.generate(), committed.expect("the first table is in the repository"));
}
