//! How a compilation or a token mask is ended before it is done. `engine` implements it for those
//! who wait; the compiler and the matchers obey.

use llguidance::CancellationHandle;

use crate::error::Result;

/// What may interrupt a compilation: a deadline, a client that has gone, an unload.
pub trait Interrupt {
    /// Whether to go on. Asked between the parts of a compilation.
    ///
    /// # Errors
    /// Why it is to end.
    fn check(&self) -> Result<()>;

    /// From here on this handle ends what runs.
    fn stop_by(&self, handle: StopHandle);
}

/// A compilation that takes as long as it takes.
pub struct NeverInterrupted;

impl Interrupt for NeverInterrupted {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn stop_by(&self, _: StopHandle) {}
}

/// Ends a matcher's computation, from another thread.
pub struct StopHandle(CancellationHandle);

impl StopHandle {
    pub(super) fn new(handle: CancellationHandle) -> StopHandle {
        StopHandle(handle)
    }

    /// The computation that runs, and every later one of that matcher, fails within microseconds.
    pub fn stop(&self) {
        self.0.cancel();
    }
}
