//! The server's objects with Rust's ownership: models, instances, requests, factories, responses.
//! The only file beside `sys`, `error` and `metrics` that calls the server. It knows no text
//! generation.

mod server;
mod size;
mod request_options;

use std::ffi::{c_void, CStr};
use std::path::PathBuf;
use std::ptr;

pub(super) use self::server::ServerHandle;
use super::error::{check, OwnedError};
use super::sys::{self, call, *};
use crate::error::{Error, Result};
use crate::{internal, invalid};

/// Ask for one instance of KIND_MODEL where config.pbtxt has no instance group.
pub(super) fn prefer_one_instance(attribute: *mut TRITONBACKEND_BackendAttribute) -> Result<()> {
    let (kind, devices) = (sys::TRITONSERVER_INSTANCEGROUPKIND_MODEL, ptr::null());
    call!(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attribute, kind, 1, devices, 0))
}

/// A model that the server holds at least until our ModelFinalize returns.
#[derive(Clone, Copy)]
pub(super) struct ModelHandle(*mut TRITONBACKEND_Model);

/// An instance that the server holds at least until our ModelInstanceFinalize returns.
#[derive(Clone, Copy)]
pub(super) struct InstanceHandle(*mut TRITONBACKEND_ModelInstance);

// SAFETY: the functions that take these may be called from any thread.
unsafe impl Send for ModelHandle {}
unsafe impl Sync for ModelHandle {}
unsafe impl Send for InstanceHandle {}
unsafe impl Sync for InstanceHandle {}

/// What kind of device an instance group asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gpu(u32),
    /// KIND_MODEL, KIND_CPU, KIND_AUTO: we choose.
    Ours,
}

impl ModelHandle {
    pub(super) fn new(model: *mut TRITONBACKEND_Model) -> Self {
        ModelHandle(model)
    }

    pub(super) fn name(self) -> Result<String> {
        let mut name = ptr::null();
        call!(TRITONBACKEND_ModelName(self.0, &mut name))?;
        text(name)
    }

    pub(super) fn version(self) -> Result<u64> {
        let mut version = 0;
        call!(TRITONBACKEND_ModelVersion(self.0, &mut version))?;
        Ok(version)
    }

    /// The model's folder, which holds config.pbtxt and the versions.
    pub(super) fn folder(self) -> Result<PathBuf> {
        let (mut kind, mut folder) = (0, ptr::null());
        call!(TRITONBACKEND_ModelRepository(self.0, &mut kind, &mut folder))?;
        if kind != sys::TRITONBACKEND_ARTIFACT_FILESYSTEM {
            return Err(invalid!("the model repository is of kind {kind}, not a file system"));
        }
        text(folder).map(PathBuf::from)
    }

    pub(super) fn auto_complete(self) -> Result<bool> {
        let mut wanted = false;
        call!(TRITONBACKEND_ModelAutoCompleteConfig(self.0, &mut wanted))?;
        Ok(wanted)
    }

    /// config.pbtxt as JSON.
    pub(super) fn config(self) -> Result<String> {
        let mut message = ptr::null_mut();
        call!(TRITONBACKEND_ModelConfig(self.0, 1, &mut message))?;
        // SAFETY: ModelConfig gave us the message.
        unsafe { take_message(message) }
    }

    pub(super) fn set_config(self, config: &str) -> Result<()> {
        let mut message = ptr::null_mut();
        let bytes = config.as_ptr().cast();
        call!(TRITONSERVER_MessageNewFromSerializedJson(&mut message, bytes, config.len() as _))?;
        let set = call!(TRITONBACKEND_ModelSetConfig(self.0, 1, message));
        call!(TRITONSERVER_MessageDelete(message))?;
        set
    }

