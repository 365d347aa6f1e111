//! The only module that knows Triton: requests of the server -> requests of the engine, answers ->
//! responses. These are the functions that the server looks up by name; each guards a safe call,
//! so that nothing unwinds across the C interface (docs/architecture.md, Laws: nothing unwinds into
//! the server).
//!
//! | file | what |
//! |---|---|
//! | `sys` | the C interface, looked up in the running server |
//! | `handles` | its objects with Rust's ownership |
//! | `error`, `log`, `metrics` | our errors, log lines and observations as the server's |
//! | `config`, `roles`, `options` | config.pbtxt, the names in it, `--backend-config` |
//! | `model`, `places`, `watch`, `versions`, `heap` | models and instances: load, serve, unload |
//! | `reader` | large requests are read beside the others |
//! | `tensors`, `inputs`, `request`, `embedding` | tensors, parameters -> what the engine takes |
//! | `client`, `response`, `logprobs` | answers -> tensors of responses |
//! | `backend_request` | one request in flight: exactly one FINAL |
//! | `backpressure`, `delayed_cancel`, `warm_up` | responses that wait for the server |

mod backend_request;
mod backpressure;
mod client;
mod config;
mod delayed_cancel;
mod embedding;
mod error;
mod handles;
mod heap;
mod inputs;
mod log;
mod logprobs;
mod metrics;
mod model;
mod options;
mod places;
mod reader;
mod request;
mod response;
mod roles;
mod sys;
mod tensors;
mod versions;
mod warm_up;
mod watch;

#[cfg(fuzzing)]
pub use tensors::read_any_tensor;

use std::ptr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::internal;
use crate::threads;
use handles::{InstanceHandle, ModelHandle, Request};
use model::Model;
use reader::InstanceState;
use sys::{
    TRITONBACKEND_Backend, TRITONBACKEND_BackendAttribute, TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance, TRITONBACKEND_Request, TRITONSERVER_Error,
};

/// The backend API that `triton_headers/` was written against; younger minors only add.
const API_MAJOR: u32 = 1;

/// Run an entry point; an error or a panic becomes the server's error, success NULL.
fn guarded(what: &str, body: impl FnOnce() -> Result<()>) -> *mut TRITONSERVER_Error {
    let outcome =
        threads::catch(body).unwrap_or_else(|panic| Err(internal!("a fault in {what}: {panic}")));
    match outcome {
        Ok(()) => ptr::null_mut(),
        Err(error) => error::to_raw(&error),
    }
}

/// The shared library was loaded. Called once.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_Initialize(
    _: *mut TRITONBACKEND_Backend,
) -> *mut TRITONSERVER_Error {
    guarded("Initialize", || {
        if let Err(error) = sys::load() {
            // Without the server's functions there is no error object to return.
            eprintln!("[vllm] {error}");
            return Err(error);
        }

        log::install();
        heap::fix_thresholds();
        let (mut major, mut minor) = (0, 0);
        error::call!(TRITONBACKEND_ApiVersion(&mut major, &mut minor))?;
        if major != API_MAJOR {
            return Err(Error::Unsupported(format!(
                "the server's backend API is {major}.{minor}, this backend needs {API_MAJOR}.x"
            )));
        }
        tracing::info!("libtriton_vllm {}, backend API {major}.{minor}", env!("CARGO_PKG_VERSION"));
        Ok(())
    })
}

/// The server is about to exit. Models are gone already.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_Finalize(_: *mut TRITONBACKEND_Backend) -> *mut TRITONSERVER_Error {
    guarded("Finalize", || {
        metrics::close();
        warm_up::close();
        Ok(())
    })
}

/// Ask for one instance of KIND_MODEL where config.pbtxt has no instance group.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_GetBackendAttribute(
    _: *mut TRITONBACKEND_Backend,
    attribute: *mut TRITONBACKEND_BackendAttribute,
) -> *mut TRITONSERVER_Error {
    guarded("GetBackendAttribute", || handles::prefer_one_instance(attribute))
}

