//! Heads that draft from a model's hidden states, on the CPU device: logits and drafts as PyTorch
//! computed them by the heads' formulas (tests/fixtures/make_heads.py), whatever chunks model and
//! head are fed in, whoever runs beside them, and behind guesses that were wrong.

mod rig;

use rig::heads::{judge, Pair, Row, ROWS};
use triton_vllm::device::cpu::Cpu;
use triton_vllm::device::KvType;

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
