//! What a build needs beside cargo and a linker: NVRTC, which compiles the kernels with the feature
//! `cuda` (`build/kernels.rs` says where it is looked for; `ci/setup --build` brings it). Nothing
//! else: no libclang, no CUDA toolkit, no C compiler of its own, nothing of the server.

#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/symbols.rs"]
mod symbols;

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    // Exports are ours alone: llguidance has a C interface that nobody asked for.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");

    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        if let Err(error) = symbols::write().and_then(|()| kernels::build()) {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
