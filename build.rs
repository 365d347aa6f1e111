//! The build script: kernels for GPUs (`build/kernels.rs`).

#[path = "build/kernels.rs"]
mod kernels;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build/kernels.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        if let Err(error) = kernels::build() {
            println!("cargo:warning={}", error.replace('\n', " "));
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
