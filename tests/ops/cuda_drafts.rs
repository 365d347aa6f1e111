//! What heads need that draft from hidden states, on the GPU against the CPU device. Part of
//! `cuda_ops`.

use super::*;

/// Widths that are copied 16 bytes a thread, and element by element.
#[test]
fn hidden_states_are_kept_by_page() {
    each_type(|dtype| {
        for (rows, width) in [(1, 64), (37, 264), (20, 5), (33, 1030)] {
            let case = format!("{rows} rows of {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let old = b.input(rows, width, 80);
                let kept_rows = b.kept_rows();
                let mut kept = b.dev.tensor(kept_rows, width)?;
                b.dev.keep_hidden(&old, &mut kept)?;
                // Another sequence of as many rows, in other pages.
                let x = b.input(rows, width, 81);
                b.dev.keep_hidden(&x, &mut kept)?;
                let mut back = b.tensor(rows, width);
                b.dev.kept_hidden(&kept, &mut back)?;
                Ok(vec![("kept_hidden", b.dev.read(&back, rows)?)])
            });
        }
    });
}

/// Inputs of two steps, in other pages each, whose product is made and kept at once.
#[test]
fn inputs_of_several_steps_become_kept_rows_at_once() {
    each_type(|dtype| {
        for (rows, width) in [(1, 64), (20, 12), (33, 264)] {
            let case = format!("{rows} rows of two times {width}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let product = b.linear(88, 40, 2 * width);
                let mut unread = b.dev.unread(2 * rows, 2 * width)?;
                for (step, seed) in [(0, 86), (1, 87)] {
                    let x = b.input(rows, width, seed);
                    b.dev.begin_unread(step * rows, &mut unread)?;
                    b.dev.put_unread(&x, 0, &mut unread)?;
                    b.dev.put_unread(&x, width, &mut unread)?;
                }

                let kept_rows = b.kept_rows();
                let mut kept = b.dev.tensor(kept_rows, 40)?;
                let mut made = b.tensor(2 * rows, 40);
                b.dev.begin_rows(2 * rows)?;
                let inputs = b.dev.unread_rows(&unread);
                b.dev.linear(&product, None, inputs, &mut made)?;
                b.dev.keep_unread(&made, &unread, &mut kept)?;
                b.dev.end_rows();
                let mut back = b.tensor(rows, 40);
                b.dev.kept_hidden(&kept, &mut back)?;
                let made = b.dev.read(&made, 2 * rows)?;
                Ok(vec![("made", made), ("kept", b.dev.read(&back, rows)?)])
            });
        }
    });
}

#[test]
fn rows_lie_beside_each_other() {
    each_type(|dtype| {
        for (width, first, blank) in [(64, 64, false), (24, 8, true), (5, 3, true), (40, 0, true)] {
            let case = format!("{width} columns from {first} on");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let mut out = b.input(9, 2 * width + 8, 83);
                let x = b.input(9, width, 82);
                b.dev.put_columns(&x, first, blank, &mut out)?;
                Ok(vec![("put_columns", b.dev.read(&out, 9)?)])
            });
        }
    });
}

/// -inf is no number to compare: 99 stands for it.
#[test]
fn logits_of_some_tokens_are_spread_over_all() {
    each_type(|dtype| {
        for (few, vocab) in [(3, 5), (70, 301), (512, 1024)] {
            let case = format!("{few} of {vocab}");
            compare!(dtype, &Setup::default(), &case, 1.0, |b| {
                let step = (vocab / few).max(1);
                let place = |token: usize| match token % step {
                    0 if token / step < few => (token / step) as f32,
                    _ => -1.0,
                };
                let places: Vec<f32> = (0..vocab).map(place).collect();
                let map = b.given(WeightKind::Vector, &places, 1);
                let x = b.input(1, 64, 84);
                let head = b.linear(85, few, 64);
                let mut small = b.dev.logits_tensor(1, few)?;
                b.dev.logits(&head, None, &x, &mut small)?;
                let mut logits = b.dev.logits_tensor(1, vocab)?;
                b.dev.spread_logits(&map, &small, &mut logits)?;
                let spread = b.dev.read(&logits, 1)?;
                let finite = |x: f32| if x == f32::NEG_INFINITY { 99.0 } else { x };
                Ok(vec![("spread_logits", spread.into_iter().map(finite).collect())])
            });
        }
    });
}
