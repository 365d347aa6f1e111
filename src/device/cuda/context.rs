//! A GPU: driver probe, primary context, streams, events, and whether launches are made, recorded
//! or left to a graph. The rest of `device::cuda` builds on it; it knows no kernel and no op.
//!
//! Everything goes through cudarc's `sys`, which opens libcuda at the first call and panics where a
//! symbol is missing. [`Context::open`] therefore looks every symbol up before the first call: what
//! is not there is an error with a sentence on what to install. cudarc's safe layer (and its event
//! tracking) is not used.

use std::ffi::{c_char, c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use parking_lot::Mutex;

use super::device_ptr::DevicePtr;
use crate::error::{Error, Result};
use crate::internal;

/// Every driver function that `device::cuda` uses (build/symbols.rs).
const SYMBOLS: &[&str] = include!(concat!(env!("OUT_DIR"), "/driver_symbols.rs"));

/// The oldest architecture that the kernels are compiled for.
const OLDEST_CAPABILITY: u32 = 80;

/// `Err` with the driver's own words unless `code` is success.
pub fn check(code: CUresult, what: &str) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = ptr::null();
        // SAFETY: the driver sets `text` to a static string, or to null for an unknown code.
        unsafe {
            get(code, &mut text);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("code {}", code as u32));
    let words = text(sys::cuGetErrorString).unwrap_or_default();
    Err(internal!("CUDA: {what} failed: {name} ({words})"))
}

/// How many GPUs the driver shows (after CUDA_VISIBLE_DEVICES); 0 where there is no driver at all.
///
/// # Errors
/// A driver that is there but broken or too old: one line on what to change.
pub fn count() -> Result<usize> {
    // SAFETY: opens the driver's library if there is one.
    if !unsafe { sys::is_culib_present() } {
        return Ok(0);
    }
    // SAFETY: the library is there, so `culib` does not panic; the symbols are only looked up.
    let missing = SYMBOLS
        .iter()
        .find(|name| unsafe { sys::culib().get::<*const c_void>(name.as_bytes()).is_err() });
    if let Some(name) = missing {
        return Err(Error::Unavailable(format!(
            "The NVIDIA driver is too old: libcuda.so.1 has no {name}. Install driver 525 or newer."
        )));
    }
    let mut count = 0;
    // SAFETY: all symbols are there; `count` outlives the call.
    let (started, counted) = unsafe { (sys::cuInit(0), sys::cuDeviceGetCount(&mut count)) };
    if started == CUresult::CUDA_ERROR_NO_DEVICE {
        return Ok(0);
    }
    check(started, "cuInit")
        .and_then(|()| check(counted, "cuDeviceGetCount"))
        .map_err(|e| Error::Unavailable(format!("The NVIDIA driver does not work: {e}")))?;
    Ok(count as usize)
}

/// The version of CUDA that the driver has, e.g. 12090; 0 if it does not say.
pub fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: a live integer; the symbols were looked up before a context was opened.
    match unsafe { sys::cuDriverGetVersion(&mut version) } {
        CUresult::CUDA_SUCCESS => version,
        _ => 0,
    }
}

/// One GPU: its primary context and the one stream that all work of a device goes to.
pub struct Context {
    pub(super) device: sys::CUdevice,
    pub(super) context: sys::CUcontext,
    stream: sys::CUstream,
    /// Only ever recorded, never run.
    recorder: sys::CUstream,
    pub name: String,
    /// Compute capability, e.g. 90 for 9.0.
    pub capability: u32,
    pub multiprocessors: u32,
    /// Shared memory that one block may take, in bytes.
    pub shared_bytes: usize,
    /// Device memory taken through this context, in bytes.
    pub(super) taken: AtomicU64,
    /// What becomes of launches, as [`Mode`] in its order, and a hash of those since it was set.
    mode: AtomicU8,
    trail: AtomicU64,
    /// What is to be launched before anything else is, and what went wrong when it was.
    deferred: Mutex<Option<Deferred>>,
    failed: Mutex<Option<Error>>,
}

/// A launch that waits to see whether the next one does its work too.
struct Deferred {
    /// What it writes.
    of: DevicePtr,
    launch: Later,
}

type Later = Box<dyn FnOnce(&Context) -> Result<()> + Send>;

/// What a launch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is enqueued.
    Direct,
    /// It is enqueued, and written into a graph.
    Record,
    /// Nothing: a graph does it later.
    Replay,
}

// SAFETY: the driver's handles may be used from any thread; a call needs the context current on its
// thread, which `bind` does.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

