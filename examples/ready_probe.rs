//! A newer server's readiness probe for older servers, for tests: preloaded into the server
//! (LD_PRELOAD), it learns the instance that our backend was given, and calls
//! `TRITONBACKEND_ModelInstanceReady` on it as servers since December 2025 do.
//!
//! It asks when the file `$READY_PROBE.ask` appears, deletes that file and writes the answer to
//! `$READY_PROBE`: `ready`, or the error's text.
//!
//! With `READY_PROBE_NEWER` in the environment the server's own readiness question becomes that of
//! servers since 25.12: a model is ready if all its instances say so, whoever asks.

use std::ffi::{c_char, c_void, CStr};
use std::path::PathBuf;
use std::sync::{Mutex, Once};
use std::time::Duration;

/// Addresses of the instances of the model that was loaded last.
static INSTANCES: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

type SetState = unsafe extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void;
type Ready = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Message = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type Delete = unsafe extern "C" fn(*mut c_void);
type ModelReady = unsafe extern "C" fn(*mut c_void, *const c_char, i64, *mut bool) -> *mut c_void;

/// The function `name` behind this library.
unsafe fn next(name: &CStr) -> *mut c_void {
    // SAFETY: looks a name up.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

/// Stands before the server's own; the backend calls it with each new instance.
///
/// # Safety
/// As the server's function of that name.
#[no_mangle]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceSetState(
    instance: *mut c_void,
    state: *mut c_void,
) -> *mut c_void {
    INSTANCES.lock().expect("no panic").push(instance as usize);
    STARTED.call_once(|| {
        std::thread::spawn(probe);
    });
    // SAFETY: the server has this function, with this type.
    unsafe {
        let real: SetState = std::mem::transmute(next(c"TRITONBACKEND_ModelInstanceSetState"));
        real(instance, state)
    }
}

/// Stands before the server's own; its front ends call it, and so may the backend.
///
/// # Safety
/// As the server's function of that name.
#[no_mangle]
pub unsafe extern "C" fn TRITONSERVER_ServerModelIsReady(
    server: *mut c_void,
    name: *const c_char,
    version: i64,
    ready: *mut bool,
) -> *mut c_void {
    // SAFETY: the server has this function, with this type; `ready` is the caller's.
    unsafe {
        let real: ModelReady = std::mem::transmute(next(c"TRITONSERVER_ServerModelIsReady"));
        let error = real(server, name, version, ready);
        if error.is_null() && *ready && std::env::var_os("READY_PROBE_NEWER").is_some() {
            *ready = call().is_none_or(|text| text == "ready");
        }
        error
    }
}

fn probe() {
    let Some(answer) = std::env::var_os("READY_PROBE").map(PathBuf::from) else { return };
    let ask = answer.with_extension("ask");
    loop {
        std::thread::sleep(Duration::from_millis(10));
        if !ask.exists() {
            continue;
        }
        let text = call().unwrap_or_else(|| "no such function".into());
        let part = answer.with_extension("part");
        let _ = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &answer));
        let _ = std::fs::remove_file(&ask);
    }
}

/// What the first instance that is not ready says, else "ready".
fn call() -> Option<String> {
    let library = std::ffi::CString::new(std::env::var("READY_PROBE_LIBRARY").ok()?).ok()?;
    // SAFETY: the library is loaded already, so no code runs; the functions have these types, and
    // the test asks only while the instance lives.
    unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if handle.is_null() {
            return None;
        }
        let ready = libc::dlsym(handle, c"TRITONBACKEND_ModelInstanceReady".as_ptr());
        if ready.is_null() {
            return None;
        }
        let ready: Ready = std::mem::transmute(ready);
        let instances = INSTANCES.lock().expect("no panic").clone();
        let mut asked = instances.into_iter().map(|instance| ready(instance as *mut c_void));
        let Some(error) = asked.find(|error| !error.is_null()) else {
            return Some("ready".into());
        };
        let message: Message = std::mem::transmute(next(c"TRITONSERVER_ErrorMessage"));
        let delete: Delete = std::mem::transmute(next(c"TRITONSERVER_ErrorDelete"));
        let text = CStr::from_ptr(message(error)).to_string_lossy().into_owned();
        delete(error);
        Some(text)
    }
}
