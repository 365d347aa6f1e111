//! Factories and the responses that they make. Called by `backend_request` and, for the tensors, by
//! `response`.

use std::ffi::CStr;
use std::ptr;

use crate::error::{Error, Result};
use crate::internal;
use crate::triton::error::{call, check, OwnedError};
use crate::triton::sys::{self, *};

/// Where a request's responses are made. Outlives the request.
pub(in crate::triton) struct Factory(*mut TRITONBACKEND_ResponseFactory);

// SAFETY: a factory may be used from any thread; the server guards it.
unsafe impl Send for Factory {}
unsafe impl Sync for Factory {}

impl Factory {
    pub(super) fn new(factory: *mut TRITONBACKEND_ResponseFactory) -> Self {
        Factory(factory)
    }

    /// The client gave up. Always false on servers that cannot tell.
    pub(in crate::triton) fn cancelled(&self) -> bool {
        let Some(api) = sys::api() else { return false };
        let Ok(ask) = &api.newer.TRITONBACKEND_ResponseFactoryIsCancelled else { return false };
        let mut cancelled = false;
        // SAFETY: the factory is live until Drop.
        check(unsafe { ask(self.0, &mut cancelled) }).is_ok() && cancelled
    }

    pub(in crate::triton) fn response(&self) -> Result<Response> {
        let mut response = ptr::null_mut();
        call!(TRITONBACKEND_ResponseNewFromFactory(&mut response, self.0))?;
        Ok(Response(response))
    }

    /// The FINAL flag alone: for when no response can be made.
    pub(in crate::triton) fn send_final(&self) -> Result<()> {
        let flags = sys::TRITONSERVER_RESPONSE_COMPLETE_FINAL;
        call!(TRITONBACKEND_ResponseFactorySendFlags(self.0, flags))
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        let _ = call!(TRITONBACKEND_ResponseFactoryDelete(self.0));
    }
}

/// A response being filled. Each one that is made must be sent: the gRPC front end sends a stream's
/// responses in the order in which they were made, and for one that was deleted it waits for ever.
pub(in crate::triton) struct Response(*mut TRITONBACKEND_Response);

impl Response {
    /// Add an output tensor and get its buffer of `bytes` bytes to fill.
    pub(in crate::triton) fn output(
        &mut self,
        name: &CStr,
        datatype: TRITONSERVER_DataType,
        shape: &[i64],
        bytes: usize,
    ) -> Result<&mut [u8]> {
        let mut output = ptr::null_mut();
        let (dims, rank) = (shape.as_ptr(), shape.len() as u32);
        call!(TRITONBACKEND_ResponseOutput(
            self.0,
            &mut output,
            name.as_ptr(),
            datatype,
            dims,
            rank
        ))?;
        let mut buffer = ptr::null_mut();
        let mut device = 0;
        let mut memory = sys::TRITONSERVER_MEMORY_CPU;
        call!(TRITONBACKEND_OutputBuffer(
            output,
            &mut buffer,
            bytes as u64,
            &mut memory,
            &mut device
        ))?;
        if memory == sys::TRITONSERVER_MEMORY_GPU {
            return Err(Error::Unsupported(
                "output tensors in GPU memory are not supported".into(),
            ));
        }
        if bytes == 0 {
            return Ok(&mut []);
        }
        if buffer.is_null() {
            return Err(internal!("the server gave no buffer for {name:?}"));
        }
        // SAFETY: the server allocated `bytes` bytes for this output; they live until the response
        // is sent, which consumes it.
        Ok(unsafe { std::slice::from_raw_parts_mut(buffer.cast(), bytes) })
    }

    pub(in crate::triton) fn send(self, last: bool, error: Option<&Error>) -> Result<()> {
        let response = std::mem::ManuallyDrop::new(self);
        let error = error.map(OwnedError::new);
        let raw = error.as_ref().map_or(ptr::null_mut(), OwnedError::as_ptr);
        let flags = if last { sys::TRITONSERVER_RESPONSE_COMPLETE_FINAL } else { 0 };
        call!(TRITONBACKEND_ResponseSend(response.0, flags, raw))
    }
}

impl Drop for Response {
    /// Only while a panic unwinds; whoever catches it sends the last response.
    fn drop(&mut self) {
        let error = OwnedError::new(&internal!("a fault in making a response"));
        let _ = call!(TRITONBACKEND_ResponseSend(self.0, 0, error.as_ptr()));
    }
}