impl Context {
    /// # Errors
    /// No driver, no such GPU, an unsupported one: one line each.
    pub fn open(ordinal: usize) -> Result<Arc<Context>> {
        let count = count()?;
        if ordinal >= count {
            return Err(Error::NotFound(format!(
                "GPU {ordinal} was asked for (instance_group in config.pbtxt), {count} are visible."
            )));
        }
        let mut device = 0;
        // SAFETY: the ordinal exists; all pointers are to live values of the right size.
        check(unsafe { sys::cuDeviceGet(&mut device, ordinal as i32) }, "cuDeviceGet")?;
        let name = device_name(device)?;
        let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let capability = major * 10 + minor;
        if capability < OLDEST_CAPABILITY {
            return Err(Error::Unsupported(format!(
                "GPU {ordinal} ({name}) has compute capability {major}.{minor}; 8.0 or newer is \
                 needed (A100, L4, RTX 30 and later)."
            )));
        }
        let multiprocessors =
            attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_bytes =
            attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?
                as usize;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        let mut recorder = ptr::null_mut();
        const NON_BLOCKING: u32 = 1;
        // SAFETY: `device` is valid and the context, once retained, is made current before the
        // stream is created in it; Drop releases both.
        unsafe {
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "cuDevicePrimaryCtxRetain")?;
            check(sys::cuCtxSetCurrent(context), "cuCtxSetCurrent")?;
            check(sys::cuStreamCreate(&mut stream, NON_BLOCKING), "cuStreamCreate")?;
            check(sys::cuStreamCreate(&mut recorder, NON_BLOCKING), "cuStreamCreate")?;
        }
        let taken = AtomicU64::new(0);
        Ok(Arc::new(Context {
            device,
            context,
            stream,
            recorder,
            name,
            capability,
            multiprocessors,
            shared_bytes,
            taken,
            mode: AtomicU8::new(Mode::Direct as u8),
            trail: AtomicU64::new(0),
            deferred: Mutex::default(),
            failed: Mutex::default(),
        }))
    }

    /// Make the context current on this thread. Cheap; every entry from outside does it first.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "cuCtxSetCurrent")
    }

    /// For calls that enqueue something themselves.
    pub fn stream(&self) -> sys::CUstream {
        self.settle();
        self.stream
    }

    /// Have `launch`, which writes `of`, made before whatever is enqueued next; unless that is what
    /// takes it.
    pub fn defer(
        &self,
        of: DevicePtr,
        launch: impl FnOnce(&Context) -> Result<()> + Send + 'static,
    ) {
        self.settle();
        *self.deferred.lock() = Some(Deferred { of, launch: Box::new(launch) });
    }

    /// Whether what writes `of` was deferred; if so, it is the caller's now.
    pub fn take_deferred(&self, of: DevicePtr) -> bool {
        self.deferred.lock().take_if(|deferred| deferred.of == of).is_some()
    }

    /// What is deferred is never made: the memory that it writes goes.
    pub fn forget_deferred(&self) {
        *self.deferred.lock() = None;
    }

    /// Nothing is deferred any more. What goes wrong the next launch says.
    fn settle(&self) {
        let deferred = self.deferred.lock().take();
        if let Some(Err(error)) = deferred.map(|deferred| (deferred.launch)(self)) {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// From here on launches do this. The mode until now, and the hash of what it met.
    pub fn set_mode(&self, mode: Mode) -> (Mode, u64) {
        self.settle();
        // One thread launches at a time, so the order of two relaxed accesses is its own.
        let old = match self.mode.swap(mode as u8, Ordering::Relaxed) {
            0 => Mode::Direct,
            1 => Mode::Record,
            _ => Mode::Replay,
        };
        (old, self.trail.swap(0, Ordering::Relaxed))
    }

    /// Make a launch by `launch`, as the mode says: on the stream it gets, once, twice or not at
    /// all. `what` (an address, or another value) and `size` tell it from other launches. What goes
    /// wrong while recording shows at the recording's end.
    pub fn launch(
        &self,
        what: u64,
        size: u64,
        mut launch: impl FnMut(sys::CUstream) -> Result<()>,
    ) -> Result<()> {
        self.settle();
        if let Some(error) = self.failed.lock().take() {
            return Err(error);
        }
        let mode = self.mode.load(Ordering::Relaxed);
        if mode == Mode::Direct as u8 {
            return launch(self.stream);
        }
        // FNV-1a, a word at a time.
        const PRIME: u64 = 0x100_0000_01b3;
        let trail = self.trail.load(Ordering::Relaxed);
        let trail = ((trail ^ what).wrapping_mul(PRIME) ^ size).wrapping_mul(PRIME);
        self.trail.store(trail, Ordering::Relaxed);
        if mode != Mode::Record as u8 {
            return Ok(());
        }
        let _ = launch(self.recorder);
        launch(self.stream)
    }

    pub fn recorder(&self) -> sys::CUstream {
        self.recorder
    }

    /// (total, free) bytes of the GPU's memory.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: two live usizes.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "cuMemGetInfo")?;
        Ok((total as u64, free as u64))
    }

    /// Wait until the stream is empty.
    pub fn synchronise(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        check(unsafe { sys::cuStreamSynchronize(self.stream()) }, "a step on the GPU")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: handles made in `open`, released once; memory and modules hold an Arc of us, so
        // none is left. Errors are ignored: after a fault every call fails, and there is nothing
        // left to do.
        unsafe {
            sys::cuCtxSetCurrent(self.context);
            sys::cuStreamSynchronize(self.stream);
            sys::cuStreamDestroy_v2(self.recorder);
            sys::cuStreamDestroy_v2(self.stream);
            sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

fn attribute(device: sys::CUdevice, which: Attribute) -> Result<u32> {
    let mut value = 0;
    // SAFETY: a valid device and a live integer.
    check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "cuDeviceGetAttribute")?;
    Ok(value as u32)
}

fn device_name(device: sys::CUdevice) -> Result<String> {
    let mut name = [0 as c_char; 128];
    // SAFETY: the length is the buffer's, and the driver terminates what it writes.
    unsafe {
        check(sys::cuDeviceGetName(name.as_mut_ptr(), 128, device), "cuDeviceGetName")?;
        Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

/// A point in the stream.
pub struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: the driver's handle may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// `timed`: for `since`; an untimed one is cheaper.
    pub fn new(context: &Arc<Context>, timed: bool) -> Result<Event> {
        context.bind()?;
        const DISABLE_TIMING: u32 = 2;
        let mut event = ptr::null_mut();
        let flags = if timed { 0 } else { DISABLE_TIMING };
        // SAFETY: a live handle to write to.
        check(unsafe { sys::cuEventCreate(&mut event, flags) }, "cuEventCreate")?;
        Ok(Event { context: context.clone(), event })
    }

    pub fn record(&self) -> Result<()> {
        // SAFETY: event and stream live.
        check(unsafe { sys::cuEventRecord(self.event, self.context.stream()) }, "cuEventRecord")
    }

    /// Wait until the stream has passed the last record; at once if there was none.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the event lives.
        check(unsafe { sys::cuEventSynchronize(self.event) }, "a step on the GPU")
    }

    /// What is enqueued on the stream of `other`, on the same GPU, from here on waits until ours
    /// has passed the last record.
    pub fn hold(&self, other: &Context) -> Result<()> {
        // SAFETY: event and stream live; the driver keeps what it needs of the event.
        check(unsafe { sys::cuStreamWaitEvent(other.stream, self.event, 0) }, "cuStreamWaitEvent")
    }

    /// Milliseconds from `start` to here; both were recorded, timed, and this one was waited for.
    pub fn since_ms(&self, start: &Event) -> Result<f32> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;
        let mut ms = 0.0;
        // SAFETY: the symbol was found in `count` and has this type in every driver (cudarc for
        // CUDA 13 only knows its successor, which older drivers have not); two live events and a
        // live float.
        let code = unsafe {
            let elapsed = sys::culib().get::<Elapsed>(b"cuEventElapsedTime");
            let elapsed = elapsed.map_err(|e| internal!("cuEventElapsedTime: {e}"))?;
            elapsed(&mut ms, start.event, self.event)
        };
        check(code, "cuEventElapsedTime").map(|()| ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once; the driver defers it until the stream has passed.
        unsafe {
            sys::cuCtxSetCurrent(self.context.context);
            sys::cuEventDestroy_v2(self.event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SYMBOLS;

    #[test]
    fn symbols_are_those_that_are_used() {
        let used = [
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            // Named in a byte string, and passed on.
            "cuEventElapsedTime",
            "cuGetErrorName",
            "cuMemAlloc_v2",
        ];
        for name in used {
            assert!(SYMBOLS.contains(&name), "{name} is not among {SYMBOLS:?}");
        }
        // What only messages name, types, and the other library's.
        for name in ["cuMemAlloc", "cuMemGetInfo", "cublasLtCreate"] {
            assert!(!SYMBOLS.contains(&name), "{name}");
        }
        assert!(SYMBOLS.iter().all(|name| !name.starts_with("CU")));
    }
}
