//! Ranks that fail, panic, disagree or are let go of: one error, and nobody hangs. They sum through
//! the CPU's group as devices do.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::device::cpu::buffer::Tensor;
use crate::device::cpu::ranks::{Group, Member};
use crate::device::Collective;
use crate::ids::{SlotId, TokenId};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Error,
    Panic,
    OtherToken,
    /// In `collect`, once the others are done.
    LateError,
}

/// Meets the others in each step.
struct Summing {
    member: Member,
    /// From step 2 on.
    fault: Fault,
    step: u64,
}

impl Runner for Summing {
    fn depth(&self) -> usize {
        1
    }

    fn install(&mut self, _: AdapterSlotId, _: &Arc<Adapter>) -> Result<()> {
        Ok(())
    }

    fn forward(&mut self, plan: &StepPlan) -> Result<()> {
        self.step = plan.step;
        match self.fault {
            Fault::Error if plan.step >= 2 => return Err(internal!("scripted")),
            Fault::Panic if plan.step >= 2 => panic!("scripted panic"),
            _ => {}
        }
        let mut x = Tensor::new(1, 1)?;
        x.data[0] = 1.0;
        self.member.all_reduce(&mut x, 1)?;
        assert_eq!(x.data[0], self.member.rank().of as f32);
        Ok(())
    }

    fn sample(&mut self, _: &TokenMasks) -> Result<()> {
        Ok(())
    }

    fn collect(&mut self) -> Result<StepResult> {
        let later = self.step >= 2;
        if self.fault == Fault::LateError && later {
            return Err(internal!("scripted"));
        }
        let token = TokenId(u32::from(self.fault == Fault::OtherToken && later));
        let sampled = Sampled { slot: SlotId(0), tokens: Ok(vec![token]), logprobs: Vec::new() };
        Ok(StepResult { step: self.step, samples: vec![sampled], ..StepResult::default() })
    }

    fn break_device(&mut self) -> Result<()> {
        Err(internal!("broken"))
    }
}

/// Three ranks, of which one has a fault.
fn ranks(which: usize, fault: Fault) -> RankRunners {
    let (members, group) = Group::of(3);
    let runner = |(rank, member)| {
        let fault = if rank == which { fault } else { Fault::None };
        Box::new(Summing { member, fault, step: 0 }) as Box<dyn Runner>
    };
    let runners = members.into_iter().enumerate().map(runner).collect();
    RankRunners::start(runners, group, "test").unwrap()
}

fn step(ranks: &mut RankRunners, step: u64) -> Result<StepResult> {
    ranks.forward(&StepPlan { step, ..StepPlan::default() })?;
    ranks.sample(&TokenMasks::default())?;
    ranks.collect()
}

/// Fails a test that hangs, instead of the whole run.
fn within_seconds(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    let waited = wait.recv_timeout(Duration::from_secs(20));
    assert!(waited != Err(mpsc::RecvTimeoutError::Timeout), "somebody waits for a lost rank");
    thread.join().unwrap();
}

#[test]
fn ranks_answer_as_one() {
    within_seconds(|| {
        let mut ranks = ranks(0, Fault::None);
        assert_eq!((1..=50).map(|n| step(&mut ranks, n).unwrap().step).sum::<u64>(), 51 * 25);
    });
}

#[test]
fn a_lost_rank_is_one_error() {
    for which in 0..3 {
        for (fault, text) in [
            (Fault::Error, format!("rank {which} of 3: scripted")),
            (Fault::LateError, format!("rank {which} of 3: scripted")),
            (Fault::Panic, format!("rank {which} of 3 panicked: scripted panic")),
        ] {
            within_seconds(move || {
                let mut ranks = ranks(which, fault);
                assert!(step(&mut ranks, 1).is_ok());
                for n in 2..5 {
                    assert_eq!(step(&mut ranks, n).unwrap_err().message(), text);
                }
            });
        }
    }
}

#[test]
fn a_device_that_breaks_is_the_last_ranks() {
    within_seconds(|| {
        let mut ranks = ranks(0, Fault::None);
        assert!(step(&mut ranks, 1).is_ok());
        ranks.break_device().unwrap();
        assert_eq!(step(&mut ranks, 2).unwrap_err().message(), "rank 2 of 3: broken");
    });
}

#[test]
fn ranks_that_disagree_are_found_out() {
    for which in [1, 2] {
        within_seconds(move || {
            let mut ranks = ranks(which, Fault::OtherToken);
            assert!(step(&mut ranks, 1).is_ok());
            let error = step(&mut ranks, 2).unwrap_err();
            let text = format!("rank {which} sampled other tokens than rank 0 in step 2");
            assert_eq!(error.message(), text);
        });
    }
}

/// With a step under way that one of them never hears of.
#[test]
fn ranks_that_are_let_go_of_end() {
    within_seconds(|| {
        let ranks = ranks(0, Fault::None);
        let plan = Arc::new(StepPlan { step: 1, ..StepPlan::default() });
        for (n, rank) in ranks.threads.iter().enumerate().skip(1) {
            ranks.tell_one(n, rank, Command::Forward(Arc::clone(&plan))).unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
        drop(ranks);
    });
}
