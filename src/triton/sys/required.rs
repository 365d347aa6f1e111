//! Made from `triton_headers/triton_backend.h` by `TRITON_VLLM_WRITE_BINDINGS=1 cargo test --release --test tidy bindings`.

pub type bool_ = bool;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_Error {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_Message {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_Metric {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_MetricFamily {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_Parameter {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_Server {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Backend {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_BackendAttribute {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Input {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Model {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_ModelInstance {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Output {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Request {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_Response {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONBACKEND_ResponseFactory {
    _unused: [u8; 0],
}
pub const TRITONSERVER_ERROR_INTERNAL: TRITONSERVER_Error_Code = 1;
pub const TRITONSERVER_ERROR_NOT_FOUND: TRITONSERVER_Error_Code = 2;
pub const TRITONSERVER_ERROR_INVALID_ARG: TRITONSERVER_Error_Code = 3;
pub const TRITONSERVER_ERROR_UNAVAILABLE: TRITONSERVER_Error_Code = 4;
pub const TRITONSERVER_ERROR_UNSUPPORTED: TRITONSERVER_Error_Code = 5;
pub const TRITONSERVER_ERROR_CANCELLED: TRITONSERVER_Error_Code = 7;
pub type TRITONSERVER_Error_Code = ::std::os::raw::c_uint;
pub const TRITONSERVER_LOG_INFO: TRITONSERVER_LogLevel = 0;
pub const TRITONSERVER_LOG_WARN: TRITONSERVER_LogLevel = 1;
pub const TRITONSERVER_LOG_ERROR: TRITONSERVER_LogLevel = 2;
pub const TRITONSERVER_LOG_VERBOSE: TRITONSERVER_LogLevel = 3;
pub type TRITONSERVER_LogLevel = ::std::os::raw::c_uint;
pub const TRITONSERVER_TYPE_BOOL: TRITONSERVER_DataType = 1;
pub const TRITONSERVER_TYPE_UINT32: TRITONSERVER_DataType = 4;
pub const TRITONSERVER_TYPE_FP32: TRITONSERVER_DataType = 11;
pub const TRITONSERVER_TYPE_BYTES: TRITONSERVER_DataType = 13;
pub type TRITONSERVER_DataType = ::std::os::raw::c_uint;
pub const TRITONSERVER_MEMORY_CPU: TRITONSERVER_MemoryType = 0;
pub const TRITONSERVER_MEMORY_CPU_PINNED: TRITONSERVER_MemoryType = 1;
pub const TRITONSERVER_MEMORY_GPU: TRITONSERVER_MemoryType = 2;
pub type TRITONSERVER_MemoryType = ::std::os::raw::c_uint;
pub const TRITONSERVER_PARAMETER_STRING: TRITONSERVER_ParameterType = 0;
pub const TRITONSERVER_PARAMETER_INT: TRITONSERVER_ParameterType = 1;
pub const TRITONSERVER_PARAMETER_BOOL: TRITONSERVER_ParameterType = 2;
pub const TRITONSERVER_PARAMETER_DOUBLE: TRITONSERVER_ParameterType = 3;
pub const TRITONSERVER_PARAMETER_BYTES: TRITONSERVER_ParameterType = 4;
pub type TRITONSERVER_ParameterType = ::std::os::raw::c_uint;
pub const TRITONSERVER_INSTANCEGROUPKIND_AUTO: TRITONSERVER_InstanceGroupKind = 0;
pub const TRITONSERVER_INSTANCEGROUPKIND_CPU: TRITONSERVER_InstanceGroupKind = 1;
pub const TRITONSERVER_INSTANCEGROUPKIND_GPU: TRITONSERVER_InstanceGroupKind = 2;
pub const TRITONSERVER_INSTANCEGROUPKIND_MODEL: TRITONSERVER_InstanceGroupKind = 3;
pub type TRITONSERVER_InstanceGroupKind = ::std::os::raw::c_uint;
pub const TRITONSERVER_METRIC_KIND_COUNTER: TRITONSERVER_MetricKind = 0;
pub const TRITONSERVER_METRIC_KIND_GAUGE: TRITONSERVER_MetricKind = 1;
pub const TRITONSERVER_METRIC_KIND_HISTOGRAM: TRITONSERVER_MetricKind = 2;
pub type TRITONSERVER_MetricKind = ::std::os::raw::c_uint;
pub const TRITONBACKEND_ARTIFACT_FILESYSTEM: TRITONBACKEND_ArtifactType = 0;
pub type TRITONBACKEND_ArtifactType = ::std::os::raw::c_uint;
pub const TRITONSERVER_REQUEST_RELEASE_ALL: _bindgen_ty_1 = 1;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
pub const TRITONSERVER_RESPONSE_COMPLETE_FINAL: _bindgen_ty_2 = 1;
pub type _bindgen_ty_2 = ::std::os::raw::c_uint;
pub const TRITONSERVER_INDEX_FLAG_READY: _bindgen_ty_3 = 1;
pub type _bindgen_ty_3 = ::std::os::raw::c_uint;
pub struct Required {
    __library: ::libloading::Library,
    pub TRITONSERVER_ErrorNew: unsafe extern "C" fn(
        code: TRITONSERVER_Error_Code,
        text: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ErrorDelete: unsafe extern "C" fn(error: *mut TRITONSERVER_Error),
    pub TRITONSERVER_ErrorMessage:
        unsafe extern "C" fn(error: *mut TRITONSERVER_Error) -> *const ::std::os::raw::c_char,
    pub TRITONSERVER_LogIsEnabled: unsafe extern "C" fn(level: TRITONSERVER_LogLevel) -> bool_,
    pub TRITONSERVER_LogMessage: unsafe extern "C" fn(
        level: TRITONSERVER_LogLevel,
        file: *const ::std::os::raw::c_char,
        line: ::std::os::raw::c_int,
        text: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MessageNewFromSerializedJson: unsafe extern "C" fn(
        message: *mut *mut TRITONSERVER_Message,
        text: *const ::std::os::raw::c_char,
        bytes: usize,
    )
        -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MessageSerializeToJson: unsafe extern "C" fn(
        message: *mut TRITONSERVER_Message,
        text: *mut *const ::std::os::raw::c_char,
        bytes: *mut usize,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MessageDelete:
        unsafe extern "C" fn(message: *mut TRITONSERVER_Message) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ParameterNew: unsafe extern "C" fn(
        name: *const ::std::os::raw::c_char,
        type_: TRITONSERVER_ParameterType,
        value: *const ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Parameter,
    pub TRITONSERVER_ParameterDelete: unsafe extern "C" fn(parameter: *mut TRITONSERVER_Parameter),
    pub TRITONSERVER_MetricFamilyNew: unsafe extern "C" fn(
        family: *mut *mut TRITONSERVER_MetricFamily,
        kind: TRITONSERVER_MetricKind,
        name: *const ::std::os::raw::c_char,
        help: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MetricFamilyDelete:
        unsafe extern "C" fn(family: *mut TRITONSERVER_MetricFamily) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MetricNew: unsafe extern "C" fn(
        metric: *mut *mut TRITONSERVER_Metric,
        family: *mut TRITONSERVER_MetricFamily,
        labels: *mut *const TRITONSERVER_Parameter,
        label_count: u64,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MetricDelete:
        unsafe extern "C" fn(metric: *mut TRITONSERVER_Metric) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MetricIncrement:
        unsafe extern "C" fn(metric: *mut TRITONSERVER_Metric, by: f64) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_MetricSet: unsafe extern "C" fn(
        metric: *mut TRITONSERVER_Metric,
        value: f64,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ServerUnloadModel: unsafe extern "C" fn(
        server: *mut TRITONSERVER_Server,
        name: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ServerIsLive: unsafe extern "C" fn(
        server: *mut TRITONSERVER_Server,
        live: *mut bool_,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ServerModelBatchProperties: unsafe extern "C" fn(
        server: *mut TRITONSERVER_Server,
        name: *const ::std::os::raw::c_char,
        version: i64,
        flags: *mut u32,
        unused: *mut *mut ::std::os::raw::c_void,
    )
        -> *mut TRITONSERVER_Error,
    pub TRITONSERVER_ServerModelIndex: unsafe extern "C" fn(
        server: *mut TRITONSERVER_Server,
        flags: u32,
        index: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ApiVersion:
        unsafe extern "C" fn(major: *mut u32, minor: *mut u32) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_BackendConfig: unsafe extern "C" fn(
        backend: *mut TRITONBACKEND_Backend,
        config: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup:
        unsafe extern "C" fn(
            attribute: *mut TRITONBACKEND_BackendAttribute,
            kind: TRITONSERVER_InstanceGroupKind,
            count: u64,
            device_ids: *const u64,
            device_count: u64,
        ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelName: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelVersion: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        version: *mut u64,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelRepository: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        type_: *mut TRITONBACKEND_ArtifactType,
        folder: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelConfig: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        config_version: u32,
        config: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelAutoCompleteConfig: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        wanted: *mut bool_,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelSetConfig: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        config_version: u32,
        config: *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelServer: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        server: *mut *mut TRITONSERVER_Server,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelBackend: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        backend: *mut *mut TRITONBACKEND_Backend,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelState: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        state: *mut *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelSetState: unsafe extern "C" fn(
        model: *mut TRITONBACKEND_Model,
        state: *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceName: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceKind: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        kind: *mut TRITONSERVER_InstanceGroupKind,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceDeviceId: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        device: *mut i32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceModel: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        model: *mut *mut TRITONBACKEND_Model,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceState: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        state: *mut *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceSetState: unsafe extern "C" fn(
        instance: *mut TRITONBACKEND_ModelInstance,
        state: *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceReportStatistics:
        unsafe extern "C" fn(
            instance: *mut TRITONBACKEND_ModelInstance,
            request: *mut TRITONBACKEND_Request,
            success: bool_,
            exec_start_ns: u64,
            compute_start_ns: u64,
            compute_end_ns: u64,
            exec_end_ns: u64,
        ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ModelInstanceReportBatchStatistics:
        unsafe extern "C" fn(
            instance: *mut TRITONBACKEND_ModelInstance,
            batch_size: u64,
            exec_start_ns: u64,
            compute_start_ns: u64,
            compute_end_ns: u64,
            exec_end_ns: u64,
        ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestInputCount: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestInputByIndex: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        index: u32,
        input: *mut *mut TRITONBACKEND_Input,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestOutputCount: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestOutputName: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        index: u32,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestParameterCount: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestParameter: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        index: u32,
        key: *mut *const ::std::os::raw::c_char,
        type_: *mut TRITONSERVER_ParameterType,
        value: *mut *const ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_RequestRelease: unsafe extern "C" fn(
        request: *mut TRITONBACKEND_Request,
        flags: u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_InputProperties: unsafe extern "C" fn(
        input: *mut TRITONBACKEND_Input,
        name: *mut *const ::std::os::raw::c_char,
        type_: *mut TRITONSERVER_DataType,
        shape: *mut *const i64,
        rank: *mut u32,
        bytes: *mut u64,
        buffer_count: *mut u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_InputBuffer: unsafe extern "C" fn(
        input: *mut TRITONBACKEND_Input,
        index: u32,
        buffer: *mut *const ::std::os::raw::c_void,
        bytes: *mut u64,
        memory: *mut TRITONSERVER_MemoryType,
        device: *mut i64,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseFactoryNew: unsafe extern "C" fn(
        factory: *mut *mut TRITONBACKEND_ResponseFactory,
        request: *mut TRITONBACKEND_Request,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseFactoryDelete: unsafe extern "C" fn(
        factory: *mut TRITONBACKEND_ResponseFactory,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseFactorySendFlags: unsafe extern "C" fn(
        factory: *mut TRITONBACKEND_ResponseFactory,
        flags: u32,
    )
        -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseNewFromFactory: unsafe extern "C" fn(
        response: *mut *mut TRITONBACKEND_Response,
        factory: *mut TRITONBACKEND_ResponseFactory,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseOutput: unsafe extern "C" fn(
        response: *mut TRITONBACKEND_Response,
        output: *mut *mut TRITONBACKEND_Output,
        name: *const ::std::os::raw::c_char,
        type_: TRITONSERVER_DataType,
        shape: *const i64,
        rank: u32,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_OutputBuffer: unsafe extern "C" fn(
        output: *mut TRITONBACKEND_Output,
        buffer: *mut *mut ::std::os::raw::c_void,
        bytes: u64,
        memory: *mut TRITONSERVER_MemoryType,
        device: *mut i64,
    ) -> *mut TRITONSERVER_Error,
    pub TRITONBACKEND_ResponseSend: unsafe extern "C" fn(
        response: *mut TRITONBACKEND_Response,
        flags: u32,
        error: *mut TRITONSERVER_Error,
    ) -> *mut TRITONSERVER_Error,
}
impl Required {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let library = ::libloading::Library::new(path)?;
        Self::from_library(library)
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let TRITONSERVER_ErrorNew = __library.get(b"TRITONSERVER_ErrorNew\0").map(|sym| *sym)?;
        let TRITONSERVER_ErrorDelete =
            __library.get(b"TRITONSERVER_ErrorDelete\0").map(|sym| *sym)?;
        let TRITONSERVER_ErrorMessage =
            __library.get(b"TRITONSERVER_ErrorMessage\0").map(|sym| *sym)?;
        let TRITONSERVER_LogIsEnabled =
            __library.get(b"TRITONSERVER_LogIsEnabled\0").map(|sym| *sym)?;
        let TRITONSERVER_LogMessage =
            __library.get(b"TRITONSERVER_LogMessage\0").map(|sym| *sym)?;
        let TRITONSERVER_MessageNewFromSerializedJson =
            __library.get(b"TRITONSERVER_MessageNewFromSerializedJson\0").map(|sym| *sym)?;
        let TRITONSERVER_MessageSerializeToJson =
            __library.get(b"TRITONSERVER_MessageSerializeToJson\0").map(|sym| *sym)?;
        let TRITONSERVER_MessageDelete =
            __library.get(b"TRITONSERVER_MessageDelete\0").map(|sym| *sym)?;
        let TRITONSERVER_ParameterNew =
            __library.get(b"TRITONSERVER_ParameterNew\0").map(|sym| *sym)?;
        let TRITONSERVER_ParameterDelete =
            __library.get(b"TRITONSERVER_ParameterDelete\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricFamilyNew =
            __library.get(b"TRITONSERVER_MetricFamilyNew\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricFamilyDelete =
            __library.get(b"TRITONSERVER_MetricFamilyDelete\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricNew = __library.get(b"TRITONSERVER_MetricNew\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricDelete =
            __library.get(b"TRITONSERVER_MetricDelete\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricIncrement =
            __library.get(b"TRITONSERVER_MetricIncrement\0").map(|sym| *sym)?;
        let TRITONSERVER_MetricSet = __library.get(b"TRITONSERVER_MetricSet\0").map(|sym| *sym)?;
        let TRITONSERVER_ServerUnloadModel =
            __library.get(b"TRITONSERVER_ServerUnloadModel\0").map(|sym| *sym)?;
        let TRITONSERVER_ServerIsLive =
            __library.get(b"TRITONSERVER_ServerIsLive\0").map(|sym| *sym)?;
        let TRITONSERVER_ServerModelBatchProperties =
            __library.get(b"TRITONSERVER_ServerModelBatchProperties\0").map(|sym| *sym)?;
        let TRITONSERVER_ServerModelIndex =
            __library.get(b"TRITONSERVER_ServerModelIndex\0").map(|sym| *sym)?;
        let TRITONBACKEND_ApiVersion =
            __library.get(b"TRITONBACKEND_ApiVersion\0").map(|sym| *sym)?;
        let TRITONBACKEND_BackendConfig =
            __library.get(b"TRITONBACKEND_BackendConfig\0").map(|sym| *sym)?;
        let TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup = __library
            .get(b"TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup\0")
            .map(|sym| *sym)?;
        let TRITONBACKEND_ModelName =
            __library.get(b"TRITONBACKEND_ModelName\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelVersion =
            __library.get(b"TRITONBACKEND_ModelVersion\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelRepository =
            __library.get(b"TRITONBACKEND_ModelRepository\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelConfig =
            __library.get(b"TRITONBACKEND_ModelConfig\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelAutoCompleteConfig =
            __library.get(b"TRITONBACKEND_ModelAutoCompleteConfig\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelSetConfig =
            __library.get(b"TRITONBACKEND_ModelSetConfig\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelServer =
            __library.get(b"TRITONBACKEND_ModelServer\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelBackend =
            __library.get(b"TRITONBACKEND_ModelBackend\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelState =
            __library.get(b"TRITONBACKEND_ModelState\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelSetState =
            __library.get(b"TRITONBACKEND_ModelSetState\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceName =
            __library.get(b"TRITONBACKEND_ModelInstanceName\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceKind =
            __library.get(b"TRITONBACKEND_ModelInstanceKind\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceDeviceId =
            __library.get(b"TRITONBACKEND_ModelInstanceDeviceId\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceModel =
            __library.get(b"TRITONBACKEND_ModelInstanceModel\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceState =
            __library.get(b"TRITONBACKEND_ModelInstanceState\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceSetState =
            __library.get(b"TRITONBACKEND_ModelInstanceSetState\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceReportStatistics =
            __library.get(b"TRITONBACKEND_ModelInstanceReportStatistics\0").map(|sym| *sym)?;
        let TRITONBACKEND_ModelInstanceReportBatchStatistics =
            __library.get(b"TRITONBACKEND_ModelInstanceReportBatchStatistics\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestInputCount =
            __library.get(b"TRITONBACKEND_RequestInputCount\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestInputByIndex =
            __library.get(b"TRITONBACKEND_RequestInputByIndex\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestOutputCount =
            __library.get(b"TRITONBACKEND_RequestOutputCount\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestOutputName =
            __library.get(b"TRITONBACKEND_RequestOutputName\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestParameterCount =
            __library.get(b"TRITONBACKEND_RequestParameterCount\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestParameter =
            __library.get(b"TRITONBACKEND_RequestParameter\0").map(|sym| *sym)?;
        let TRITONBACKEND_RequestRelease =
            __library.get(b"TRITONBACKEND_RequestRelease\0").map(|sym| *sym)?;
        let TRITONBACKEND_InputProperties =
            __library.get(b"TRITONBACKEND_InputProperties\0").map(|sym| *sym)?;
        let TRITONBACKEND_InputBuffer =
            __library.get(b"TRITONBACKEND_InputBuffer\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseFactoryNew =
            __library.get(b"TRITONBACKEND_ResponseFactoryNew\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseFactoryDelete =
            __library.get(b"TRITONBACKEND_ResponseFactoryDelete\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseFactorySendFlags =
            __library.get(b"TRITONBACKEND_ResponseFactorySendFlags\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseNewFromFactory =
            __library.get(b"TRITONBACKEND_ResponseNewFromFactory\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseOutput =
            __library.get(b"TRITONBACKEND_ResponseOutput\0").map(|sym| *sym)?;
        let TRITONBACKEND_OutputBuffer =
            __library.get(b"TRITONBACKEND_OutputBuffer\0").map(|sym| *sym)?;
        let TRITONBACKEND_ResponseSend =
            __library.get(b"TRITONBACKEND_ResponseSend\0").map(|sym| *sym)?;
        Ok(Required {
            __library,
            TRITONSERVER_ErrorNew,
            TRITONSERVER_ErrorDelete,
            TRITONSERVER_ErrorMessage,
            TRITONSERVER_LogIsEnabled,
            TRITONSERVER_LogMessage,
            TRITONSERVER_MessageNewFromSerializedJson,
            TRITONSERVER_MessageSerializeToJson,
            TRITONSERVER_MessageDelete,
            TRITONSERVER_ParameterNew,
            TRITONSERVER_ParameterDelete,
            TRITONSERVER_MetricFamilyNew,
            TRITONSERVER_MetricFamilyDelete,
            TRITONSERVER_MetricNew,
            TRITONSERVER_MetricDelete,
            TRITONSERVER_MetricIncrement,
            TRITONSERVER_MetricSet,
            TRITONSERVER_ServerUnloadModel,
            TRITONSERVER_ServerIsLive,
            TRITONSERVER_ServerModelBatchProperties,
            TRITONSERVER_ServerModelIndex,
            TRITONBACKEND_ApiVersion,
            TRITONBACKEND_BackendConfig,
            TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup,
            TRITONBACKEND_ModelName,
            TRITONBACKEND_ModelVersion,
            TRITONBACKEND_ModelRepository,
            TRITONBACKEND_ModelConfig,
            TRITONBACKEND_ModelAutoCompleteConfig,
            TRITONBACKEND_ModelSetConfig,
            TRITONBACKEND_ModelServer,
            TRITONBACKEND_ModelBackend,
            TRITONBACKEND_ModelState,
            TRITONBACKEND_ModelSetState,
            TRITONBACKEND_ModelInstanceName,
            TRITONBACKEND_ModelInstanceKind,
            TRITONBACKEND_ModelInstanceDeviceId,
            TRITONBACKEND_ModelInstanceModel,
            TRITONBACKEND_ModelInstanceState,
            TRITONBACKEND_ModelInstanceSetState,
            TRITONBACKEND_ModelInstanceReportStatistics,
            TRITONBACKEND_ModelInstanceReportBatchStatistics,
            TRITONBACKEND_RequestInputCount,
            TRITONBACKEND_RequestInputByIndex,
            TRITONBACKEND_RequestOutputCount,
            TRITONBACKEND_RequestOutputName,
            TRITONBACKEND_RequestParameterCount,
            TRITONBACKEND_RequestParameter,
            TRITONBACKEND_RequestRelease,
            TRITONBACKEND_InputProperties,
            TRITONBACKEND_InputBuffer,
            TRITONBACKEND_ResponseFactoryNew,
            TRITONBACKEND_ResponseFactoryDelete,
            TRITONBACKEND_ResponseFactorySendFlags,
            TRITONBACKEND_ResponseNewFromFactory,
            TRITONBACKEND_ResponseOutput,
            TRITONBACKEND_OutputBuffer,
            TRITONBACKEND_ResponseSend,
        })
    }
    pub unsafe fn TRITONSERVER_ErrorNew(
        &self,
        code: TRITONSERVER_Error_Code,
        text: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_ErrorNew)(code, text)
    }
    pub unsafe fn TRITONSERVER_ErrorDelete(&self, error: *mut TRITONSERVER_Error) {
        (self.TRITONSERVER_ErrorDelete)(error)
    }
    pub unsafe fn TRITONSERVER_ErrorMessage(
        &self,
        error: *mut TRITONSERVER_Error,
    ) -> *const ::std::os::raw::c_char {
        (self.TRITONSERVER_ErrorMessage)(error)
    }
    pub unsafe fn TRITONSERVER_LogIsEnabled(&self, level: TRITONSERVER_LogLevel) -> bool_ {
        (self.TRITONSERVER_LogIsEnabled)(level)
    }
    pub unsafe fn TRITONSERVER_LogMessage(
        &self,
        level: TRITONSERVER_LogLevel,
        file: *const ::std::os::raw::c_char,
        line: ::std::os::raw::c_int,
        text: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_LogMessage)(level, file, line, text)
    }
    pub unsafe fn TRITONSERVER_MessageNewFromSerializedJson(
        &self,
        message: *mut *mut TRITONSERVER_Message,
        text: *const ::std::os::raw::c_char,
        bytes: usize,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MessageNewFromSerializedJson)(message, text, bytes)
    }
    pub unsafe fn TRITONSERVER_MessageSerializeToJson(
        &self,
        message: *mut TRITONSERVER_Message,
        text: *mut *const ::std::os::raw::c_char,
        bytes: *mut usize,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MessageSerializeToJson)(message, text, bytes)
    }
    pub unsafe fn TRITONSERVER_MessageDelete(
        &self,
        message: *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MessageDelete)(message)
    }
    pub unsafe fn TRITONSERVER_ParameterNew(
        &self,
        name: *const ::std::os::raw::c_char,
        type_: TRITONSERVER_ParameterType,
        value: *const ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Parameter {
        (self.TRITONSERVER_ParameterNew)(name, type_, value)
    }
    pub unsafe fn TRITONSERVER_ParameterDelete(&self, parameter: *mut TRITONSERVER_Parameter) {
        (self.TRITONSERVER_ParameterDelete)(parameter)
    }
    pub unsafe fn TRITONSERVER_MetricFamilyNew(
        &self,
        family: *mut *mut TRITONSERVER_MetricFamily,
        kind: TRITONSERVER_MetricKind,
        name: *const ::std::os::raw::c_char,
        help: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricFamilyNew)(family, kind, name, help)
    }
    pub unsafe fn TRITONSERVER_MetricFamilyDelete(
        &self,
        family: *mut TRITONSERVER_MetricFamily,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricFamilyDelete)(family)
    }
    pub unsafe fn TRITONSERVER_MetricNew(
        &self,
        metric: *mut *mut TRITONSERVER_Metric,
        family: *mut TRITONSERVER_MetricFamily,
        labels: *mut *const TRITONSERVER_Parameter,
        label_count: u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricNew)(metric, family, labels, label_count)
    }
    pub unsafe fn TRITONSERVER_MetricDelete(
        &self,
        metric: *mut TRITONSERVER_Metric,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricDelete)(metric)
    }
    pub unsafe fn TRITONSERVER_MetricIncrement(
        &self,
        metric: *mut TRITONSERVER_Metric,
        by: f64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricIncrement)(metric, by)
    }
    pub unsafe fn TRITONSERVER_MetricSet(
        &self,
        metric: *mut TRITONSERVER_Metric,
        value: f64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricSet)(metric, value)
    }
    pub unsafe fn TRITONSERVER_ServerUnloadModel(
        &self,
        server: *mut TRITONSERVER_Server,
        name: *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_ServerUnloadModel)(server, name)
    }
    pub unsafe fn TRITONSERVER_ServerIsLive(
        &self,
        server: *mut TRITONSERVER_Server,
        live: *mut bool_,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_ServerIsLive)(server, live)
    }
    pub unsafe fn TRITONSERVER_ServerModelBatchProperties(
        &self,
        server: *mut TRITONSERVER_Server,
        name: *const ::std::os::raw::c_char,
        version: i64,
        flags: *mut u32,
        unused: *mut *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_ServerModelBatchProperties)(server, name, version, flags, unused)
    }
    pub unsafe fn TRITONSERVER_ServerModelIndex(
        &self,
        server: *mut TRITONSERVER_Server,
        flags: u32,
        index: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_ServerModelIndex)(server, flags, index)
    }
    pub unsafe fn TRITONBACKEND_ApiVersion(
        &self,
        major: *mut u32,
        minor: *mut u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ApiVersion)(major, minor)
    }
    pub unsafe fn TRITONBACKEND_BackendConfig(
        &self,
        backend: *mut TRITONBACKEND_Backend,
        config: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_BackendConfig)(backend, config)
    }
    pub unsafe fn TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
        &self,
        attribute: *mut TRITONBACKEND_BackendAttribute,
        kind: TRITONSERVER_InstanceGroupKind,
        count: u64,
        device_ids: *const u64,
        device_count: u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup)(
            attribute,
            kind,
            count,
            device_ids,
            device_count,
        )
    }
    pub unsafe fn TRITONBACKEND_ModelName(
        &self,
        model: *mut TRITONBACKEND_Model,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelName)(model, name)
    }
    pub unsafe fn TRITONBACKEND_ModelVersion(
        &self,
        model: *mut TRITONBACKEND_Model,
        version: *mut u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelVersion)(model, version)
    }
    pub unsafe fn TRITONBACKEND_ModelRepository(
        &self,
        model: *mut TRITONBACKEND_Model,
        type_: *mut TRITONBACKEND_ArtifactType,
        folder: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelRepository)(model, type_, folder)
    }
    pub unsafe fn TRITONBACKEND_ModelConfig(
        &self,
        model: *mut TRITONBACKEND_Model,
        config_version: u32,
        config: *mut *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelConfig)(model, config_version, config)
    }
    pub unsafe fn TRITONBACKEND_ModelAutoCompleteConfig(
        &self,
        model: *mut TRITONBACKEND_Model,
        wanted: *mut bool_,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelAutoCompleteConfig)(model, wanted)
    }
    pub unsafe fn TRITONBACKEND_ModelSetConfig(
        &self,
        model: *mut TRITONBACKEND_Model,
        config_version: u32,
        config: *mut TRITONSERVER_Message,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelSetConfig)(model, config_version, config)
    }
    pub unsafe fn TRITONBACKEND_ModelServer(
        &self,
        model: *mut TRITONBACKEND_Model,
        server: *mut *mut TRITONSERVER_Server,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelServer)(model, server)
    }
    pub unsafe fn TRITONBACKEND_ModelBackend(
        &self,
        model: *mut TRITONBACKEND_Model,
        backend: *mut *mut TRITONBACKEND_Backend,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelBackend)(model, backend)
    }
    pub unsafe fn TRITONBACKEND_ModelState(
        &self,
        model: *mut TRITONBACKEND_Model,
        state: *mut *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelState)(model, state)
    }
    pub unsafe fn TRITONBACKEND_ModelSetState(
        &self,
        model: *mut TRITONBACKEND_Model,
        state: *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelSetState)(model, state)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceName(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceName)(instance, name)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceKind(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        kind: *mut TRITONSERVER_InstanceGroupKind,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceKind)(instance, kind)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceDeviceId(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        device: *mut i32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceDeviceId)(instance, device)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceModel(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        model: *mut *mut TRITONBACKEND_Model,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceModel)(instance, model)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceState(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        state: *mut *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceState)(instance, state)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceSetState(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        state: *mut ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceSetState)(instance, state)
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceReportStatistics(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        request: *mut TRITONBACKEND_Request,
        success: bool_,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceReportStatistics)(
            instance,
            request,
            success,
            exec_start_ns,
            compute_start_ns,
            compute_end_ns,
            exec_end_ns,
        )
    }
    pub unsafe fn TRITONBACKEND_ModelInstanceReportBatchStatistics(
        &self,
        instance: *mut TRITONBACKEND_ModelInstance,
        batch_size: u64,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ModelInstanceReportBatchStatistics)(
            instance,
            batch_size,
            exec_start_ns,
            compute_start_ns,
            compute_end_ns,
            exec_end_ns,
        )
    }
    pub unsafe fn TRITONBACKEND_RequestInputCount(
        &self,
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestInputCount)(request, count)
    }
    pub unsafe fn TRITONBACKEND_RequestInputByIndex(
        &self,
        request: *mut TRITONBACKEND_Request,
        index: u32,
        input: *mut *mut TRITONBACKEND_Input,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestInputByIndex)(request, index, input)
    }
    pub unsafe fn TRITONBACKEND_RequestOutputCount(
        &self,
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestOutputCount)(request, count)
    }
    pub unsafe fn TRITONBACKEND_RequestOutputName(
        &self,
        request: *mut TRITONBACKEND_Request,
        index: u32,
        name: *mut *const ::std::os::raw::c_char,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestOutputName)(request, index, name)
    }
    pub unsafe fn TRITONBACKEND_RequestParameterCount(
        &self,
        request: *mut TRITONBACKEND_Request,
        count: *mut u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestParameterCount)(request, count)
    }
    pub unsafe fn TRITONBACKEND_RequestParameter(
        &self,
        request: *mut TRITONBACKEND_Request,
        index: u32,
        key: *mut *const ::std::os::raw::c_char,
        type_: *mut TRITONSERVER_ParameterType,
        value: *mut *const ::std::os::raw::c_void,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestParameter)(request, index, key, type_, value)
    }
    pub unsafe fn TRITONBACKEND_RequestRelease(
        &self,
        request: *mut TRITONBACKEND_Request,
        flags: u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_RequestRelease)(request, flags)
    }
    pub unsafe fn TRITONBACKEND_InputProperties(
        &self,
        input: *mut TRITONBACKEND_Input,
        name: *mut *const ::std::os::raw::c_char,
        type_: *mut TRITONSERVER_DataType,
        shape: *mut *const i64,
        rank: *mut u32,
        bytes: *mut u64,
        buffer_count: *mut u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_InputProperties)(input, name, type_, shape, rank, bytes, buffer_count)
    }
    pub unsafe fn TRITONBACKEND_InputBuffer(
        &self,
        input: *mut TRITONBACKEND_Input,
        index: u32,
        buffer: *mut *const ::std::os::raw::c_void,
        bytes: *mut u64,
        memory: *mut TRITONSERVER_MemoryType,
        device: *mut i64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_InputBuffer)(input, index, buffer, bytes, memory, device)
    }
    pub unsafe fn TRITONBACKEND_ResponseFactoryNew(
        &self,
        factory: *mut *mut TRITONBACKEND_ResponseFactory,
        request: *mut TRITONBACKEND_Request,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseFactoryNew)(factory, request)
    }
    pub unsafe fn TRITONBACKEND_ResponseFactoryDelete(
        &self,
        factory: *mut TRITONBACKEND_ResponseFactory,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseFactoryDelete)(factory)
    }
    pub unsafe fn TRITONBACKEND_ResponseFactorySendFlags(
        &self,
        factory: *mut TRITONBACKEND_ResponseFactory,
        flags: u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseFactorySendFlags)(factory, flags)
    }
    pub unsafe fn TRITONBACKEND_ResponseNewFromFactory(
        &self,
        response: *mut *mut TRITONBACKEND_Response,
        factory: *mut TRITONBACKEND_ResponseFactory,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseNewFromFactory)(response, factory)
    }
    pub unsafe fn TRITONBACKEND_ResponseOutput(
        &self,
        response: *mut TRITONBACKEND_Response,
        output: *mut *mut TRITONBACKEND_Output,
        name: *const ::std::os::raw::c_char,
        type_: TRITONSERVER_DataType,
        shape: *const i64,
        rank: u32,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseOutput)(response, output, name, type_, shape, rank)
    }
    pub unsafe fn TRITONBACKEND_OutputBuffer(
        &self,
        output: *mut TRITONBACKEND_Output,
        buffer: *mut *mut ::std::os::raw::c_void,
        bytes: u64,
        memory: *mut TRITONSERVER_MemoryType,
        device: *mut i64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_OutputBuffer)(output, buffer, bytes, memory, device)
    }
    pub unsafe fn TRITONBACKEND_ResponseSend(
        &self,
        response: *mut TRITONBACKEND_Response,
        flags: u32,
        error: *mut TRITONSERVER_Error,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONBACKEND_ResponseSend)(response, flags, error)
    }
}