    /// `--backend-config` as JSON.
    pub(super) fn backend_config(self) -> Result<String> {
        let (mut backend, mut message) = (ptr::null_mut(), ptr::null_mut());
        call!(TRITONBACKEND_ModelBackend(self.0, &mut backend))?;
        call!(TRITONBACKEND_BackendConfig(backend, &mut message))?;
        // SAFETY: the backend keeps this message: it is read, not deleted.
        unsafe { message_text(message) }
    }

    pub(super) fn server(self) -> Result<ServerHandle> {
        let mut server = ptr::null_mut();
        call!(TRITONBACKEND_ModelServer(self.0, &mut server))?;
        Ok(ServerHandle(server))
    }

    pub(super) fn state(self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        call!(TRITONBACKEND_ModelState(self.0, &mut state))?;
        Ok(state)
    }

    pub(super) fn set_state(self, state: *mut c_void) -> Result<()> {
        call!(TRITONBACKEND_ModelSetState(self.0, state))
    }
}

impl InstanceHandle {
    pub(super) fn new(instance: *mut TRITONBACKEND_ModelInstance) -> Self {
        InstanceHandle(instance)
    }

    pub(super) fn name(self) -> Result<String> {
        let mut name = ptr::null();
        call!(TRITONBACKEND_ModelInstanceName(self.0, &mut name))?;
        text(name)
    }

    pub(super) fn kind(self) -> Result<Kind> {
        let (mut kind, mut device) = (0, 0);
        call!(TRITONBACKEND_ModelInstanceKind(self.0, &mut kind))?;
        call!(TRITONBACKEND_ModelInstanceDeviceId(self.0, &mut device))?;
        match (kind, u32::try_from(device)) {
            (sys::TRITONSERVER_INSTANCEGROUPKIND_GPU, Ok(gpu)) => Ok(Kind::Gpu(gpu)),
            (sys::TRITONSERVER_INSTANCEGROUPKIND_GPU, Err(_)) => {
                Err(invalid!("KIND_GPU instance on device {device}"))
            }
            _ => Ok(Kind::Ours),
        }
    }

    pub(super) fn model(self) -> Result<ModelHandle> {
        let mut model = ptr::null_mut();
        call!(TRITONBACKEND_ModelInstanceModel(self.0, &mut model))?;
        Ok(ModelHandle(model))
    }

    pub(super) fn state(self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        call!(TRITONBACKEND_ModelInstanceState(self.0, &mut state))?;
        Ok(state)
    }

    pub(super) fn set_state(self, state: *mut c_void) -> Result<()> {
        call!(TRITONBACKEND_ModelInstanceSetState(self.0, state))
    }

    /// Count a request in Triton's statistics: one execution of `batch` rows, from `start_ns` till
    /// now.
    pub(super) fn report(self, request: &Request, success: bool, batch: u64, start_ns: u64) {
        let now = monotonic_ns();
        // Statistics are not worth failing a request for.
        let _ = call!(TRITONBACKEND_ModelInstanceReportStatistics(
            self.0, request.0, success, start_ns, start_ns, now, now
        ));
        if success {
            let _ = call!(TRITONBACKEND_ModelInstanceReportBatchStatistics(
                self.0, batch, start_ns, start_ns, now, now
            ));
        }
    }
}

/// A request that is ours. Dropping it gives it back.
pub(super) struct Request(*mut TRITONBACKEND_Request);

// SAFETY: a request may be used by any one thread at a time.
unsafe impl Send for Request {}

/// One input tensor, its buffers joined.
#[derive(Debug)]
pub(super) struct Tensor {
    pub name: String,
    pub datatype: TRITONSERVER_DataType,
    pub shape: Vec<i64>,
    pub bytes: Vec<u8>,
}

/// A request parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Parameter {
    Text(String),
    Int(i64),
    Bool(bool),
    Double(f64),
}

impl Request {
    pub(super) fn new(request: *mut TRITONBACKEND_Request) -> Self {
        Request(request)
    }

