//! Ranks on GPUs: which GPUs can reach each other's memory, the mailboxes through which they
//! exchange (kernels/abi_ranks.h), and what tells them that one is lost. `Cuda::open_ranks` makes
//! devices of them, `joins` exchanges; it knows no op.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{self, CUresult};
use parking_lot::{Condvar, Mutex};

use super::abi;
use super::context::{check, Context};
use super::device_ptr::DevicePtr;
use super::memory::{Memory, Pinned};
use super::turns::Turns;
use crate::device::{Rank, RankGroup};
use crate::error::{Error, Result};
use crate::internal;

/// Ranks of a group at most.
const MOST: usize = abi::MOST_RANKS as usize;

/// Messages above this are exchanged directly between two ranks; a part of it between more, because
/// pushing costs bytes for each. Measured on two H200 (ci/runs).
const LARGE_BYTES: usize = 2 << 20;

/// Compute capability that products which push rows need.
const PUSHING_CAPABILITY: u32 = 90;

/// Words of a rank in a mailbox: two rows that it pushed.
const WORDS_OF_RANK: usize = 2 * abi::NORMED_COLUMNS as usize;

/// Blocks of a rank that exchange where ranks share a GPU.
const BLOCKS_ON_ONE_GPU: usize = 4;

/// Where one rank's mailbox lies; kept by all, because all write to it.
enum Mailbox {
    OnDevice(Memory),
    OnHost(Pinned),
}

impl Mailbox {
    fn address(&self) -> DevicePtr {
        match self {
            Mailbox::OnDevice(memory) => memory.address,
            Mailbox::OnHost(pinned) => pinned.device_address(),
        }
    }
}

/// The ranks of a model on GPUs.
pub struct Group {
    /// In the order of ranks.
    mailboxes: Vec<Mailbox>,
    /// A word that all GPUs poll while they wait.
    stop: Pinned,
    lost: Mutex<Option<Error>>,
    turns: Turns,
    /// Where ranks share a GPU: how often they met, and who is there for the next time.
    met: Mutex<(u64, usize)>,
    meeting: Condvar,
}

// SAFETY: pinned memory is plain memory; `stop` is only touched as an atomic word, mailboxes by
// GPUs.
unsafe impl Sync for Group {}

impl Group {
    fn stop(&self) -> &AtomicU32 {
        self.stop.atomic()
    }
}

impl RankGroup for Group {
    fn fail(&self, error: Error) {
        self.lost.lock().get_or_insert(error);
        self.turns.close();
        // What a GPU wrote stays.
        let _ = self.stop().compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst);
        let _met = self.met.lock();
        self.meeting.notify_all();
    }

    fn failure(&self) -> Option<Error> {
        let mut lost = self.lost.lock();
        let stopped = self.stop().load(Ordering::SeqCst);
        // From 2 on it is a rank that gave up.
        if let Some(rank) = stopped.checked_sub(2) {
            let text = || internal!("rank {rank} waited a minute for another rank's GPU");
            lost.get_or_insert_with(text);
        }
        lost.clone()
    }
}

/// A rank's place in its group.
pub struct Member {
    rank: Rank,
    group: Arc<Group>,
    /// Blocks that push, at most.
    blocks: usize,
    /// Of the group's smallest GPU.
    multiprocessors: usize,
    /// Of its oldest one.
    capability: u32,
    /// No other rank has this one's GPU.
    apart: bool,
    /// GPUs can reach each other's memory.
    direct: bool,
    /// What [`Member::leaves_ahead`] says.
    ahead: AtomicBool,
    /// Outputs of the rows that products push.
    row_width: OnceLock<usize>,
}

/// How ranks exchange (kernels/ranks.cu).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through the mailboxes, so many bytes at once.
    Pushed {
        /// Of a launch.
        most_bytes: usize,
    },
    /// Out of each other's memory and into it.
    Direct,
}

impl Way {
    /// Bytes of a launch, at most.
    pub fn most_bytes(self) -> usize {
        match self {
            Way::Pushed { most_bytes } => most_bytes,
            Way::Direct => usize::MAX,
        }
    }
}

impl Member {
    /// Which it is.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Blocks that exchange so many bytes.
    pub fn blocks(&self, way: Way, bytes: usize) -> usize {
        let most = match way {
            Way::Pushed { .. } => self.blocks,
            Way::Direct => self.meeting_blocks(1),
        };
        bytes.div_ceil(abi::EXCHANGE_PIECE_BYTES as usize).min(most)
    }

    /// Blocks that meet, at most, where so many of them are on a multiprocessor: all at once.
    fn meeting_blocks(&self, together: usize) -> usize {
        if self.apart {
            (together * self.multiprocessors).min(abi::MEETING_BLOCKS as usize)
        } else {
            BLOCKS_ON_ONE_GPU
        }
    }

