//! Ranks on the CPU: a collective over the memory that their threads share. Rows go through
//! buffers, a piece at a time; a barrier stands between writing and reading, and breaks when a rank
//! is lost, so that no rank waits for one that will not come. It knows no weight.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock};

use super::buffer::Tensor;
use crate::device::collective::{Collective, Rank, RankGroup};
use crate::error::{Error, Result};
use crate::internal;

/// Elements that a rank shows the others at a time; one row at least.
const PIECE: usize = 256 << 10;

/// What the ranks share.
pub struct Group {
    ranks: usize,
    barrier: Mutex<Barrier>,
    moved: Condvar,
    /// Of each rank, for even pieces and for odd ones: who is at the barrier behind a piece has
    /// read the one before, so that its buffer may be written again.
    shown: Vec<[RwLock<Vec<f32>>; 2]>,
}

struct Barrier {
    arrived: usize,
    /// How often all had arrived.
    round: u64,
    lost: Option<Error>,
}

impl Group {
    /// The members of a group, in the order of ranks, and the group itself.
    pub fn of(ranks: usize) -> (Vec<Member>, Arc<Group>) {
        let shown = (0..ranks).map(|_| Default::default()).collect();
        let barrier = Mutex::new(Barrier { arrived: 0, round: 0, lost: None });
        let group = Arc::new(Group { ranks, barrier, moved: Condvar::new(), shown });
        let member = |rank| Member { rank, group: group.clone(), pieces: 0 };
        (Rank::all(ranks).map(member).collect(), group)
    }

    /// Until all ranks are here.
    fn wait(&self) -> Result<()> {
        let mut barrier = self.barrier.lock();
        if barrier.lost.is_none() {
            let round = barrier.round;
            barrier.arrived += 1;
            if barrier.arrived == self.ranks {
                barrier.arrived = 0;
                barrier.round += 1;
                self.moved.notify_all();
                return Ok(());
            }
            while barrier.round == round && barrier.lost.is_none() {
                self.moved.wait(&mut barrier);
            }
            // All had arrived, whatever happened since.
            if barrier.round != round {
                return Ok(());
            }
        }
        barrier.lost.clone().map_or(Ok(()), Err)
    }
}

impl RankGroup for Group {
    fn fail(&self, error: Error) {
        self.barrier.lock().lost.get_or_insert(error);
        self.moved.notify_all();
    }

    fn failure(&self) -> Option<Error> {
        self.barrier.lock().lost.clone()
    }
}

/// A rank's place in its group.
pub struct Member {
    rank: Rank,
    group: Arc<Group>,
    /// Shown so far.
    pieces: usize,
}

impl Member {
    /// Show the others a piece and give `take` those of all ranks, in their order.
    pub(super) fn exchange(
        &mut self,
        piece: &[f32],
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let which = self.pieces % 2;
        self.pieces += 1;
        {
            let mut own = self.group.shown[self.rank.index][which].write();
            own.clear();
            own.extend_from_slice(piece);
        }

        self.group.wait()?;
        for (rank, shown) in self.group.shown.iter().enumerate() {
            let shown = shown[which].read();
            if shown.len() != piece.len() {
                let (own, other) = (piece.len(), shown.len());
                return Err(internal!("rank {rank} shows {other} elements for {own}"));
            }
            take(rank, &shown);
        }
        Ok(())
    }

    /// Elements = their sum over ranks, in the order of ranks.
    pub(super) fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        for piece in values.chunks_mut(PIECE) {
            let own = piece.to_vec();
            self.exchange(&own, |rank, shown| match rank {
                0 => piece.copy_from_slice(shown),
                _ => piece.iter_mut().zip(shown).for_each(|(sum, x)| *sum += x),
            })?;
        }
        Ok(())
    }
}

impl Collective<Tensor> for Member {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_reduce(&mut self, x: &mut Tensor, rows: usize) -> Result<()> {
        let used = rows * x.width;
        self.sum(&mut x.data[..used])
    }