    /// All inputs.
    ///
    /// # Errors
    /// InvalidArgument: an input above `max_bytes` in all, or in GPU memory.
    pub(super) fn inputs(&self, max_bytes: u64) -> Result<Vec<Tensor>> {
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

    pub(super) fn parameters(&self) -> Result<Vec<(String, Parameter)>> {
        let mut count = 0;
        call!(TRITONBACKEND_RequestParameterCount(self.0, &mut count))?;
        (0..count)
            .map(|index| {
                let (mut key, mut kind, mut value) = (ptr::null(), 0, ptr::null());
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
    pub(super) fn outputs(&self, mut seen: impl FnMut(&[u8])) -> Result<()> {
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

    pub(super) fn factory(&self) -> Result<Factory> {
        let mut factory = ptr::null_mut();
        call!(TRITONBACKEND_ResponseFactoryNew(&mut factory, self.0))?;
        Ok(Factory(factory))
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

/// Where a request's responses are made. Outlives the request.
pub(super) struct Factory(*mut TRITONBACKEND_ResponseFactory);

// SAFETY: a factory may be used from any thread; the server guards it.
unsafe impl Send for Factory {}
unsafe impl Sync for Factory {}

impl Factory {
    /// The client gave up. Always false on servers that cannot tell.
    pub(super) fn cancelled(&self) -> bool {
        let Some(api) = sys::api() else { return false };
        let Ok(ask) = &api.newer.TRITONBACKEND_ResponseFactoryIsCancelled else { return false };
        let mut cancelled = false;
        // SAFETY: the factory is live until Drop.
        check(unsafe { ask(self.0, &mut cancelled) }).is_ok() && cancelled
    }

    pub(super) fn response(&self) -> Result<Response> {
        let mut response = ptr::null_mut();
        call!(TRITONBACKEND_ResponseNewFromFactory(&mut response, self.0))?;
        Ok(Response(response))
    }

    /// The FINAL flag alone: for when no response can be made.
    pub(super) fn send_final(&self) -> Result<()> {
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
pub(super) struct Response(*mut TRITONBACKEND_Response);

impl Response {
    /// Add an output tensor and get its buffer of `bytes` bytes to fill.
    pub(super) fn output(
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
        let (mut buffer, mut device) = (ptr::null_mut(), 0);
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

    pub(super) fn send(self, last: bool, error: Option<&Error>) -> Result<()> {
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

/// Triton's clock.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux and `now` is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn read_input(input: *mut TRITONBACKEND_Input, room: &mut u64, max_bytes: u64) -> Result<Tensor> {
    let (mut name, mut datatype, mut shape) = (ptr::null(), 0, ptr::null());
    let (mut rank, mut total, mut buffers) = (0, 0, 0);
    call!(TRITONBACKEND_InputProperties(
        input,
        &mut name,
        &mut datatype,
        &mut shape,
        &mut rank,
        &mut total,
        &mut buffers
    ))?;
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
        let (mut buffer, mut length, mut device) = (ptr::null(), 0u64, 0);
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

/// A NUL-terminated text of the server. Bytes that are no UTF-8 become U+FFFD.
fn text(start: *const std::ffi::c_char) -> Result<String> {
    if start.is_null() {
        return Err(internal!("the server gave no text"));
    }
    // SAFETY: not NULL, NUL-terminated by the interface, and copied before anything else runs.
    Ok(unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned())
}

/// # Safety
/// `message` is live.
unsafe fn message_text(message: *mut TRITONSERVER_Message) -> Result<String> {
    let (mut start, mut bytes) = (ptr::null(), 0);
    call!(TRITONSERVER_MessageSerializeToJson(message, &mut start, &mut bytes))?;
    let text = std::slice::from_raw_parts(start.cast::<u8>(), bytes);
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// # Safety
/// `message` is live and ours.
unsafe fn take_message(message: *mut TRITONSERVER_Message) -> Result<String> {
    let text = message_text(message);
    call!(TRITONSERVER_MessageDelete(message))?;
    text
}
