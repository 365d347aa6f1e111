//! The threads that prepare requests which would hold up the caller: several that tokenise prompts,
//! others for the longest of them, one that reads images, several that compile grammars, and
//! several that fetch images of URLs. `handle` asks which request is one for them; each is passed
//! on to [`Intake`] there, or refused.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{unbounded, Receiver, Sender};
use crossbeam::select;
use parking_lot::Mutex;

use super::client::Client;
use super::images::ImageIntake;
use super::intake::Intake;
use super::types::NewRequest;
use crate::engine::workers::{Rules, Task, TaskSender, TaskWatch, Workers};
use crate::error::{Error, Result};
use crate::internal;
use crate::text::{
    Interrupt, NeverInterrupted, PieceCall, StopHandle, LONG_TEXT_BYTES, STACK_BYTES,
};
use crate::threads;

/// Requests of up to this many bytes of text are prepared on the caller's thread. A server calls
/// with one request after the other, and tokenising takes some 3 MB a second: 64 chats of 14 KB
/// that come at once would have the last one wait for a third of a second.
const INLINE_BYTES: usize = 2 * 1024;
/// Texts from here on take tens of milliseconds to seconds. They have threads of their own, so that
/// no number of books holds up a question, and these help each other.
const BOOK_BYTES: usize = LONG_TEXT_BYTES;
/// Threads that tokenise, as many for books, and that compile grammars, as long as none takes long:
/// half of the cores, between these.
const THREADS: (usize, usize) = (2, 8);
/// Threads that fetch images, where that is allowed: each waits for a host, up to 30 s a request.
const FETCHERS: usize = 8;

/// The ways to these threads, which end when this is dropped. What waits for them is limited by the
/// engine's tickets and by the length of a prompt.
pub(crate) struct PrepareThreads {
    intake: Arc<Intake>,
    prompts: Sender<NewRequest>,
    books: Sender<NewRequest>,
    images: Sender<NewRequest>,
    grammars: Workers,
    /// None: no image may be fetched.
    fetches: Option<Sender<NewRequest>>,
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

        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let several = (cores / 2).clamp(THREADS.0, THREADS.1);
        let mut all = Vec::new();
        let mut start = |what: &str, count, body: Accept| -> Result<Sender<NewRequest>> {
            let (sender, requests) = unbounded();
            for n in 0..count {
                let (intake, requests) = (Arc::clone(intake), requests.clone());
                let body = move || body(&intake, &requests);
                let name = format!("{what}{n} {name}");
                all.push(threads::spawn_with_stack(name, STACK_BYTES, body)?);
            }
            Ok(sender)
        };
        let prompts = start("tokenize", several, accept_all)?;
        let books = start("book", several, accept_books)?;

        let rules = Rules { threads: several, limit: grammar_limit, answers: true };
        let (grammars, supervisor) = Workers::start(format!("compile {name}"), rules)?;
        all.push(supervisor);

        let turn = Arc::new(Mutex::new(()));
        let mut start_images = |what: &str, count| -> Result<Sender<NewRequest>> {
            let (sender, requests) = unbounded();
            for n in 0..count {
                let (intake, requests) = (Arc::clone(intake), requests.clone());
                let (grammars, turn) = (grammars.sender(), Arc::clone(&turn));
                let body = move || read_images(&intake, &requests, &grammars, &turn);
                let name = format!("{what}{n} {name}");
                all.push(threads::spawn_with_stack(name, STACK_BYTES, body)?);
            }
            Ok(sender)
        };
        let images = start_images("image", 1)?;
        let fetching = intake.images.as_ref().is_some_and(ImageIntake::fetches);
        let fetches = fetching.then(|| start_images("fetch", FETCHERS)).transpose()?;
        let intake = Arc::clone(intake);
        Ok((PrepareThreads { intake, prompts, books, images, grammars, fetches }, all))
    }

    /// Is this too much for the caller's own thread?
    pub fn should_take(&self, request: &NewRequest) -> bool {
        has_grammar(request) || has_images(request) || request.work_bytes() > INLINE_BYTES
    }

    /// Have it prepared there.
    ///
    /// # Errors
    /// Unavailable: no thread can take it.
    pub fn send(&self, request: NewRequest) -> Result<()> {
        let lost = |_| Error::Unavailable("the model is being unloaded".into());
        if let Some(fetches) = self.fetches.as_ref().filter(|_| has_urls(&request)) {
            return fetches.send(request).map_err(lost);
        }
        // Ahead of the grammar: they take memory, and none of the grammar's time.
        if has_images(&request) {
            return self.images.send(request).map_err(lost);
        }
        if has_grammar(&request) {
            let mut request = request;
            let client = Arc::clone(request.client_and_options().0);
            let accept = |intake: &Intake, watch: &TaskWatch| intake.accept(request, watch);
            return self.grammars.send(grammar_task(&self.intake, client, accept));
        }
        let threads = match request.work_bytes() < BOOK_BYTES {
            true => &self.prompts,
            false => &self.books,
        };
        threads.send(request).map_err(lost)
    }
}