    fn all_gather(&mut self, part: &Tensor, rows: usize, whole: &mut Tensor) -> Result<()> {
        let (width, all) = (part.width, whole.width);
        let together = (PIECE / width.max(1)).max(1);
        for first in (0..rows).step_by(together) {
            let last = rows.min(first + together);
            let piece = &part.data[first * width..last * width];
            self.exchange(piece, |rank, shown| {
                let from = all.min(rank * width);
                let count = width.min(all - from);
                for (row, shown) in (first..last).zip(shown.chunks_exact(width.max(1))) {
                    whole.row_mut(row)[from..from + count].copy_from_slice(&shown[..count]);
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Run `body` as each rank, on threads of their own.
    fn as_ranks<T: Send>(ranks: usize, body: impl Fn(&mut Member) -> T + Sync) -> Vec<T> {
        let (members, _) = Group::of(ranks);
        std::thread::scope(|scope| {
            let body = &body;
            let run = |mut member: Member| scope.spawn(move || body(&mut member));
            let threads: Vec<_> = members.into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn value(rank: usize, round: usize, i: usize) -> f32 {
        let mixed = (rank * 31 + round * 17 + i).wrapping_mul(2_654_435_761) >> 7;
        (mixed % 1999) as f32 / 7.0 - 140.0
    }

    #[test]
    fn sums_are_in_the_order_of_ranks_on_all() {
        for ranks in [1, 2, 3, 4] {
            let sizes = [1, 7, PIECE, PIECE + 5, 2 * PIECE + 1, 3];
            let all = as_ranks(ranks, |member| {
                let rank = member.rank.index;
                let sums = sizes.iter().enumerate().map(|(round, &size)| {
                    let mut x = Tensor::new(2, size).unwrap();
                    (0..2 * size).for_each(|i| x.data[i] = value(rank, round, i));
                    // Some ranks come late.
                    std::thread::sleep(Duration::from_millis((rank * 3 + round) as u64 % 5));
                    member.all_reduce(&mut x, 1).unwrap();
                    assert_eq!(x.data[size], value(rank, round, size), "the second row is left");
                    x.data[..size].to_vec()
                });
                sums.collect::<Vec<_>>()
            });

            for (round, &size) in sizes.iter().enumerate() {
                let sum = |i| (1..ranks).fold(value(0, round, i), |s, r| s + value(r, round, i));
                let want: Vec<f32> = (0..size).map(sum).collect();
                for (rank, got) in all.iter().enumerate() {
                    assert!(got[round] == want, "rank {rank} of {ranks}, {size} elements");
                }
            }
        }
    }

    #[test]
    fn rows_lie_side_by_side_and_end_with_the_whole() {
        let (width, all, rows) = (3, 10, 5);
        let gathered = as_ranks(4, |member| {
            let mut part = Tensor::new(rows, width).unwrap();
            for (i, x) in part.data.iter_mut().enumerate() {
                *x = (i / width * 100 + member.rank.index * width + i % width) as f32;
            }
            let mut whole = Tensor::new(rows, all).unwrap();
            member.all_gather(&part, rows, &mut whole).unwrap();
            whole.data.to_vec()
        });
        let want: Vec<f32> = (0..rows * all).map(|i| (i / all * 100 + i % all) as f32).collect();
        assert!(gathered.iter().all(|got| *got == want), "{gathered:?}");
    }

    /// Those that wait and those that come later, whichever rank it is.
    #[test]
    fn nobody_waits_for_a_lost_rank() {
        for lost in 0..3 {
            let (members, group) = Group::of(3);
            let errors = std::thread::scope(|scope| {
                let run = |mut member: Member| {
                    let group = &group;
                    scope.spawn(move || {
                        let mut x = [1.0];
                        member.sum(&mut x).unwrap();
                        if member.rank.index == lost {
                            std::thread::sleep(Duration::from_millis(20));
                            group.fail(internal!("rank {lost} is lost"));
                            group.fail(internal!("said too late"));
                        }
                        [member.sum(&mut x), member.sum(&mut x)].map(Result::unwrap_err)
                    })
                };
                let threads: Vec<_> = members.into_iter().map(run).collect();
                threads.into_iter().flat_map(|t| t.join().unwrap()).collect::<Vec<_>>()
            });
            let text = format!("rank {lost} is lost");
            assert!(errors.iter().all(|e| e.message() == text), "{errors:?}");
            assert_eq!(group.failure(), Some(internal!("{text}")));
        }
    }
}
