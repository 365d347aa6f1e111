//! The promise to an accepted request: exactly one end, whatever happens. Each client is wrapped in
//! a [`Ticket`] when its request is accepted; the engine's threads talk to the ticket only, and
//! [`Tickets`] can end all of them at once, from any thread, also while the engine thread is stuck.
//! Used by `handle` and `health`; it never knows tokens, steps or devices.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::client::{Answer, Client};
use super::types::RequestOptions;
use crate::error::{Error, Result};
use crate::invalid;

/// How many sequences may run and wait, and which keys say so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimit {
    pub sequences: usize,
    pub keys: &'static str,
}

#[cfg(test)]
impl QueueLimit {
    pub fn new(sequences: usize) -> QueueLimit {
        QueueLimit { sequences, keys: "max-waiting" }
    }
}

/// All requests that were accepted and have not ended, of at most `limit` sequences.
pub(crate) struct Tickets {
    open: Mutex<Open>,
    limit: QueueLimit,
}

#[derive(Default)]
struct Open {
    /// Weak: a ticket that every thread has dropped must end by its own `Drop`.
    tickets: HashMap<u64, Weak<Ticket>>,
    /// Of all tickets.
    sequences: usize,
    next: u64,
    /// Nobody is accepted any more, and why. Under the same lock as the map, so that no request
    /// slips in behind `close`.
    closed: Option<Error>,
}

impl Tickets {
    pub fn new(limit: QueueLimit) -> Arc<Tickets> {
        Arc::new(Tickets { open: Mutex::default(), limit })
    }

    /// Sequences of open requests.
    pub fn len(&self) -> usize {
        self.open.lock().sequences
    }

    /// Whether so many more would be accepted now.
    pub fn has_room(&self, sequences: usize) -> bool {
        self.open.lock().sequences + sequences <= self.limit.sequences
    }

    /// Accept the client of a request for `sequences` sequences or refuse it at once.
    ///
    /// # Errors
    /// InvalidArgument: more than the limit for one alone. Unavailable: the limit is reached, or
    /// the cause of [`Tickets::close`].
    pub fn admit(
        self: &Arc<Self>,
        client: Arc<dyn Client>,
        options: &RequestOptions,
        sequences: usize,
    ) -> Result<Arc<Ticket>> {
        let mut open = self.open.lock();
        if let Some(error) = &open.closed {
            return Err(error.clone());
        }

        let QueueLimit { sequences: limit, keys } = self.limit;
        if sequences > limit && limit > 0 {
            return Err(invalid!(
                "n is {sequences}, but at most {limit} sequences may run and wait: lower n, or \
                 raise {keys}"
            ));
        }
        if open.sequences + sequences > limit {
            return Err(Error::Unavailable(format!(
                "{} requests are running or waiting, and {limit} is the limit: retry later, or \
                 raise {keys}",
                open.sequences
            )));
        }

        let id = open.next;
        open.next += 1;
        open.sequences += sequences;
        let ticket = Arc::new(Ticket {
            id,
            sequences,
            tickets: Arc::clone(self),
            client,
            timeout: options.timeout.map(|timeout| (timeout, Instant::now() + timeout)),
            ended: Mutex::new(false),
            last: OnceLock::new(),
        });
        open.tickets.insert(id, Arc::downgrade(&ticket));
        Ok(ticket)
    }

    /// End everyone with `error` and accept nobody from now on. The first error stays for those
    /// who still come.
    pub fn close(&self, error: &Error) {
        let open: Vec<Arc<Ticket>> = {
            let mut open = self.open.lock();
            open.closed.get_or_insert_with(|| error.clone());
            open.tickets.values().filter_map(Weak::upgrade).collect()
        };
        for ticket in open {
            ticket.end_soon(error.clone());
        }
    }
}

/// One accepted request.
pub(crate) struct Ticket {
    id: u64,
    sequences: usize,
    tickets: Arc<Tickets>,
    client: Arc<dyn Client>,
    /// How long the client wants to wait, and until when that is.
    timeout: Option<(Duration, Instant)>,
    /// Held while the client is called, so that no delta overtakes the end.
    ended: Mutex<bool>,
    /// How it ends as soon as no thread is in a call of the client.
    last: OnceLock<Error>,
}

impl Ticket {
    /// The request was refused after all, by an error that its caller passes on.
    pub fn withdraw(&self) {
        *self.ended.lock() = true;
        self.forget();
    }

    /// End it without waiting for a thread that is in a call of the client: that one does it then.
    fn end_soon(&self, error: Error) {
        let _ = self.last.set(error);
        self.settle();
    }

    /// Called after `last` was set and after each call of the client, so by one or the other.
    fn settle(&self) {
        let Some(error) = self.last.get() else { return };
        if let Some(mut ended) = self.ended.try_lock() {
            self.end(&mut ended, Err(error.clone()));
        }
    }

    fn end(&self, ended: &mut bool, outcome: Result<Answer>) {
        if std::mem::replace(ended, true) {
            return;
        }
        // It no longer counts before the client hears of the end: that may come back at once.
        self.forget();
        self.client.finish(outcome);
    }

