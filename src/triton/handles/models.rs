//! Models and instances as the server holds them. Called by the entry points and by `model`.

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr;

use super::request::Request;
use super::server::ServerHandle;
use super::text::{message_text, monotonic_ns, take_message, text};
use crate::error::Result;
use crate::invalid;
use crate::triton::error::call;
use crate::triton::sys::{self, *};

/// Ask for one instance of KIND_MODEL where config.pbtxt has no instance group.
pub(in crate::triton) fn prefer_one_instance(
    attribute: *mut TRITONBACKEND_BackendAttribute,
) -> Result<()> {
    let kind = sys::TRITONSERVER_INSTANCEGROUPKIND_MODEL;
    let devices = ptr::null();
    call!(TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attribute, kind, 1, devices, 0))
}

/// A model that the server holds at least until our ModelFinalize returns.
#[derive(Clone, Copy)]
pub(in crate::triton) struct ModelHandle(*mut TRITONBACKEND_Model);

/// An instance that the server holds at least until our ModelInstanceFinalize returns.
#[derive(Clone, Copy)]
pub(in crate::triton) struct InstanceHandle(*mut TRITONBACKEND_ModelInstance);

// SAFETY: the functions that take these may be called from any thread.
unsafe impl Send for ModelHandle {}
unsafe impl Sync for ModelHandle {}
unsafe impl Send for InstanceHandle {}
unsafe impl Sync for InstanceHandle {}

/// What kind of device an instance group asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::triton) enum Kind {
    /// KIND_GPU: this one.
    Gpu(u32),
    /// KIND_MODEL, KIND_CPU, KIND_AUTO: we choose.
    Auto,
}

impl ModelHandle {
    pub(in crate::triton) fn new(model: *mut TRITONBACKEND_Model) -> Self {
        ModelHandle(model)
    }

    pub(in crate::triton) fn name(self) -> Result<String> {
        let mut name = ptr::null();
        call!(TRITONBACKEND_ModelName(self.0, &mut name))?;
        text(name)
    }

    pub(in crate::triton) fn version(self) -> Result<u64> {
        let mut version = 0;
        call!(TRITONBACKEND_ModelVersion(self.0, &mut version))?;
        Ok(version)
    }

    /// The model's folder, which holds config.pbtxt and the versions.
    pub(in crate::triton) fn folder(self) -> Result<PathBuf> {
        let mut kind = 0;
        let mut folder = ptr::null();
        call!(TRITONBACKEND_ModelRepository(self.0, &mut kind, &mut folder))?;
        if kind != sys::TRITONBACKEND_ARTIFACT_FILESYSTEM {
            return Err(invalid!("the model repository is of kind {kind}, not a file system"));
        }
        text(folder).map(PathBuf::from)
    }

    pub(in crate::triton) fn auto_complete(self) -> Result<bool> {
        let mut wanted = false;
        call!(TRITONBACKEND_ModelAutoCompleteConfig(self.0, &mut wanted))?;
        Ok(wanted)
    }

    /// config.pbtxt as JSON.
    pub(in crate::triton) fn config(self) -> Result<String> {
        let mut message = ptr::null_mut();
        call!(TRITONBACKEND_ModelConfig(self.0, 1, &mut message))?;
        // SAFETY: ModelConfig gave us the message.
        unsafe { take_message(message) }
    }

    pub(in crate::triton) fn set_config(self, config: &str) -> Result<()> {
        let mut message = ptr::null_mut();
        let bytes = config.as_ptr().cast();
        call!(TRITONSERVER_MessageNewFromSerializedJson(&mut message, bytes, config.len() as _))?;
        let set = call!(TRITONBACKEND_ModelSetConfig(self.0, 1, message));
        call!(TRITONSERVER_MessageDelete(message))?;
        set
    }

    /// `--backend-config` as JSON.
    pub(in crate::triton) fn backend_config(self) -> Result<String> {
        let mut backend = ptr::null_mut();
        let mut message = ptr::null_mut();
        call!(TRITONBACKEND_ModelBackend(self.0, &mut backend))?;
        call!(TRITONBACKEND_BackendConfig(backend, &mut message))?;
        // SAFETY: the backend keeps this message: it is read, not deleted.
        unsafe { message_text(message) }
    }

    pub(in crate::triton) fn server(self) -> Result<ServerHandle> {
        let mut server = ptr::null_mut();
        call!(TRITONBACKEND_ModelServer(self.0, &mut server))?;
        Ok(ServerHandle::new(server))
    }

    pub(in crate::triton) fn state(self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        call!(TRITONBACKEND_ModelState(self.0, &mut state))?;
        Ok(state)
    }

    pub(in crate::triton) fn set_state(self, state: *mut c_void) -> Result<()> {
        call!(TRITONBACKEND_ModelSetState(self.0, state))
    }
}

impl InstanceHandle {
    pub(in crate::triton) fn new(instance: *mut TRITONBACKEND_ModelInstance) -> Self {
        InstanceHandle(instance)
    }

    pub(in crate::triton) fn name(self) -> Result<String> {
        let mut name = ptr::null();
        call!(TRITONBACKEND_ModelInstanceName(self.0, &mut name))?;
        text(name)
    }

    pub(in crate::triton) fn kind(self) -> Result<Kind> {
        let (mut kind, mut device) = (0, 0);
        call!(TRITONBACKEND_ModelInstanceKind(self.0, &mut kind))?;
        call!(TRITONBACKEND_ModelInstanceDeviceId(self.0, &mut device))?;
        match (kind, u32::try_from(device)) {
            (sys::TRITONSERVER_INSTANCEGROUPKIND_GPU, Ok(gpu)) => Ok(Kind::Gpu(gpu)),
            (sys::TRITONSERVER_INSTANCEGROUPKIND_GPU, Err(_)) => {
                Err(invalid!("KIND_GPU instance on device {device}"))
            }
            _ => Ok(Kind::Auto),
        }
    }

    pub(in crate::triton) fn model(self) -> Result<ModelHandle> {
        let mut model = ptr::null_mut();
        call!(TRITONBACKEND_ModelInstanceModel(self.0, &mut model))?;
        Ok(ModelHandle(model))
    }

    pub(in crate::triton) fn state(self) -> Result<*mut c_void> {
        let mut state = ptr::null_mut();
        call!(TRITONBACKEND_ModelInstanceState(self.0, &mut state))?;
        Ok(state)
    }

    pub(in crate::triton) fn set_state(self, state: *mut c_void) -> Result<()> {
        call!(TRITONBACKEND_ModelInstanceSetState(self.0, state))
    }

    /// Count a request in Triton's statistics: one execution of `batch` rows, from `start_ns` till
    /// now.
    pub(in crate::triton) fn report(
        self,
        request: &Request,
        success: bool,
        batch: u64,
        start_ns: u64,
    ) {
        let now = monotonic_ns();
        // Statistics are not worth failing a request for.
        let _ = call!(TRITONBACKEND_ModelInstanceReportStatistics(
            self.0,
            request.as_ptr(),
            success,
            start_ns,
            start_ns,
            now,
            now
        ));
        if success {
            let _ = call!(TRITONBACKEND_ModelInstanceReportBatchStatistics(
                self.0, batch, start_ns, start_ns, now, now
            ));
        }
    }
}
