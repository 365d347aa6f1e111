//! Triton's C interface, from our own headers to Rust: bindgen makes two tables of function
//! pointers that `src/triton/sys.rs` fills from the running server. Nothing of the server is
//! linked. And with the feature `cuda` the kernels: `build/kernels.rs`.

#[path = "build/kernels.rs"]
mod kernels;

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build/kernels.rs");
    println!("cargo:rerun-if-changed=triton_headers");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");
    // Exports are ours alone: llguidance has a C interface that nobody asked for.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    find_libclang();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let required =
        bindings("triton_headers/triton_backend.h", "Required").dynamic_link_require_all(true);
    write(required, &out.join("triton_backend.rs"));
    let newer = bindings("triton_headers/triton_newer.h", "Newer")
        .allowlist_file(".*triton_newer\\.h")
        .allowlist_recursively(false)
        .raw_line("use super::required::*;");
    write(newer, &out.join("triton_newer.rs"));
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        if let Err(error) = kernels::build() {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn bindings(header: &str, table: &str) -> bindgen::Builder {
    bindgen::Builder::default()
        .header(header)
        // Only integers and pointers cross this interface: no header of the compiler is needed.
        .clang_arg("-nostdinc")
        .dynamic_library_name(table)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(false)
}

fn write(builder: bindgen::Builder, path: &Path) {
    let header = builder.generate().expect("bindgen reads triton_headers/");
    header.write_to_file(path).expect("OUT_DIR is writable");
}

/// LIBCLANG_PATH if set; else the PyPI wheel `libclang` in a virtual environment under the target
/// folder; else what clang-sys finds in the system. Says what to do if there is none.
fn find_libclang() {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut targets = vec![manifest.join("target")];
    targets.extend(env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    for target in targets {
        if let Some(folder) = wheel(&target.join("venv/lib")) {
            env::set_var("LIBCLANG_PATH", folder);
            return;
        }
    }
    let system =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let llvm =
        std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path().join("lib"));
    if !system.into_iter().map(PathBuf::from).chain(llvm).any(|folder| has_libclang(&folder)) {
        println!(
            "cargo:warning=no libclang found: run `python3 -m venv target/venv && \
             target/venv/bin/pip install libclang`, or set LIBCLANG_PATH to the folder of \
             libclang.so"
        );
    }
}

/// `<lib>/python3*/site-packages/clang/native`, where the wheel puts libclang.so.
fn wheel(lib: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(lib).ok()?.flatten();
    pythons.map(|p| p.path().join("site-packages/clang/native")).find(|folder| has_libclang(folder))
}

fn has_libclang(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.file_name()).any(|n| n.to_string_lossy().starts_with("libclang"))
}
