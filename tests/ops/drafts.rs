//! What heads need that draft from hidden states: rows kept by page, rows beside each other, logits
//! of some tokens. Part of `ops`.

#[path = "draft_odds.rs"]
mod odds;

use super::*;

/// `plan` has 20 rows from position 30 on, in pages of 16 in backward order.
const ROWS: usize = 20;
const FIRST: usize = 30;

fn kept_row(position: usize) -> usize {
    let pages = (FIRST + ROWS).div_ceil(16);
    (pages - position / 16) * 16 + position % 16
}

#[test]
fn hidden_states_are_kept_by_page() {
    let width = 5;
    let mut dev = device(Isa::detect(), 1, ROWS, FIRST, no_kv());
    let values = Noise(3).values(ROWS * width);
    let x = tensor(&mut dev, ROWS, width, &values);
    let mut kept = dev.tensor(5 * 16, width).unwrap();
    dev.keep_hidden(&x, &mut kept).unwrap();
    for r in 0..ROWS {
        assert_eq!(kept.row(kept_row(FIRST + r)), x.row(r), "row {r}");
    }
    let touched = kept.data.iter().filter(|&&x| x != 0.0).count();
    assert_eq!(touched, ROWS * width, "and nothing else");

    let mut back = dev.tensor(ROWS, width).unwrap();
    dev.kept_hidden(&kept, &mut back).unwrap();
    assert_eq!(back.data[..], x.data[..]);

    // The one logits row is the last one's.
    let mut said = dev.tensor(1, width).unwrap();
    said.row_mut(0).fill(7.0);
    dev.keep_next_hidden(&said, &mut kept).unwrap();
    assert_eq!(kept.row(kept_row(FIRST + ROWS)), said.row(0));
    assert_eq!(kept.row(kept_row(FIRST + ROWS - 1)), x.row(ROWS - 1));
}

/// Two steps of a sequence, two inputs beside each other in each, read together.
#[test]
fn inputs_of_several_steps_become_kept_rows_at_once() {
    const MORE: usize = 7;
    let width = 3;
    let mut dev = device(Isa::detect(), 1, ROWS, FIRST, no_kv());
    let mut unread = dev.unread(ROWS + MORE, 2 * width).unwrap();
    let mut kept = dev.tensor(5 * 16, 2 * width).unwrap();
    let mut noise = Noise(6);
    let mut put = |dev: &mut Cpu, at: usize, rows: usize| {
        let [a, b] = [(); 2].map(|()| tensor(dev, ROWS, width, &noise.values(ROWS * width)));
        dev.begin_unread(at, &mut unread).unwrap();
        dev.put_unread(&a, 0, &mut unread).unwrap();
        dev.put_unread(&b, width, &mut unread).unwrap();
        let both = |r: usize| [a.row(r), b.row(r)].concat();
        (0..rows).map(both).collect::<Vec<_>>()
    };
    let mut want = put(&mut dev, 0, ROWS);
    let slot = SlotId(1);
    let length = (FIRST + ROWS - MORE) as u32;
    let mut plan = StepPlan {
        step: 2,
        changes: vec![SlotChange::Truncate { slot, length }],
        chunk_tokens: (0..MORE as u32).map(TokenId).collect(),
        ..StepPlan::default()
    };
    plan.push(slot, Feed::Known(0..MORE), true);
    dev.begin(&plan).unwrap();
    want.extend(put(&mut dev, ROWS, MORE));

    // As they are, in place of a product. The last rows of both steps stand for the same.
    dev.begin_rows(ROWS + MORE).unwrap();
    let said = dev.tensor(ROWS + MORE, 2 * width).unwrap();
    let refused = dev.keep_unread(&said, &unread, &mut kept).unwrap_err().to_string();
    assert!(refused.contains("two hidden states for row"), "{refused}");
    dev.begin_rows(ROWS).unwrap();
    let rows = dev.unread_rows(&unread).data.to_vec();
    let mut first = dev.tensor(ROWS, 2 * width).unwrap();
    first.data.copy_from_slice(&rows[..ROWS * 2 * width]);
    dev.keep_unread(&first, &unread, &mut kept).unwrap();
    dev.end_rows();
    for (r, want) in want.iter().enumerate() {
        assert_eq!(&rows[r * 2 * width..(r + 1) * 2 * width], want, "row {r}");
    }
    for (r, want) in want.iter().enumerate().take(ROWS) {
        assert_eq!(kept.row(kept_row(FIRST + r)), want, "row {r}");
    }
    let touched = kept.data.iter().filter(|&&x| x != 0.0).count();
    assert_eq!(touched, ROWS * 2 * width, "and nothing else");
    assert!(dev.put_unread(&first, 1, &mut unread).is_err(), "too wide");
}

#[test]
fn rows_lie_beside_each_other_and_start_blank_if_they_are_to() {
    for (first, blank) in [(0, false), (3, true), (7, false)] {
        let mut dev = device(Isa::detect(), 1, 4, 0, no_kv());
        let values = Noise(4).values(4 * 5);
        let x = tensor(&mut dev, 4, 5, &values);
        let mut out = dev.tensor(4, 12).unwrap();
        out.data.fill(2.0);
        dev.put_columns(&x, first, blank, &mut out).unwrap();
        for r in 0..4 {
            let (row, columns) = (out.row(r), first..first + 5);
            let want = if blank && r == 0 { &[0.0; 5][..] } else { x.row(r) };
            assert_eq!(&row[columns.clone()], want, "row {r}");
            let mut others = row.iter().enumerate().filter(|(i, _)| !columns.contains(i));
            assert!(others.all(|(_, &x)| x == 2.0), "row {r}: columns beside");
        }
        assert!(dev.put_columns(&x, 8, false, &mut out).is_err());
    }
}

#[test]
fn logits_of_some_tokens_are_spread_over_all() {
    let mut dev = device(Isa::detect(), 1, 3, 0, no_kv());
    let places = [-1.0, 1.0, -1.0, 0.0, 2.0];
    let map = upload(&mut dev, WeightKind::Vector, DType::F32, (5, 1), &places);
    let mut few = dev.logits_tensor(1, 3).unwrap();
    few.row_mut(0).copy_from_slice(&[10.0, 11.0, 12.0]);
    let mut logits = dev.logits_tensor(1, 5).unwrap();
    dev.spread_logits(&map, &few, &mut logits).unwrap();
    let none = f32::NEG_INFINITY;
    assert_eq!(logits.row(0), [none, 11.0, none, 10.0, 12.0]);
}