    /// The faster way for a message of so many bytes.
    pub fn way(&self, bytes: usize) -> Way {
        let most_bytes = self.pushed().min(LARGE_BYTES / (self.rank.of - 1));
        if self.direct && bytes > most_bytes {
            Way::Direct
        } else {
            Way::Pushed { most_bytes: self.pushed() }
        }
    }

    /// Blocks for rows of so many pieces each, or None: one launch does not push them. No row is
    /// parted among blocks.
    pub fn blocks_of_rows(&self, rows: usize, pieces: usize) -> Option<usize> {
        let most = abi::EXCHANGE_PIECES as usize / pieces * self.blocks;
        let bytes = rows * pieces * abi::EXCHANGE_PIECE_BYTES as usize;
        let pushed = rows <= most && self.way(bytes) != Way::Direct;
        pushed.then(|| rows.min(self.blocks))
    }

    /// Blocks for each rank's share of so many rows, which are so many bytes, or None: pushing them
    /// is faster, or some rank would have none.
    pub fn blocks_of_shares(&self, rows: usize, bytes: usize) -> Option<usize> {
        let shared = rows >= self.rank.of && self.way(bytes) == Way::Direct;
        // kernels/ranks_rows.cu has two on each multiprocessor.
        shared.then(|| rows.div_ceil(self.rank.of).min(self.meeting_blocks(2)))
    }

    /// Bytes that all blocks push at once.
    pub fn pushed(&self) -> usize {
        self.blocks * (abi::EXCHANGE_PIECES * abi::EXCHANGE_PIECE_BYTES) as usize
    }

    /// Before an exchange is launched, and again when it was. Threads of ranks that share a GPU
    /// wait for each other here: a call of one of them that waits for the GPU (allocating, loading
    /// a kernel) keeps the others from launching, and would wait for an exchange that waits for
    /// what they have not launched.
    ///
    /// # Errors
    /// That of a rank that is lost.
    pub fn meet(&self) -> Result<()> {
        if self.apart {
            return Ok(());
        }
        let group = &self.group;
        let mut met = group.met.lock();
        let time = met.0;
        met.1 += 1;
        if met.1 == self.rank.of {
            *met = (time + 1, 0);
            group.meeting.notify_all();
            return Ok(());
        }
        while met.0 == time && group.stop().load(Ordering::SeqCst) == 0 {
            group.meeting.wait(&mut met);
        }
        drop(met);
        self.failure()
    }

    /// A step is enqueued from here on; waits while another group on these GPUs enqueues one.
    pub fn begin_step(&self) {
        let turns = &self.group.turns;
        turns.begin(self.rank.index);
        self.ahead.store(self.apart && turns.is_alone(), Ordering::Relaxed);
    }

    /// Whether, in this step, the kernel behind one that waits for other ranks may start while that
    /// one waits: ranks have a GPU each, and there is no other group on these GPUs. What other
    /// ranks wait for is then in front of it, or on another GPU; of two groups each could hold, on
    /// one of two GPUs, all places that the other one needs.
    pub fn leaves_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed)
    }

    /// Where the product of a single row of so many outputs pushes them; None: it does not. All
    /// rows that are pushed have the width of the first one (kernels/abi_ranks.h).
    pub fn row_push(&self, width: usize) -> Option<abi::RowPush> {
        let takes = self.direct && self.capability >= PUSHING_CAPABILITY;
        if !takes || *self.row_width.get_or_init(|| width) != width {
            return None;
        }
        let own = words_begin(self.rank.of) + self.rank.index * WORDS_OF_RANK * 4;
        let mut to = [DevicePtr::NULL; MOST];
        for (to, of) in to.iter_mut().zip(&self.group.mailboxes) {
            *to = of.address().offset_bytes(own);
        }
        let (_, taken) = self.pushed_rows();
        Some(abi::RowPush { to, taken, ranks: self.rank.of as u32, unused: 0 })
    }

    /// The words that ranks pushed to this one, and the number of the last row that it took.
    pub fn pushed_rows(&self) -> (DevicePtr, DevicePtr) {
        let (ranks, own) = (self.rank.of, self.group.mailboxes[self.rank.index].address());
        let words = words_begin(ranks);
        (own.offset_bytes(words), own.offset_bytes(words + ranks * WORDS_OF_RANK * 4))
    }

    /// All of it is enqueued.
    pub fn end_step(&self) {
        self.group.turns.end(self.rank.index);
    }

    /// For kernels.
    pub fn parameters(&self) -> abi::Ranks {
        let mut mailbox = [DevicePtr::NULL; MOST];
        for (to, of) in mailbox.iter_mut().zip(&self.group.mailboxes) {
            *to = of.address();
        }
        abi::Ranks {
            mailbox,
            stop: self.group.stop.device_address(),
            rank: self.rank.index as u32,
            ranks: self.rank.of as u32,
        }
    }

    /// The error of a group that has lost a rank.
    pub fn failure(&self) -> Result<()> {
        self.group.failure().map_or(Ok(()), Err)
    }
}

