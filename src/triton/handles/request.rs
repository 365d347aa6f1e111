//! Requests: what a client sent, copied out of the server's buffers. Called by `reader` for their
//! size, by `model` for all else.

use std::ffi::{c_char, c_void, CStr};
use std::ptr;

use super::response::Factory;
use super::text::text;
use crate::error::{Error, Result};
use crate::invalid;
use crate::triton::error::call;
use crate::triton::sys::{self, *};

/// A request that is ours. Dropping it gives it back.
pub(in crate::triton) struct Request(*mut TRITONBACKEND_Request);

// SAFETY: a request may be used by any one thread at a time.
unsafe impl Send for Request {}

/// One input tensor, its buffers joined.
#[derive(Debug)]
pub(in crate::triton) struct Tensor {
    pub name: String,
    pub datatype: TRITONSERVER_DataType,
    pub shape: Vec<i64>,
    pub bytes: Vec<u8>,
}

/// A request parameter.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::triton) enum Parameter {
    Text(String),
    Int(i64),
    Bool(bool),
    Double(f64),
}

impl Request {
    /// `request` is ours from now on.
    pub(in crate::triton) fn new(request: *mut TRITONBACKEND_Request) -> Self {
        Request(request)
    }

    /// Live until this is dropped.
    pub(super) fn as_ptr(&self) -> *mut TRITONBACKEND_Request {
        self.0
    }

    /// All inputs.
    ///
    /// # Errors
    /// InvalidArgument: an input above `max_bytes` in all, or in GPU memory.
    pub(in crate::triton) fn inputs(&self, max_bytes: u64) -> Result<Vec<Tensor>> {
        let mut count = 0;
        call!(TRITONBACKEND_RequestInputCount(self.0, &mut count))?;
        let mut room = max_bytes;
        (0..count)
            .map(|index| {
                let mut input = ptr::null_mut();
                call!(TRITONBACKEND_RequestInputByIndex(self.0, index, &mut input))?;
                read_input(input, &mut room, max_bytes)
            })
            .collect()
    }

    pub(in crate::triton) fn parameters(&self) -> Result<Vec<(String, Parameter)>> {
        let mut count = 0;
        call!(TRITONBACKEND_RequestParameterCount(self.0, &mut count))?;
        (0..count)
            .map(|index| {
                let mut key = ptr::null();
                let mut kind = 0;
                let mut value = ptr::null();
                call!(TRITONBACKEND_RequestParameter(
                    self.0, index, &mut key, &mut kind, &mut value
                ))?;
                let key = text(key)?;
                // SAFETY: the server says which type the pointer has.
                let value = unsafe { parameter(&key, kind, value) }?;
                Ok((key, value))
            })
            .collect()
    }

    /// Call `seen` with the name of each output that the client wants; the server lists all if the
    /// client named none.
    pub(in crate::triton) fn outputs(&self, mut seen: impl FnMut(&[u8])) -> Result<()> {
        let mut count = 0;
        call!(TRITONBACKEND_RequestOutputCount(self.0, &mut count))?;
        for index in 0..count {
            let mut name = ptr::null();
            call!(TRITONBACKEND_RequestOutputName(self.0, index, &mut name))?;
            // SAFETY: the name is NUL-terminated and lives as long as the request.
            seen(unsafe { CStr::from_ptr(name) }.to_bytes());
        }
        Ok(())
    }

    /// Bytes of its inputs and of the texts among its parameters.
    pub(in crate::triton) fn bytes(&self) -> Result<u64> {
        let mut count = 0;
        let mut bytes = 0;
        call!(TRITONBACKEND_RequestInputCount(self.0, &mut count))?;
        for index in 0..count {
            let mut input = ptr::null_mut();
            call!(TRITONBACKEND_RequestInputByIndex(self.0, index, &mut input))?;
            bytes += InputProperties::of(input)?.total_bytes;
        }

        call!(TRITONBACKEND_RequestParameterCount(self.0, &mut count))?;
        for index in 0..count {
            let mut key = ptr::null();
            let mut kind = 0;
            let mut value = ptr::null();
            call!(TRITONBACKEND_RequestParameter(self.0, index, &mut key, &mut kind, &mut value))?;
            if kind == sys::TRITONSERVER_PARAMETER_STRING && !value.is_null() {
                // SAFETY: a parameter of this type is a NUL-terminated text of the server, which
                // lives as long as the request.
                bytes += unsafe { CStr::from_ptr(value.cast()) }.count_bytes() as u64;
            }
        }
        Ok(bytes)
    }