/// Have a request of that client accepted where its grammar has a clock.
fn grammar_task(
    intake: &Arc<Intake>,
    client: Arc<dyn Client>,
    accept: impl FnOnce(&Intake, &TaskWatch) -> Result<()> + Send + 'static,
) -> Task {
    let (intake, told) = (Arc::clone(intake), Arc::clone(&client));
    let run = move |watch: &Arc<TaskWatch>| {
        let taken = watch.check().and_then(|()| accept(&intake, watch));
        if let Err(error) = taken {
            watch.refuse(&*told, error);
        }
    };
    Task { client, run: Box::new(run) }
}

fn has_urls(request: &NewRequest) -> bool {
    match request {
        NewRequest::Generate(request) => request.images.iter().any(|image| image.url().is_some()),
        NewRequest::Embed(_) => false,
    }
}

fn has_grammar(request: &NewRequest) -> bool {
    matches!(request, NewRequest::Generate(request) if request.params.structured_outputs.is_some())
}

/// A small file may be a large picture.
fn has_images(request: &NewRequest) -> bool {
    matches!(request, NewRequest::Generate(request) if !request.images.is_empty())
}

/// What a thread does with an intake, and with the requests that come.
type Accept = fn(&Intake, &Receiver<NewRequest>);

/// The body of a thread that tokenises.
fn accept_all(intake: &Intake, requests: &Receiver<NewRequest>) {
    for request in requests {
        prepare(request, |request| intake.accept(request, &NeverInterrupted));
    }
}

/// The body of a thread that tokenises books, and pieces of those that others have begun: these
/// first, so that the first book is ready first, and so that what waits is as much as the threads
/// that ask.
fn accept_books(intake: &Intake, requests: &Receiver<NewRequest>) {
    let helper = intake.tokenizer.helper();
    let accept = |request| intake.accept(request, &NeverInterrupted);
    loop {
        helper.calls().try_iter().for_each(PieceCall::help);
        select! {
            recv(helper.calls()) -> call => call.into_iter().for_each(PieceCall::help),
            recv(requests) -> request => match request {
                Ok(request) => prepare(request, accept),
                Err(_) => return,
            },
        }
    }
}

/// The body of a thread that reads images, those of URLs once it has fetched them: one request
/// after the other, whose `turn` it is, for a small file may be a large picture.
fn read_images(
    intake: &Arc<Intake>,
    requests: &Receiver<NewRequest>,
    grammars: &TaskSender,
    turn: &Mutex<()>,
) {
    for request in requests {
        prepare(request, |request| {
            let NewRequest::Generate(mut request) = request else {
                return intake.accept(request, &NeverInterrupted);
            };
            if let Some(images) = &intake.images {
                images.fetch(&mut request.images, &*request.client)?;
            }
            let client = Arc::clone(&request.client);
            let prompt = {
                let _turn = turn.lock();
                intake.read(&mut request, &WhileThere(&*client))?
            };

            if request.params.structured_outputs.is_none() {
                return intake.accept_read(*request, prompt, &NeverInterrupted);
            }
            let accept =
                |intake: &Intake, watch: &TaskWatch| intake.accept_read(*request, prompt, watch);
            grammars.send(grammar_task(intake, client, accept))
        });
    }
}

/// Ends what is done for a client that has left, or that no longer wants to wait.
struct WhileThere<'a>(&'a dyn Client);

impl Interrupt for WhileThere<'_> {
    fn check(&self) -> Result<()> {
        self.0.gone().map_or(Ok(()), Err)
    }

    fn stop_by(&self, _: StopHandle) {}
}

/// Do that with a request, unless its client has left; tell the client if it cannot be done.
fn prepare(mut request: NewRequest, work: impl FnOnce(NewRequest) -> Result<()>) {
    let client = request.client_and_options().0.clone();
    let refused = match client.gone() {
        // A parser that panics costs its own request only.
        None => threads::catch(|| work(request))
            .unwrap_or_else(|_| Err(internal!("a fault in reading the request")))
            .err(),
        gone => gone,
    };
    let Some(error) = refused else { return };
    if matches!(error, Error::Cancelled(_)) {
        tracing::info!("Cancelling the request");
        tracing::info!("Successfully cancelled the request");
    }
    client.finish(Err(error));
}
