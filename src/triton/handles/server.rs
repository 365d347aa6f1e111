//! The server itself: which version it is, how it is, what we may ask of it. Part of `handles`; it
//! knows no request.

use std::ptr;

use super::take_message;
use crate::error::Result;
use crate::internal;
use crate::triton::error::c_text;
use crate::triton::sys::{call, *};

/// The server. It outlives every model.
#[derive(Clone, Copy)]
pub(in crate::triton) struct ServerHandle(*mut TRITONSERVER_Server);

// SAFETY: the server's interface may be called from any thread.
unsafe impl Send for ServerHandle {}
unsafe impl Sync for ServerHandle {}

impl ServerHandle {
    pub(super) fn new(server: *mut TRITONSERVER_Server) -> Self {
        ServerHandle(server)
    }

    pub(in crate::triton) fn unload(self, model: &str) -> Result<()> {
        let name = c_text(model);
        call!(TRITONSERVER_ServerUnloadModel(self.0, name.as_ptr()))
    }

    /// End the process at once, without the server's exit handlers, so that somebody restarts it.
    pub(in crate::triton) fn leave_process(self) -> ! {
        // SAFETY: nothing of this process runs after it.
        unsafe { libc::_exit(1) }
    }

    /// Whether new requests still reach this version: false once it is being unloaded.
    pub(in crate::triton) fn is_ready(self, model: &str, version: u64) -> Result<bool> {
        let (name, mut ready) = (c_text(model), false);
        let version = i64::try_from(version).unwrap_or(-1);
        call!(TRITONSERVER_ServerModelIsReady(self.0, name.as_ptr(), version, &mut ready))?;
        Ok(ready)
    }

    /// The server is on its way out: its HTTP front end is gone by then, with all that it lent to
    /// requests.
    pub(in crate::triton) fn exiting(self) -> bool {
        let mut live = false;
        call!(TRITONSERVER_ServerIsLive(self.0, &mut live)).is_err()
    }

    /// Its major and minor version, such as (2, 51).
    pub(in crate::triton) fn version(self) -> Result<(u32, u32)> {
        let mut message = ptr::null_mut();
        call!(TRITONSERVER_ServerMetadata(self.0, &mut message))?;
        // SAFETY: ServerMetadata gave us the message.
        let metadata = unsafe { take_message(message) }?;
        numbers(&metadata).ok_or_else(|| internal!("no version in {metadata}"))
    }
}

/// The version in the server's metadata.
fn numbers(metadata: &str) -> Option<(u32, u32)> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let mut numbers = metadata["version"].as_str()?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_read() {
        let metadata = |version: &str| format!(r#"{{"name":"triton","version":"{version}"}}"#);
        assert_eq!(numbers(&metadata("2.51.0")), Some((2, 51)));
        assert_eq!(numbers(&metadata("3.0.1dev")), Some((3, 0)));
        for odd in [metadata("2"), metadata("two.1"), "{}".into(), "".into()] {
            assert_eq!(numbers(&odd), None, "{odd}");
        }
    }
}
