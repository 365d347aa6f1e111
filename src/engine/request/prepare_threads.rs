//! The threads that prepare requests which would hold up the caller: one that tokenises long
//! prompts and reads images, and several that compile grammars. `handle` asks which request is one
//! for them; each is passed on to [`Intake`] there, or refused.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{unbounded, Receiver, Sender};

use super::intake::Intake;
use super::types::NewRequest;
use crate::engine::workers::{Rules, Task, TaskWatch, Workers};
use crate::error::{Error, Result};
use crate::internal;
use crate::text::{Interrupt, NeverInterrupted, STACK_BYTES};
use crate::threads;

/// Requests of up to this many bytes of text are prepared on the caller's thread (a fraction of a
/// millisecond); larger ones on a thread of their own, so that one book does not hold up a hundred
/// questions.
const INLINE_BYTES: usize = 16 * 1024;
/// Threads that compile grammars, as long as none takes long: half of the cores, between these.
const COMPILERS: (usize, usize) = (2, 8);

/// The ways to these threads, which end when this is dropped. What waits for them is limited by the
/// engine's tickets and by the length of a prompt.
pub(crate) struct PrepareThreads {
    intake: Arc<Intake>,
    long_prompts: Sender<NewRequest>,
    grammars: Workers,
}

impl PrepareThreads {
    /// `grammar_limit`: what compiling one grammar may take. Beside the result: the threads to
    /// join once it is dropped.
    pub fn start(
        name: &str,
        intake: &Arc<Intake>,
        grammar_limit: Duration,
    ) -> Result<(PrepareThreads, Vec<JoinHandle<()>>)> {
        intake.warn_of_vocabulary(name);

        let (long_prompts, requests) = unbounded();
        let tokenizing = Arc::clone(intake);
        let body = move || tokenize(&tokenizing, &requests);
        let tokenizer = threads::spawn_with_stack(format!("tokenize {name}"), STACK_BYTES, body)?;

        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let compilers = (cores / 2).clamp(COMPILERS.0, COMPILERS.1);
        let rules = Rules { threads: compilers, limit: grammar_limit, answers: true };
        let (grammars, supervisor) = Workers::start(format!("compile {name}"), rules)?;

        let prepare = PrepareThreads { intake: Arc::clone(intake), long_prompts, grammars };
        Ok((prepare, vec![tokenizer, supervisor]))
    }

    /// Is this too much for the caller's own thread?
    pub fn should_take(&self, request: &NewRequest) -> bool {
        has_grammar(request) || has_images(request) || request.work_bytes() > INLINE_BYTES
    }

    /// Have it prepared there.
    ///
    /// # Errors
    /// Unavailable: no thread can take it.
    pub fn send(&self, mut request: NewRequest) -> Result<()> {
        if !has_grammar(&request) {
            let sent = self.long_prompts.send(request);
            return sent.map_err(|_| Error::Unavailable("the model is being unloaded".into()));
        }
        let intake = Arc::clone(&self.intake);
        let client = Arc::clone(request.client_and_options().0);
        let run = move |watch: &Arc<TaskWatch>| {
            let client = Arc::clone(request.client_and_options().0);
            let taken = watch.check().and_then(|()| intake.accept(request, &**watch));
            if let Err(error) = taken {
                watch.refuse(&*client, error);
            }
        };
        self.grammars.send(Task { client, run: Box::new(run) })
    }
}

fn has_grammar(request: &NewRequest) -> bool {
    matches!(request, NewRequest::Generate(request) if request.params.structured_outputs.is_some())
}

/// A small file may be a large picture.
fn has_images(request: &NewRequest) -> bool {
    matches!(request, NewRequest::Generate(request) if !request.images.is_empty())
}

/// The body of the thread that tokenises long prompts.
fn tokenize(intake: &Intake, requests: &Receiver<NewRequest>) {
    for mut request in requests {
        let client = request.client_and_options().0.clone();
        let refused = match client.gone() {
            // A parser that panics costs its own request only.
            None => threads::catch(|| intake.accept(request, &NeverInterrupted))
                .unwrap_or_else(|_| Err(internal!("a fault in reading the request")))
                .err(),
            Some(gone) => {
                tracing::info!("Cancelling the request");
                tracing::info!("Successfully cancelled the request");
                Some(gone)
            }
        };
        if let Some(error) = refused {
            client.finish(Err(error));
        }
    }
}
