//! Heads that draft from a model's hidden states, on the CPU device: logits and drafts as PyTorch
//! computed them by the heads' formulas (tests/fixtures/make_heads.py), whatever chunks model and
//! head are fed in, whoever runs beside them, and behind guesses that were wrong.

mod rig;

use rig::heads::{judge, Pair, Row, PAGE, PAGES, ROWS};
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::trace::Trace;
use triton_vllm::device::KvType;
use triton_vllm::ids::{PageId, SlotId, TokenId};
use triton_vllm::model::head_files::{common_ends, CommonEnds};
use triton_vllm::plan::{Feed, SlotChange, StepPlan};

const TOLERANCE: f32 = 2e-4;

fn pair(row: &Row) -> Pair<Cpu> {
    Pair::new(row, KvType::F32, |_| Cpu::new(1).unwrap())
}

#[test]
fn heads_draft_what_their_formulas_say() {
    for name in ROWS {
        let row = Row::read(name, "float32");
        for case in &row.cases {
            let known = [&case.ids[..], &[case.next]].concat();
            let mut first = None;
            // Of the model's steps and of the head's.
            for (chunk, own) in [(64, 64), (7, 64), (64, 7), (5, 1)] {
                let mut pair = pair(&row);
                assert_eq!(pair.prompt(0, &case.ids, chunk), case.next, "{name}");
                let drafts = pair.drafts(0, &known, own, case.drafts.len(), None);
                judge(name, &row, case, &drafts, TOLERANCE);
                let first = first.get_or_insert_with(|| drafts.clone());
                assert!(*first == drafts, "{name}: chunks of {chunk} and {own} change bits");
            }
        }
    }
}

/// What a head has in common with its model it may read there: it says the same to the last bit.
#[test]
fn what_a_head_shares_with_its_model_changes_nothing() {
    let mut shared = 0;
    for name in ROWS {
        let row = Row::read(name, "float32");
        let ((target, model), (head, files)) = (&row.target, &row.head);
        let common = common_ends(head, files, target, model).unwrap();
        // EAGLE's own files have neither; those of EAGLE-3 a matrix of fewer tokens.
        let want = match name {
            "eagle" => (true, true),
            "eagle3" => (true, false),
            _ => (common.table, common.head),
        };
        assert_eq!((common.table, common.head), want, "{name}");
        let held = [CommonEnds::default(), common].map(|common| {
            let pair = Pair::sharing(&row, KvType::F32, common, Trace::new);
            pair.head_device().held().weights
        });
        assert_eq!(held[0] - held[1], common.bytes(head), "{name}: what is not held twice");
        shared += usize::from(common.table) + usize::from(common.head);

        for case in &row.cases {
            let known = [&case.ids[..], &[case.next]].concat();
            let said = [CommonEnds::default(), common].map(|common| {
                let mut pair = Pair::sharing(&row, KvType::F32, common, |_| Cpu::new(1).unwrap());
                pair.prompt(0, &case.ids, 64);
                pair.drafts(0, &known, 64, case.drafts.len(), None)
            });
            judge(name, &row, case, &said[1], TOLERANCE);
            assert!(said[0] == said[1], "{name}");
        }
    }
    assert!(shared >= 3, "{shared} tensors of heads are their models'");
}

/// The head's own guesses stand where the model's hidden states come: it goes back, and says the
/// same again; and one sequence's are not another's.
#[test]
fn guesses_leave_nothing_behind() {
    for name in ROWS {
        let row = Row::read(name, "float32");
        let mut pair = pair(&row);
        let known = |case: &rig::heads::Case| [&case.ids[..], &[case.next]].concat();
        for (slot, case) in row.cases.iter().enumerate() {
            pair.prompt(slot as u32, &case.ids, 64);
        }
        for (slot, case) in row.cases.iter().enumerate() {
            pair.drafts(slot as u32, &known(case), 64, case.drafts.len(), None);
        }
        for back in [1, 2] {
            for (slot, case) in row.cases.iter().enumerate() {
                let from = case.ids.len() - back;
                let count = case.drafts.len();
                let drafts = pair.drafts(slot as u32, &known(case), 64, count, Some(from));
                judge(name, &row, case, &drafts, TOLERANCE);
            }
        }
    }
}

/// A splitmix of its own.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

const SLOTS: usize = 3;
const PAGES_EACH: usize = 4;
const LONGEST: usize = PAGES_EACH * PAGE;

/// A sequence in a slot: its pages, and the positions that are fed.
struct Fed {
    pages: Vec<PageId>,
    length: usize,
}

/// Sequences come, go back, end and leave their pages to others, in steps of any size. Gives the
/// plan, and what is in the slots behind it.
fn random_step(
    chance: &mut Chance,
    step: u64,
    slots: &mut [Option<Fed>],
    free: &mut Vec<PageId>,
) -> StepPlan {
    let mut plan = StepPlan { step, ..StepPlan::default() };
    for (n, place) in slots.iter_mut().enumerate() {
        let slot = SlotId(n as u32);
        let full = place.as_ref().is_some_and(|fed| fed.length + 9 > LONGEST);
        if full || place.is_some() && chance.below(25) == 0 {
            free.extend(place.take().unwrap().pages);
            plan.changes.push(SlotChange::Close { slot });
        }

        let new = place.is_none();
        let fed = place.get_or_insert_with(|| {
            let pages = (0..PAGES_EACH).map(|_| free.swap_remove(chance.below(free.len())));
            Fed { pages: pages.collect(), length: 0 }
        });
        if new {
            plan.changes.extend(rig::heads::opened(slot, fed.pages.clone(), 0));
        } else if fed.length > 4 && chance.below(12) == 0 {
            fed.length -= 1 + chance.below(3);
            plan.changes.push(SlotChange::Truncate { slot, length: fed.length as u32 });
        }
        let count = [1, 1, 1, 2, 8][chance.below(5)];
        let start = plan.chunk_tokens.len();
        let token = |_| TokenId(chance.below(50) as u32);
        plan.chunk_tokens.extend((0..count).map(token));
        plan.push(slot, Feed::Known(start..start + count), true);
        fed.length += count;
    }
    plan
}

/// Hidden states that are made when they are read, however many steps later, are those that are
/// made in each step: whatever sequences end, go back and begin in between.
#[test]
fn hidden_states_that_are_read_late_are_those_of_each_step() {
    for name in ["eagle3", "eagle3-speculators", "eagle"] {
        let row = Row::read(name, "float32");
        let [mut each, mut late] = [(); 2].map(|()| pair(&row));
        let mut chance = Chance(7);
        let mut slots: Vec<Option<Fed>> = (0..SLOTS).map(|_| None).collect();
        let mut free: Vec<PageId> = (1..PAGES as u32).map(PageId).collect();
        let (mut compared, mut longest, mut unread) = (0, 0, 0);
        for step in 1..=1500 {
            let plan = random_step(&mut chance, step, &mut slots, &mut free);
            each.step(&plan);
            late.step(&plan);

            let want = each.kept();
            unread += 1;
            if chance.below(20) > 0 {
                continue;
            }
            longest = std::mem::replace(&mut unread, 0).max(longest);
            let got = late.kept();
            for fed in slots.iter().flatten() {
                for position in 0..fed.length {
                    let page = fed.pages[position / PAGE].index();
                    let at = page * PAGE + position % PAGE;
                    assert!(got.row(at) == want.row(at), "{name}, step {step}: {position}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 3000 && longest > 40, "{compared} rows, {longest} steps at most");
    }
}
