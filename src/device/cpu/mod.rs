//! The CPU device defines the numbers. Activations in f32, weights and pages as stored, plain loops
//! in a fixed order: a row's numbers depend on nothing but the row (docs/architecture.md, Laws:
//! row-invariant CPU products). It grades every other device, runs the demo, and serves where no
//! GPU is. `engine` makes it, `model::decoder` calls its ops.
//!
//! | file | holds |
//! |---|---|
//! | [`load`], [`step`], [`dense`], [`attention`] | chapters of [`super::Device`] |
//! | [`latent`], [`state`], [`experts`], [`adapters`], [`pooling`] | others |
//! | [`vision`], [`drafts`] | the rest of them |
//! | [`buffer`] | zeroed, aligned memory |
//! | [`codes`], [`code_packing`] | weights held as codes, and how they are packed |
//! | [`input_rounding`] | how products with codes round their inputs |
//! | [`fp8`] | numbers of eight bits in pages |
//! | [`kv_pool`] | pages of K and V |
//! | [`lanes`], [`panels`] | which output a lane computes; what products multiply by |
//! | [`low_rank`] | what adapters hold behind a weight |
//! | [`memory`] | how much memory the machine has left |
//! | [`numbers`] | arithmetic of one vector |
//! | [`online`] | codes that are made at upload |
//! | [`ranks`] | what several CPU devices that share a model do together |
//! | [`rope`] | rotation by position |
//! | [`simd`] | inner loops per instruction set |
//! | [`state_pool`] | states of slots, and copies of them |
//! | [`sources`] | values of a weight on its way to the device |
//! | [`weight`] | weights, and how they are packed |
//! | [`workers`] | threads |

pub mod adapters;
pub mod attention;
pub mod buffer;
mod channel_scan;
mod code_packing;
pub mod codes;
pub mod dense;
pub mod drafts;
pub mod experts;
pub mod input_rounding;
pub mod fp8;
pub mod kv_pool;
pub mod lanes;
pub mod latent;
pub mod load;
pub mod low_rank;
pub mod memory;
pub mod numbers;
mod online;
pub mod panels;
pub mod pooling;
pub mod ranks;
pub mod rope;
mod scan;
pub mod simd;
mod sources;
pub mod state;
pub mod state_pool;
mod state_tasks;
pub mod step;
pub mod vision;
pub mod weight;
pub mod workers;

use std::collections::VecDeque;

use self::kv_pool::Pool;
use self::memory::Memory;
use self::ranks::Member;
use self::rope::RopeTable;
use self::simd::Isa;
use self::state_pool::StatePool;
use self::workers::Workers;
use super::host_slots::HostSlots;
use super::{BreakOnPurpose, Collective, DeviceInfo, DeviceKind, DeviceTypes, Rank, TowerRows};
use crate::error::Result;
use crate::internal;
use crate::plan::StepResult;

/// Work below these is done by the caller alone: waking a thread costs some 10 us, and another
/// thread may want the core. Weight bytes count where rows are few, multiply-adds where they are
/// many.
const SHARED_FROM_BYTES: usize = 2 << 20;
const SHARED_FROM_MACS: usize = 16 << 20;
/// Of inputs that are rounded before a product.
const SHARED_FROM_ROUNDED: usize = 64 << 10;
/// Of attention, which runs at a fraction of a linear's speed.
const SHARED_FROM_ATTENTION_MACS: usize = 4 << 20;
/// Of matrices that rows change one after the other.
const SHARED_FROM_STATE_MACS: usize = 4 << 20;

/// The CPU device.
pub struct Cpu {
    isa: Isa,
    workers: Workers,
    /// None: it shares its model with none.
    member: Option<Member>,
    pool: Option<Pool>,
    states: Option<StatePool>,
    slots: HostSlots,
    /// What a vision tower runs over.
    tower: TowerRows,
    /// Rows of its ops, while one runs.
    tower_rows: Option<usize>,
    ropes: Vec<RopeTable>,
    results: VecDeque<StepResult>,
}

impl Cpu {
    /// A device of `threads` threads (0: one per core), one of which is the caller's.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Cpu> {
        Cpu::with_isa(threads, Isa::detect())
    }

    /// The same with a given instruction set, for comparisons.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Cpu> {
        let workers = Workers::new(threads, "cpu")?;
        Ok(Cpu {
            isa,
            workers,
            member: None,
            pool: None,
            states: None,
            slots: HostSlots::default(),
            tower: TowerRows::default(),
            tower_rows: None,
            ropes: Vec::new(),
            results: VecDeque::new(),
        })
    }

    /// One of several devices that share a model, of `threads` threads of its own.
    ///
    /// # Errors
    /// As `new`.
    pub fn of_rank(threads: usize, member: Member) -> Result<Cpu> {
        Ok(Cpu { member: Some(member), ..Cpu::new(threads)? })
    }

    /// The ranks of this device's group; `of` needs them.
    fn group(&mut self, of: &str) -> Result<&mut Member> {
        self.member.as_mut().ok_or_else(|| internal!("{of} is a rank's, and there is one device"))
    }

    fn rows(&self) -> usize {
        self.tower_rows.unwrap_or_else(|| self.slots.tokens())
    }
}

impl DeviceTypes for Cpu {
    type Tensor = buffer::Tensor;
    type Weight = weight::Weight;

    fn info(&self) -> DeviceInfo {
        let Memory { total_bytes, free_bytes, .. } = Memory::read();
        let name = format!("cpu ({}, {} threads)", self.isa.name(), self.workers.threads());
        DeviceInfo {
            kind: DeviceKind::Cpu,
            name,
            total_bytes,
            free_bytes,
            depth: 1,
            experts_of_codes: true,
        }
    }

    fn rank(&self) -> Rank {
        self.member.as_ref().map_or(Rank::ALONE, Collective::rank)
    }
}

impl BreakOnPurpose for Cpu {
    fn break_on_purpose(&mut self) -> Result<()> {
        Err(internal!("the device was broken on purpose"))
    }
}
