//! The C interface as bindgen made it from `triton_headers/` (`tests/tidy` holds `sys/` to them),
//! and its functions looked up in the server that loaded us. Called by the rest of this
//! module, mostly by [`call!`](super::error::call). It knows names, not meanings.
//!
//! Looking up at run time leaves nothing undefined at link time: tests and examples link without a
//! server, and a server that lacks a younger function still loads us.

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_NOW};

use crate::error::{Error, Result};
use crate::internal;

#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#[allow(clippy::all, missing_docs, unused_qualifications)]
mod required;

#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#[allow(clippy::all, missing_docs, unused_qualifications, unused_imports)]
mod newer;

pub(super) use newer::{Newer, TRITONSERVER_InferenceRequest, TRITONSERVER_MetricArgs};
pub(super) use required::*;

/// All functions of the server.
pub(super) struct Api {
    pub required: Required,
    /// Each of them may be missing.
    pub newer: Newer,
}

static API: OnceLock<Api> = OnceLock::new();

/// Find the server's functions. Called once, by the backend's initialisation.
///
/// # Errors
/// Unsupported: the process has no Triton, or one that is too old, and which function it lacks.
pub(super) fn load() -> Result<()> {
    let missing = |e: libloading::Error| {
        Error::Unsupported(format!("this server is too old for the backend, it needs 2.36: {e}"))
    };
    // SAFETY: both tables hold nothing but functions of the server's C interface, declared in
    // triton_headers/ as the server declares them.
    let (required, newer) = unsafe {
        (Required::from_library(server()?).map_err(missing)?, Newer::from_library(server()?))
    };
    let newer = newer.map_err(missing)?;
    let _ = API.set(Api { required, newer });
    Ok(())
}

/// The process itself: the stock server links its core, so its functions are global. A program that
/// embeds the server may have loaded it privately; then it is found by its name.
fn server() -> Result<libloading::Library> {
    let global = Library::this();
    // SAFETY: the symbol is only looked up, its type does not matter.
    if unsafe { global.get::<fn()>(b"TRITONBACKEND_ApiVersion\0") }.is_ok() {
        return Ok(global.into());
    }
    // SAFETY: RTLD_NOLOAD loads nothing, so it runs no code.
    let private =
        unsafe { Library::open(Some("libtritonserver.so"), RTLD_NOW | libc::RTLD_NOLOAD) };
    private.map(Into::into).map_err(|_| internal!("this process holds no Triton server"))
}

/// The functions of the server; `None` in a process without one.
pub(super) fn api() -> Option<&'static Api> {
    API.get()
}