/// A version of a model is being loaded.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_ModelInitialize(
    model: *mut TRITONBACKEND_Model,
) -> *mut TRITONSERVER_Error {
    guarded("ModelInitialize", || {
        let handle = ModelHandle::new(model);
        let state = Arc::into_raw(Arc::new(Model::load(handle)?));
        handle.set_state(state.cast_mut().cast()).inspect_err(|_| {
            // SAFETY: `state` is the Arc of above and the server did not keep it.
            drop(unsafe { Arc::from_raw(state) });
        })
    })
}

/// All instances are finalised. Not called for a model whose ModelInitialize failed.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_ModelFinalize(
    model: *mut TRITONBACKEND_Model,
) -> *mut TRITONSERVER_Error {
    guarded("ModelFinalize", || {
        let state = ModelHandle::new(model).state()?.cast::<Model>().cast_const();
        if !state.is_null() {
            // SAFETY: ModelInitialize put the Arc there and this is its end.
            drop(unsafe { Arc::from_raw(state) });
        }
        Ok(())
    })
}

/// One instance of a model is being loaded.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_ModelInstanceInitialize(
    instance: *mut TRITONBACKEND_ModelInstance,
) -> *mut TRITONSERVER_Error {
    guarded("ModelInstanceInitialize", || {
        let handle = InstanceHandle::new(instance);
        let model = handle.model()?.state()?.cast::<Model>().cast_const();
        if model.is_null() {
            return Err(internal!("an instance without a model"));
        }
        // SAFETY: ModelInitialize put an Arc there, ModelFinalize takes it after all instances are
        // gone.
        let model = unsafe {
            Arc::increment_strong_count(model);
            Arc::from_raw(model)
        };
        let state = Box::into_raw(Box::new(InstanceState::load(model, handle)?));
        handle.set_state(state.cast()).inspect_err(|_| {
            // SAFETY: `state` is the Box of above and the server did not keep it.
            drop(unsafe { Box::from_raw(state) });
        })
    })
}

/// No request of this instance is left.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_ModelInstanceFinalize(
    instance: *mut TRITONBACKEND_ModelInstance,
) -> *mut TRITONSERVER_Error {
    guarded("ModelInstanceFinalize", || {
        let state = InstanceHandle::new(instance).state()?.cast::<InstanceState>();
        if !state.is_null() {
            // SAFETY: ModelInstanceInitialize put the Box there and this is its end.
            unsafe { Box::from_raw(state) }.unload();
            heap::give_back();
        }
        Ok(())
    })
}

/// Requests arrive. Returns as soon as the engine has taken or refused each.
///
/// # Safety
/// `requests` points to `count` requests, which are ours if this returns NULL.
#[no_mangle]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceExecute(
    instance: *mut TRITONBACKEND_ModelInstance,
    requests: *mut *mut TRITONBACKEND_Request,
    count: u32,
) -> *mut TRITONSERVER_Error {
    guarded("ModelInstanceExecute", || {
        let instance = state_of(instance)?;
        for index in 0..count as usize {
            // SAFETY: index < count.
            let request = Request::new(unsafe { *requests.add(index) });
            instance.take(request);
        }
        Ok(())
    })
}

/// Whether an instance can serve. Servers since December 2025 ask it for their readiness probes.
#[no_mangle]
pub extern "C" fn TRITONBACKEND_ModelInstanceReady(
    instance: *mut TRITONBACKEND_ModelInstance,
) -> *mut TRITONSERVER_Error {
    guarded("ModelInstanceReady", || state_of(instance)?.ready())
}

/// The state of an instance between its Initialize and its Finalize.
fn state_of<'a>(instance: *mut TRITONBACKEND_ModelInstance) -> Result<&'a InstanceState> {
    let state = InstanceHandle::new(instance).state()?.cast::<InstanceState>();
    // SAFETY: ModelInstanceInitialize put it there; the server calls nothing after Finalize.
    unsafe { state.as_ref() }.ok_or_else(|| internal!("an instance that was not initialised"))
}
