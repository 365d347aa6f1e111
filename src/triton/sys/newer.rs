//! Made from `triton_headers/triton_newer.h` by `TRITON_VLLM_WRITE_BINDINGS=1 cargo test --release --test tidy bindings`.

use super::required::*;

#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_InferenceRequest {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TRITONSERVER_MetricArgs {
    _unused: [u8; 0],
}
pub struct Newer {
    __library: ::libloading::Library,
    pub TRITONBACKEND_ResponseFactoryIsCancelled: Result<
        unsafe extern "C" fn(
            factory: *mut TRITONBACKEND_ResponseFactory,
            cancelled: *mut bool_,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_InferenceRequestTimeoutMicroseconds: Result<
        unsafe extern "C" fn(
            request: *mut TRITONSERVER_InferenceRequest,
            timeout_us: *mut u64,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_InferenceRequestPriorityUInt64: Result<
        unsafe extern "C" fn(
            request: *mut TRITONSERVER_InferenceRequest,
            priority: *mut u64,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_MetricArgsNew: Result<
        unsafe extern "C" fn(args: *mut *mut TRITONSERVER_MetricArgs) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_MetricArgsSetHistogram: Result<
        unsafe extern "C" fn(
            args: *mut TRITONSERVER_MetricArgs,
            buckets: *const f64,
            bucket_count: u64,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_MetricArgsDelete: Result<
        unsafe extern "C" fn(args: *mut TRITONSERVER_MetricArgs) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_MetricNewWithArgs: Result<
        unsafe extern "C" fn(
            metric: *mut *mut TRITONSERVER_Metric,
            family: *mut TRITONSERVER_MetricFamily,
            labels: *mut *const TRITONSERVER_Parameter,
            label_count: u64,
            args: *const TRITONSERVER_MetricArgs,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
    pub TRITONSERVER_MetricObserve: Result<
        unsafe extern "C" fn(
            metric: *mut TRITONSERVER_Metric,
            value: f64,
        ) -> *mut TRITONSERVER_Error,
        ::libloading::Error,
    >,
}
impl Newer {
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
        let TRITONBACKEND_ResponseFactoryIsCancelled =
            __library.get(b"TRITONBACKEND_ResponseFactoryIsCancelled\0").map(|sym| *sym);
        let TRITONSERVER_InferenceRequestTimeoutMicroseconds =
            __library.get(b"TRITONSERVER_InferenceRequestTimeoutMicroseconds\0").map(|sym| *sym);
        let TRITONSERVER_InferenceRequestPriorityUInt64 =
            __library.get(b"TRITONSERVER_InferenceRequestPriorityUInt64\0").map(|sym| *sym);
        let TRITONSERVER_MetricArgsNew =
            __library.get(b"TRITONSERVER_MetricArgsNew\0").map(|sym| *sym);
        let TRITONSERVER_MetricArgsSetHistogram =
            __library.get(b"TRITONSERVER_MetricArgsSetHistogram\0").map(|sym| *sym);
        let TRITONSERVER_MetricArgsDelete =
            __library.get(b"TRITONSERVER_MetricArgsDelete\0").map(|sym| *sym);
        let TRITONSERVER_MetricNewWithArgs =
            __library.get(b"TRITONSERVER_MetricNewWithArgs\0").map(|sym| *sym);
        let TRITONSERVER_MetricObserve =
            __library.get(b"TRITONSERVER_MetricObserve\0").map(|sym| *sym);
        Ok(Newer {
            __library,
            TRITONBACKEND_ResponseFactoryIsCancelled,
            TRITONSERVER_InferenceRequestTimeoutMicroseconds,
            TRITONSERVER_InferenceRequestPriorityUInt64,
            TRITONSERVER_MetricArgsNew,
            TRITONSERVER_MetricArgsSetHistogram,
            TRITONSERVER_MetricArgsDelete,
            TRITONSERVER_MetricNewWithArgs,
            TRITONSERVER_MetricObserve,
        })
    }
    pub unsafe fn TRITONBACKEND_ResponseFactoryIsCancelled(
        &self,
        factory: *mut TRITONBACKEND_ResponseFactory,
        cancelled: *mut bool_,
    ) -> *mut TRITONSERVER_Error {
        (self
            .TRITONBACKEND_ResponseFactoryIsCancelled
            .as_ref()
            .expect("Expected function, got error."))(factory, cancelled)
    }
    pub unsafe fn TRITONSERVER_InferenceRequestTimeoutMicroseconds(
        &self,
        request: *mut TRITONSERVER_InferenceRequest,
        timeout_us: *mut u64,
    ) -> *mut TRITONSERVER_Error {
        (self
            .TRITONSERVER_InferenceRequestTimeoutMicroseconds
            .as_ref()
            .expect("Expected function, got error."))(request, timeout_us)
    }
    pub unsafe fn TRITONSERVER_InferenceRequestPriorityUInt64(
        &self,
        request: *mut TRITONSERVER_InferenceRequest,
        priority: *mut u64,
    ) -> *mut TRITONSERVER_Error {
        (self
            .TRITONSERVER_InferenceRequestPriorityUInt64
            .as_ref()
            .expect("Expected function, got error."))(request, priority)
    }
    pub unsafe fn TRITONSERVER_MetricArgsNew(
        &self,
        args: *mut *mut TRITONSERVER_MetricArgs,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricArgsNew.as_ref().expect("Expected function, got error."))(args)
    }
    pub unsafe fn TRITONSERVER_MetricArgsSetHistogram(
        &self,
        args: *mut TRITONSERVER_MetricArgs,
        buckets: *const f64,
        bucket_count: u64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricArgsSetHistogram.as_ref().expect("Expected function, got error."))(
            args,
            buckets,
            bucket_count,
        )
    }
    pub unsafe fn TRITONSERVER_MetricArgsDelete(
        &self,
        args: *mut TRITONSERVER_MetricArgs,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricArgsDelete.as_ref().expect("Expected function, got error."))(args)
    }
    pub unsafe fn TRITONSERVER_MetricNewWithArgs(
        &self,
        metric: *mut *mut TRITONSERVER_Metric,
        family: *mut TRITONSERVER_MetricFamily,
        labels: *mut *const TRITONSERVER_Parameter,
        label_count: u64,
        args: *const TRITONSERVER_MetricArgs,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricNewWithArgs.as_ref().expect("Expected function, got error."))(
            metric,
            family,
            labels,
            label_count,
            args,
        )
    }
    pub unsafe fn TRITONSERVER_MetricObserve(
        &self,
        metric: *mut TRITONSERVER_Metric,
        value: f64,
    ) -> *mut TRITONSERVER_Error {
        (self.TRITONSERVER_MetricObserve.as_ref().expect("Expected function, got error."))(
            metric, value,
        )
    }
}
