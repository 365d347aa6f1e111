//! Threads as ranks, and a list of what was enqueued on each GPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Turns;

const STEPS: usize = 300;

/// Group and step, in the order in which a GPU got them.
type Steps = Vec<(usize, usize)>;

/// Numbers of GPUs that no other test uses.
fn gpus(first: i32, of: &[i32]) -> Vec<i32> {
    of.iter().map(|gpu| first + gpu).collect()
}

/// Every GPU gets the steps of all groups in the same order, whichever ranks are quick.
#[test]
fn steps_come_in_one_order_on_all_gpus() {
    let groups = [[0, 1], [1, 2], [2, 0], [0, 1]];
    let log: Arc<Vec<Mutex<Steps>>> = Arc::new((0..3).map(|_| Mutex::default()).collect());
    let mut threads = Vec::new();
    for (group, own) in groups.into_iter().enumerate() {
        let turns = Arc::new(Turns::new(gpus(100, &own)));
        for (rank, gpu) in own.into_iter().enumerate() {
            let (turns, log) = (Arc::clone(&turns), Arc::clone(&log));
            threads.push(std::thread::spawn(move || {
                for step in 0..STEPS {
                    turns.begin(rank);
                    log[gpu as usize].lock().push((group, step));
                    if (step + group + rank) % 7 == 0 {
                        std::thread::yield_now();
                    }
                    log[gpu as usize].lock().push((group, step));
                    turns.end(rank);
                }
            }));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        let (a, b) = (log[a].lock().clone(), log[b].lock().clone());
        // Groups with both GPUs, in the order in which each GPU got their steps.
        let of_both = |steps: &[(usize, usize)], other: &[(usize, usize)]| -> Vec<(usize, usize)> {
            let is_in = |group| other.iter().any(|step| step.0 == group);
            steps.iter().copied().filter(|step| is_in(step.0)).collect()
        };
        let order = of_both(&a, &b);
        assert!(order.len() >= 2 * STEPS && order == of_both(&b, &a));
    }
}

#[test]
fn a_lost_rank_gives_its_turn_back() {
    let lost = Turns::new(gpus(200, &[0, 1]));
    let other = Arc::new(Turns::new(gpus(200, &[1, 2])));
    // Its second rank never comes.
    lost.begin(0);
    lost.end(0);
    let done = Arc::new(AtomicBool::new(false));
    let (waits, told) = (Arc::clone(&other), Arc::clone(&done));
    let thread = std::thread::spawn(move || {
        waits.begin(0);
        told.store(true, Ordering::SeqCst);
    });
    std::thread::sleep(Duration::from_millis(30));
    assert!(!done.load(Ordering::SeqCst));
    lost.close();
    thread.join().unwrap();
    assert!(done.load(Ordering::SeqCst));
    // Nobody waits in a place that is closed.
    lost.begin(1);
    lost.end(1);
}

#[test]
fn groups_apart_do_not_wait() {
    let one = Turns::new(gpus(300, &[0, 1]));
    let other = Turns::new(gpus(300, &[2, 3]));
    one.begin(0);
    other.begin(0);
    other.begin(1);
    one.begin(1);
    // A group does not wait for itself either.
    one.end(0);
    one.begin(0);
}

/// A group is alone on its GPUs until another one comes, and again when that is gone.
#[test]
fn a_group_is_alone_on_its_gpus() {
    let one = Turns::new(gpus(400, &[0, 1]));
    let apart = Turns::new(gpus(400, &[2, 3]));
    assert!(one.is_alone() && apart.is_alone());
    let between = Turns::new(gpus(400, &[1, 2]));
    assert!(!one.is_alone() && !apart.is_alone() && !between.is_alone());
    drop(between);
    assert!(one.is_alone() && apart.is_alone());
}