/// The places of GPUs that share a model, in the order of ranks; one GPU may be named several
/// times. `name` is the model's, for the log.
///
/// # Errors
/// More ranks than there may be; no room.
pub fn members(contexts: &[Arc<Context>], name: &str) -> Result<(Vec<Member>, Arc<Group>)> {
    let ranks = contexts.len();
    if !(2..=MOST).contains(&ranks) {
        return Err(Error::Unsupported(format!(
            "tensor_parallel_size {ranks}: from 1 to {MOST} GPUs share a model"
        )));
    }
    let reach = can_reach(contexts)?;
    if !reach {
        tracing::warn!(
            "{name}: the GPUs cannot reach each other's memory: ranks exchange through the host's, \
             several times slower"
        );
    }

    let group = Arc::new(Group {
        mailboxes: contexts.iter().map(|c| mailbox(c, ranks, reach)).collect::<Result<_>>()?,
        stop: Pinned::new(&contexts[0], 4)?,
        lost: Mutex::new(None),
        turns: Turns::new(contexts.iter().map(|context| context.device).collect()),
        met: Mutex::default(),
        meeting: Condvar::new(),
    });
    // Nobody writes to a mailbox that is not yet empty.
    contexts.iter().try_for_each(|context| context.synchronise())?;

    // Ranks of one GPU must leave room for what they wait for.
    let gpu = |n: usize| contexts[n].device;
    let apart = (1..ranks).all(|n| (0..n).all(|other| gpu(other) != gpu(n)));
    let blocks = if apart { abi::EXCHANGE_BLOCKS as usize } else { BLOCKS_ON_ONE_GPU };
    let multiprocessors = contexts.iter().map(|context| context.multiprocessors as usize).min();
    let multiprocessors = multiprocessors.unwrap_or(1);
    let capability = contexts.iter().map(|context| context.capability).min().unwrap_or(0);
    let member = |rank| Member {
        rank,
        group: group.clone(),
        blocks,
        multiprocessors,
        capability,
        apart,
        direct: reach,
        ahead: AtomicBool::new(false),
        row_width: OnceLock::new(),
    };
    Ok((Rank::all(ranks).map(member).collect(), group))
}

/// Let each GPU write to the memory of all others, if the machine can.
fn can_reach(contexts: &[Arc<Context>]) -> Result<bool> {
    for from in contexts {
        for to in contexts.iter().filter(|to| to.device != from.device) {
            let mut can = 0;
            // SAFETY: a live place to write to, and two devices of the driver.
            let code = unsafe { sys::cuDeviceCanAccessPeer(&mut can, from.device, to.device) };
            check(code, "cuDeviceCanAccessPeer")?;
            if can == 0 {
                return Ok(false);
            }
        }
    }
    for from in contexts {
        from.bind()?;
        for to in contexts.iter().filter(|to| to.device != from.device) {
            // SAFETY: a live context of another device; ours is current.
            let code = unsafe { sys::cuCtxEnablePeerAccess(to.context, 0) };
            if code != CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED {
                check(code, "cuCtxEnablePeerAccess")?;
            }
        }
    }
    Ok(true)
}

/// What a rank's mailbox takes on its GPU.
pub fn extra_bytes(rank: Rank) -> u64 {
    if rank.of > 1 {
        mailbox_bytes(rank.of) as u64
    } else {
        0
    }
}

fn mailbox_bytes(ranks: usize) -> usize {
    words_begin(ranks) + (ranks * WORDS_OF_RANK + 1) * 4
}

/// Where words of pushed rows begin in a mailbox (kernels/abi_ranks.h).
fn words_begin(ranks: usize) -> usize {
    let (blocks, meeting) = (abi::EXCHANGE_BLOCKS as usize, abi::MEETING_BLOCKS as usize);
    let pieces = ranks * blocks * (abi::EXCHANGE_SLOTS * abi::EXCHANGE_PIECE_BYTES) as usize;
    let addresses = ranks * meeting * abi::MEETING_PLACES as usize * 8;
    pieces + addresses + (ranks + 1) * (blocks + meeting) * 4
}

/// An empty one.
fn mailbox(context: &Arc<Context>, ranks: usize, on_device: bool) -> Result<Mailbox> {
    let bytes = mailbox_bytes(ranks);
    if !on_device {
        return Ok(Mailbox::OnHost(Pinned::new(context, bytes)?));
    }
    let memory = Memory::new(context, bytes, "what ranks exchange")?;
    memory.fill(0)?;
    Ok(Mailbox::OnDevice(memory))
}
