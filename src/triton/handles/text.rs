//! The server's texts and messages, copied, and its clock. Called by the other files of `handles`.

use std::ffi::CStr;
use std::ptr;

use crate::error::Result;
use crate::internal;
use crate::triton::error::call;
use crate::triton::sys::TRITONSERVER_Message;

/// Triton's clock.
pub(in crate::triton) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux and `now` is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A NUL-terminated text of the server. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn text(start: *const std::ffi::c_char) -> Result<String> {
    if start.is_null() {
        return Err(internal!("the server gave no text"));
    }
    // SAFETY: not NULL, NUL-terminated by the interface, and copied before anything else runs.
    Ok(unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned())
}

/// What a message says.
///
/// # Safety
/// `message` is live.
pub(super) unsafe fn message_text(message: *mut TRITONSERVER_Message) -> Result<String> {
    let mut start = ptr::null();
    let mut bytes = 0;
    call!(TRITONSERVER_MessageSerializeToJson(message, &mut start, &mut bytes))?;
    let text = std::slice::from_raw_parts(start.cast::<u8>(), bytes);
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// What a message says; it is deleted.
///
/// # Safety
/// `message` is live and ours.
pub(super) unsafe fn take_message(message: *mut TRITONSERVER_Message) -> Result<String> {
    let text = message_text(message);
    call!(TRITONSERVER_MessageDelete(message))?;
    text
}
