//! Our errors as the server's, and the server's as ours. Called by the rest of this module.

use std::ffi::{CStr, CString};

use super::sys::{self, TRITONSERVER_Error, TRITONSERVER_Error_Code};
use crate::error::{brief, Error, Result};

/// What an error's text may have: gRPC refuses 8 KiB of it after percent-encoding, which may triple
/// it.
const TEXT_BYTES: usize = 2048;

/// Take an error that a server function returned; NULL is success.
///
/// Codes are not read back: what the server refuses is a fault of ours or of the server.
pub(super) fn check(error: *mut TRITONSERVER_Error) -> Result<()> {
    let Some(api) = sys::api().filter(|_| !error.is_null()) else { return Ok(()) };
    // SAFETY: a returned error is live and ours; its text lives until the delete.
    let text = unsafe {
        let text = CStr::from_ptr(api.required.TRITONSERVER_ErrorMessage(error));
        let text = text.to_string_lossy().into_owned();
        api.required.TRITONSERVER_ErrorDelete(error);
        text
    };
    Err(Error::Internal(text))
}

/// Call a required function: `call!(TRITONBACKEND_ModelName(model, &mut name))` is a `Result<()>`.
macro_rules! call {
    ($name:ident($($arg:expr),* $(,)?)) => {
        match $crate::triton::sys::api() {
            // SAFETY: the caller passes live objects of the server and pointers to locals of the
            // declared types; the error that comes back is ours.
            Some(api) => $crate::triton::error::check(unsafe { api.required.$name($($arg),*) }),
            None => Err($crate::internal!("{} without a server", stringify!($name))),
        }
    };
}
pub(super) use call;

fn code(error: &Error) -> TRITONSERVER_Error_Code {
    match error {
        Error::InvalidArgument(_) => sys::TRITONSERVER_ERROR_INVALID_ARG,
        Error::NotFound(_) => sys::TRITONSERVER_ERROR_NOT_FOUND,
        Error::Unavailable(_) => sys::TRITONSERVER_ERROR_UNAVAILABLE,
        Error::Cancelled(_) => sys::TRITONSERVER_ERROR_CANCELLED,
        Error::Unsupported(_) => sys::TRITONSERVER_ERROR_UNSUPPORTED,
        Error::Internal(_) => sys::TRITONSERVER_ERROR_INTERNAL,
    }
}

/// A new error object; whoever gets it owns it. NULL if there is no server to make one.
pub(super) fn to_raw(error: &Error) -> *mut TRITONSERVER_Error {
    let Some(api) = sys::api() else { return std::ptr::null_mut() };
    let text = c_text(&brief(error.message(), TEXT_BYTES, &['\n', '\t']));
    // SAFETY: the text is NUL-terminated and copied by the server.
    unsafe { api.required.TRITONSERVER_ErrorNew(code(error), text.as_ptr()) }
}

/// An error object of ours that is deleted with its owner: ResponseSend borrows it.
pub(super) struct OwnedError(*mut TRITONSERVER_Error);

impl OwnedError {
    pub(super) fn new(error: &Error) -> Self {
        OwnedError(to_raw(error))
    }

    pub(super) fn as_ptr(&self) -> *mut TRITONSERVER_Error {
        self.0
    }
}

impl Drop for OwnedError {
    fn drop(&mut self) {
        if let Some(api) = sys::api().filter(|_| !self.0.is_null()) {
            // SAFETY: `new` made it and nobody else deletes it.
            unsafe { api.required.TRITONSERVER_ErrorDelete(self.0) };
        }
    }
}

/// Text for C: ends at the first NUL.
pub(super) fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}