    fn forget(&self) {
        let mut open = self.tickets.open.lock();
        if open.tickets.remove(&self.id).is_some() {
            open.sequences -= self.sequences;
        }
    }
}

impl Client for Ticket {
    fn cancelled(&self) -> bool {
        // Held by a thread that is answering: not ended yet, and the question comes again.
        self.ended.try_lock().is_some_and(|ended| *ended) || self.client.cancelled()
    }

    fn gone(&self) -> Option<Error> {
        if self.cancelled() {
            return Some(Error::Cancelled("Request was cancelled".into()));
        }
        let (timeout, at) = self.timeout?;
        (Instant::now() >= at).then(|| {
            Error::Unavailable(format!(
                "the request's timeout of {} us expired before it was finished: raise its \
                 parameter 'timeout'",
                timeout.as_micros()
            ))
        })
    }

    fn ready(&self) -> bool {
        self.client.ready()
    }

    fn respond(&self, answer: Answer) {
        let ended = self.ended.lock();
        if !*ended {
            self.client.respond(answer);
        }
        drop(ended);
        self.settle();
    }

    fn finish(&self, outcome: Result<Answer>) {
        self.end(&mut self.ended.lock(), outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            self.finish(Err(Error::Unavailable("the engine gave this request up".into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Heard {
        deltas: AtomicUsize,
        ends: Mutex<Vec<Option<Error>>>,
    }

    impl Client for Heard {
        fn cancelled(&self) -> bool {
            false
        }

        fn respond(&self, _: Answer) {
            self.deltas.fetch_add(1, Ordering::AcqRel);
        }

        fn finish(&self, outcome: Result<Answer>) {
            self.ends.lock().push(outcome.err());
        }
    }

    fn answer() -> Answer {
        Answer { prompt_tokens: 1, outputs: Vec::new() }
    }

    #[test]
    fn a_ticket_ends_once_and_hears_nothing_after() {
        let (tickets, heard) = (Tickets::new(QueueLimit::new(1)), Arc::new(Heard::default()));
        let ticket = tickets.admit(heard.clone(), &RequestOptions::default(), 1).unwrap();
        let full = tickets.admit(heard.clone(), &RequestOptions::default(), 1).err().expect("full");
        assert!(full.message().starts_with("1 requests"), "{full}");
        ticket.respond(answer());
        ticket.finish(Ok(answer()));
        assert_eq!(tickets.len(), 0);
        ticket.finish(Err(Error::Unavailable("late".into())));
        ticket.respond(answer());
        tickets.close(&Error::Unavailable("closed".into()));
        assert!(ticket.cancelled());
        drop(ticket);
        assert_eq!(*heard.ends.lock(), [None]);
        assert_eq!(heard.deltas.load(Ordering::Acquire), 1);
    }

    #[test]
    fn a_dropped_ticket_ends_by_itself_and_a_withdrawn_one_says_nothing() {
        let (tickets, heard) = (Tickets::new(QueueLimit::new(8)), Arc::new(Heard::default()));
        drop(tickets.admit(heard.clone(), &RequestOptions::default(), 1).unwrap());
        assert!(matches!(heard.ends.lock()[..], [Some(Error::Unavailable(_))]));
        tickets.admit(heard.clone(), &RequestOptions::default(), 1).unwrap().withdraw();
        assert_eq!((heard.ends.lock().len(), tickets.len()), (1, 0));
    }

    #[test]
    fn closing_ends_all_and_refuses_those_who_come_later() {
        let (tickets, heard) = (Tickets::new(QueueLimit::new(8)), Arc::new(Heard::default()));
        let all: Vec<_> = (0..3)
            .map(|_| tickets.admit(heard.clone(), &RequestOptions::default(), 1).unwrap())
            .collect();
        tickets.close(&Error::Unavailable("first".into()));
        tickets.close(&Error::Unavailable("second".into()));
        let first = Some(Error::Unavailable("first".into()));
        assert_eq!(*heard.ends.lock(), [first.clone(), first.clone(), first.clone()]);
        assert_eq!(tickets.admit(heard.clone(), &RequestOptions::default(), 1).err(), first);
        drop(all);
        assert_eq!(heard.ends.lock().len(), 3);
    }

    #[test]
    fn a_timeout_is_told_with_its_number() {
        let (tickets, heard) = (Tickets::new(QueueLimit::new(8)), Arc::new(Heard::default()));
        let options = |us| RequestOptions {
            timeout: Some(Duration::from_micros(us)),
            ..RequestOptions::default()
        };
        let patient = tickets.admit(heard.clone(), &options(60_000_000), 1).unwrap();
        assert!(patient.gone().is_none());
        let hasty = tickets.admit(heard.clone(), &options(0), 1).unwrap();
        let error = hasty.gone().expect("it expired");
        assert!(matches!(error, Error::Unavailable(_)) && error.message().contains("0 us"));
    }
}
