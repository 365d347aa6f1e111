//! Tasks that take long, tasks that never end, clients that leave.

use std::sync::atomic::AtomicUsize;

use crossbeam::channel::{bounded, unbounded, Sender};

use super::*;
use crate::engine::request::Answer;

const PATIENCE: Duration = Duration::from_secs(20);

struct Told {
    gone: AtomicBool,
    ends: Sender<Error>,
}

impl Client for Told {
    fn cancelled(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    fn respond(&self, _: Answer) {}

    fn finish(&self, outcome: Result<Answer>) {
        let _ = self.ends.send(outcome.expect_err("only errors here"));
    }
}

fn client() -> (Arc<Told>, crossbeam::channel::Receiver<Error>) {
    let (ends, told) = unbounded();
    (Arc::new(Told { gone: AtomicBool::new(false), ends }), told)
}

fn task(client: &Arc<Told>, run: impl FnOnce(&Arc<TaskWatch>) + Send + 'static) -> Task {
    Task { client: client.clone(), run: Box::new(run) }
}

fn workers(threads: usize, limit_ms: u64) -> (Workers, JoinHandle<()>) {
    let limit = Duration::from_millis(limit_ms);
    Workers::start("test".into(), Rules { threads, limit, answers: true }).expect("threads")
}

#[test]
fn a_long_task_gets_its_thread_replaced() {
    let (workers, supervisor) = workers(1, 60_000);
    let (someone, _told) = client();
    let (open, gate) = bounded::<()>(0);
    for _ in 0..3 {
        let gate = gate.clone();
        workers.send(task(&someone, move |_| gate.recv().unwrap_or_default())).unwrap();
    }
    let (done, quick) = bounded(1);
    workers.send(task(&someone, move |_| done.send(()).unwrap_or_default())).unwrap();
    quick.recv_timeout(PATIENCE).expect("not behind the long ones");
    drop(open);
    drop(workers);
    supervisor.join().unwrap();
}

#[test]
fn a_task_beyond_the_limit_is_given_up_and_told_so_once() {
    let (workers, supervisor) = workers(1, 50);
    let (someone, told) = client();
    let (open, gate) = bounded::<()>(0);
    let run = move |watch: &Arc<TaskWatch>| {
        let _ = gate.recv();
        let error = watch.check().expect_err("over long ago");
        watch.refuse(&*watch.client, error);
    };
    workers.send(task(&someone, run)).unwrap();
    let error = told.recv_timeout(PATIENCE).expect("told although the task goes on");
    assert!(
        matches!(&error, Error::InvalidArgument(text)
        if text.contains("50 ms") && text.contains("grammar-timeout-ms")),
        "{error}"
    );
    drop(open);
    drop(workers);
    supervisor.join().unwrap();
    assert!(told.try_recv().is_err(), "told twice");
}

/// Every thread is lost, its replacements too: what comes now is refused, until one is back.
#[test]
fn lost_threads_are_limited() {
    let (workers, supervisor) = workers(1, 30);
    let (someone, told) = client();
    let (open, gate) = bounded::<()>(0);
    for _ in 0..1 + MAX_EXTRA {
        let gate = gate.clone();
        workers.send(task(&someone, move |_| gate.recv().unwrap_or_default())).unwrap();
        told.recv_timeout(PATIENCE).expect("given up");
    }

    let refused = workers.send(task(&someone, |_| {})).expect_err("no thread is left");
    assert!(matches!(&refused, Error::Unavailable(text) if text.contains("9 grammars")));

    open.send_timeout((), PATIENCE).expect("a thread waits");
    let (done, back) = bounded(1);
    let since = Instant::now();
    while workers
        .send(task(&someone, {
            let done = done.clone();
            move |_| done.send(()).unwrap_or_default()
        }))
        .is_err()
    {
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }

    back.recv_timeout(PATIENCE).expect("done by a thread that is back");
    drop(open);
    drop(workers);
    supervisor.join().unwrap();
}

#[test]
fn a_client_that_leaves_ends_its_task_running_or_waiting() {
    let (workers, supervisor) = workers(1, 60_000);
    let (running, told) = client();
    let (begun, began) = bounded(1);
    let run = move |watch: &Arc<TaskWatch>| {
        let _ = begun.send(());
        while !watch.is_given_up() {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    workers.send(task(&running, run)).unwrap();
    began.recv_timeout(PATIENCE).expect("begun");
    running.gone.store(true, Ordering::Release);
    let error = told.recv_timeout(PATIENCE).expect("told");
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    drop(workers);
    supervisor.join().unwrap();
}

#[test]
fn a_panic_costs_its_own_request_and_what_waits_is_done_at_the_end() {
    let (workers, supervisor) = workers(1, 60_000);
    let (someone, told) = client();
    workers.send(task(&someone, |_| panic!("on purpose"))).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let done = done.clone();
        workers
            .send(task(&someone, move |_| {
                done.store(done.load(Ordering::Acquire) + 1, Ordering::Release)
            }))
            .unwrap();
    }
    let late = workers.sender();
    drop(workers);
    supervisor.join().unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE).expect("told"), Error::Internal(_)));
    assert_eq!(done.load(Ordering::Acquire), 20);
    let counted = done.clone();
    let refused = late.send(task(&someone, move |_| counted.store(99, Ordering::Release)));
    assert!(matches!(refused, Err(Error::Unavailable(_))));
    assert_eq!(done.load(Ordering::Acquire), 20, "nobody is there");
}
