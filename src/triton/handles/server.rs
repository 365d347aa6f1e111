//! The server itself: what a model may ask of it and about itself. Called by `watch`.

use std::ptr;

use serde_json::Value;

use super::text::take_message;
use crate::error::Result;
use crate::internal;
use crate::triton::error::{c_text, call};
use crate::triton::sys::{self, *};

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

    /// Have the server take a model out. Returns when it has, or has refused.
    pub(in crate::triton) fn unload(self, model: &str) -> Result<()> {
        let name = c_text(model);
        call!(TRITONSERVER_ServerUnloadModel(self.0, name.as_ptr()))
    }

    /// Whether the server goes on.
    ///
    /// # Errors
    /// The server is about to exit, in its words. A server that does not say so yet, because it
    /// starts, stays.
    pub(in crate::triton) fn stays(self) -> Result<()> {
        let mut live = false;
        call!(TRITONSERVER_ServerIsLive(self.0, &mut live))
    }

    /// Whether a request for this version would find it, and only it, by name. Costs a lookup. Not
    /// the server's readiness question: since 25.12 that one asks our own instances, of which a
    /// dead one does not mean that the model is being unloaded.
    pub(in crate::triton) fn finds(self, model: &str, version: u64) -> bool {
        let name = c_text(model);
        let mut flags = 0;
        let mut unused = ptr::null_mut();
        let version = i64::try_from(version).unwrap_or(-1);
        call!(TRITONSERVER_ServerModelBatchProperties(
            self.0,
            name.as_ptr(),
            version,
            &mut flags,
            &mut unused
        ))
        .is_ok()
    }

    /// Whether a ready version of this name is in the server's list, in whatever namespace. Has the
    /// server read its repositories.
    pub(in crate::triton) fn lists(self, model: &str, version: u64) -> Result<bool> {
        let ready_only = sys::TRITONSERVER_INDEX_FLAG_READY;
        let mut message = ptr::null_mut();
        call!(TRITONSERVER_ServerModelIndex(self.0, ready_only, &mut message))?;
        // SAFETY: ServerModelIndex gave us the message.
        let text = unsafe { take_message(message) }?;
        let index: Value = serde_json::from_str(&text).map_err(|e| internal!("the index: {e}"))?;

        let version = version.to_string();
        let entries = index.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().any(|entry| {
            entry["name"] == model && entry["version"] == version && entry["state"] == "READY"
        }))
    }
}
