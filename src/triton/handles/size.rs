//! How much a request carries. Called by `reader`, before anything of it is copied.

use std::ffi::CStr;
use std::ptr;

use super::super::sys::{self, call};
use super::Request;
use crate::error::Result;

impl Request {
    /// Bytes of its inputs and of the texts among its parameters.
    pub(in crate::triton) fn bytes(&self) -> Result<u64> {
        let (mut count, mut bytes) = (0, 0);
        call!(TRITONBACKEND_RequestInputCount(self.0, &mut count))?;
        for index in 0..count {
            let (mut input, mut total) = (ptr::null_mut(), 0);
            call!(TRITONBACKEND_RequestInputByIndex(self.0, index, &mut input))?;
            let (mut name, mut datatype, mut shape) = (ptr::null(), 0, ptr::null());
            let (mut rank, mut buffers) = (0, 0);
            call!(TRITONBACKEND_InputProperties(
                input,
                &mut name,
                &mut datatype,
                &mut shape,
                &mut rank,
                &mut total,
                &mut buffers
            ))?;
            bytes += total;
        }

        call!(TRITONBACKEND_RequestParameterCount(self.0, &mut count))?;
        for index in 0..count {
            let (mut key, mut kind, mut value) = (ptr::null(), 0, ptr::null());
            call!(TRITONBACKEND_RequestParameter(self.0, index, &mut key, &mut kind, &mut value))?;
            if kind == sys::TRITONSERVER_PARAMETER_STRING && !value.is_null() {
                // SAFETY: a parameter of this type is a NUL-terminated text of the server, which
                // lives as long as the request.
                bytes += unsafe { CStr::from_ptr(value.cast()) }.count_bytes() as u64;
            }
        }
        Ok(bytes)
    }
}