    pub(in crate::triton) fn factory(&self) -> Result<Factory> {
        let mut factory = ptr::null_mut();
        call!(TRITONBACKEND_ResponseFactoryNew(&mut factory, self.0))?;
        Ok(Factory::new(factory))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let released =
            call!(TRITONBACKEND_RequestRelease(self.0, sys::TRITONSERVER_REQUEST_RELEASE_ALL));
        if let Err(error) = released {
            tracing::error!("request not released: {error}");
        }
    }
}

/// What the server says of an input; its pointers live as long as the request.
struct InputProperties {
    name: *const c_char,
    datatype: TRITONSERVER_DataType,
    shape: *const i64,
    rank: u32,
    total_bytes: u64,
    buffers: u32,
}

impl InputProperties {
    fn of(input: *mut TRITONBACKEND_Input) -> Result<InputProperties> {
        let mut properties = InputProperties {
            name: ptr::null(),
            datatype: 0,
            shape: ptr::null(),
            rank: 0,
            total_bytes: 0,
            buffers: 0,
        };
        call!(TRITONBACKEND_InputProperties(
            input,
            &mut properties.name,
            &mut properties.datatype,
            &mut properties.shape,
            &mut properties.rank,
            &mut properties.total_bytes,
            &mut properties.buffers
        ))?;
        Ok(properties)
    }
}

fn read_input(input: *mut TRITONBACKEND_Input, room: &mut u64, max_bytes: u64) -> Result<Tensor> {
    let InputProperties { name, datatype, shape, rank, total_bytes: total, buffers } =
        InputProperties::of(input)?;
    let name = text(name)?;
    if total > *room {
        return Err(invalid!(
            "the request's inputs are larger than {} bytes in all, reached at '{name}'; raise \
             --backend-config=vllm,max-request-bytes",
            max_bytes
        ));
    }
    *room -= total;
    let shape = match rank {
        0 => Vec::new(),
        // SAFETY: the server gives `rank` dimensions that live as long as the input.
        _ => unsafe { std::slice::from_raw_parts(shape, rank as usize) }.to_vec(),
    };
    let mut bytes = Vec::with_capacity(total as usize);
    for index in 0..buffers {
        let mut buffer = ptr::null();
        let mut length = 0u64;
        let mut device = 0;
        let mut memory = sys::TRITONSERVER_MEMORY_CPU;
        call!(TRITONBACKEND_InputBuffer(
            input,
            index,
            &mut buffer,
            &mut length,
            &mut memory,
            &mut device
        ))?;
        if memory == sys::TRITONSERVER_MEMORY_GPU {
            return Err(Error::Unsupported(format!(
                "input '{name}' lies in GPU memory: send it from host memory"
            )));
        }
        if length > 0 && !buffer.is_null() {
            // SAFETY: the server gives `length` readable bytes that live as long as the request.
            let part = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
            bytes.extend_from_slice(part);
        }
    }
    Ok(Tensor { name, datatype, shape, bytes })
}

/// # Safety
/// `value` points to a value of type `kind`.
unsafe fn parameter(
    key: &str,
    kind: TRITONSERVER_ParameterType,
    value: *const c_void,
) -> Result<Parameter> {
    Ok(match kind {
        sys::TRITONSERVER_PARAMETER_STRING => Parameter::Text(text(value.cast())?),
        sys::TRITONSERVER_PARAMETER_INT => Parameter::Int(*value.cast::<i64>()),
        sys::TRITONSERVER_PARAMETER_BOOL => Parameter::Bool(*value.cast::<bool>()),
        sys::TRITONSERVER_PARAMETER_DOUBLE => Parameter::Double(*value.cast::<f64>()),
        _ => return Err(invalid!("parameter '{key}' must be a string, a number or a boolean")),
    })
}
