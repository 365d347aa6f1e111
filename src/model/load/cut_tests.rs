//! Some outputs and some inputs of values in every form, against the same of the values.

use super::*;
use crate::device::{unpacked, CodeType, DType, ScaleOver};

fn tensor(bytes: &[u8], rows: usize, cols: usize) -> HostTensor<'_> {
    HostTensor { dtype: DType::F32, rows, cols, bytes: Bytes::InMemory(bytes) }
}

fn numbers(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// All parts' values, one below the other.
fn values_of(source: &Source, form: Option<&QuantForm>) -> Vec<f32> {
    match (source, form) {
        (Source::Parts(parts) | Source::Quantise { parts, .. }, _) => {
            parts.iter().flat_map(|part| part.values().unwrap()).collect()
        }
        (Source::Codes { parts, order }, Some(form)) => {
            let plain = parts.iter().map(|part| unpacked(form, part, order).unwrap());
            plain.flat_map(|part| part.values().unwrap()).collect()
        }
        _ => panic!("neither parts nor codes"),
    }
}

/// `rows` of `cols`, without form.
fn some_rows(values: &[f32], cols: usize, rows: &[Range<usize>]) -> Vec<f32> {
    rows.iter().flat_map(|range| &values[range.start * cols..range.end * cols]).copied().collect()
}

fn some_columns(values: &[f32], cols: usize, columns: &Range<usize>) -> Vec<f32> {
    values.chunks_exact(cols).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// Two parts of codes, of 3 and 5 outputs.
fn coded(form: &QuantForm, cols: usize) -> Source<'static> {
    let part = |rows: usize, salt: usize| {
        let mixed = |i: usize| (i + salt).wrapping_mul(2_654_435_761) >> 5;
        let groups = rows * form.groups(cols);
        let codes: Vec<u8> =
            (0..rows * form.codes.row_bytes(cols)).map(|i| mixed(i) as u8 & 0x77).collect();
        let scales: Vec<f32> = (0..groups).map(|i| (mixed(i) % 7 + 1) as f32).collect();
        let offsets = if form.offsets { scales.iter().map(|s| s / 4.0).collect() } else { vec![] };
        QuantPart { rows, cols, codes: Bytes::Shared(codes.into()), scales, offsets }
    };
    Source::Codes { parts: vec![part(3, 1), part(5, 100)], order: Vec::new() }
}

fn forms() -> Vec<(QuantForm, usize)> {
    let plain = QuantForm { codes: CodeType::E4m3, group: 8, offsets: false, inputs: None };
    vec![
        (plain, 32),
        (QuantForm { codes: CodeType::Int8, offsets: true, ..plain }, 32),
        (QuantForm { codes: CodeType::Int4, offsets: true, ..plain }, 32),
        (QuantForm { codes: CodeType::E2m1, group: 16, ..plain }, 32),
        // One scale for each row.
        (QuantForm { codes: CodeType::Int4, group: 12, ..plain }, 12),
        (QuantForm { group: 12, ..plain }, 12),
        // A last group that is shorter.
        (QuantForm { group: 16, ..plain }, 40),
    ]
}

#[test]
fn outputs_of_plain_parts_stacked_and_turned() {
    let bytes = numbers(6 * 4);
    let rows = [1..3, 5..6, 0..1];
    let parts = || vec![tensor(&bytes[..64], 4, 4), tensor(&bytes[64..], 2, 4)];
    let want = some_rows(&(0..24).map(|i| i as f32).collect::<Vec<_>>(), 4, &rows);
    for source in
        [Source::Parts(parts()), Source::Quantise { parts: parts(), over: ScaleOver::Row }]
    {
        let cut = outputs(source, None, &rows, false).unwrap();
        assert_eq!(values_of(&cut, None), want);
    }

    // Outputs are columns: [inputs, outputs] = [4, 6].
    let turned = Source::Parts(vec![tensor(&bytes, 4, 6)]);
    let Source::Parts(parts) = outputs(turned, None, &[2..4, 5..6], true).unwrap() else {
        panic!("no parts");
    };
    let shapes: Vec<_> = parts.iter().map(|part| (part.rows, part.cols)).collect();
    assert_eq!(shapes, [(4, 2), (4, 1)]);
    assert_eq!(parts[0].values().unwrap(), [2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0]);
    assert_eq!(parts[1].values().unwrap(), [5.0, 11.0, 17.0, 23.0]);

    let beyond = outputs(
        Source::Parts(vec![tensor(&bytes, 6, 4)]),
        None,
        std::slice::from_ref(&(5..7)),
        false,
    );
    assert!(beyond.err().unwrap().to_string().contains("5..7"));
}

#[test]
fn inputs_of_plain_parts() {
    let bytes = numbers(24);
    let all: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let cut = |transposed, rows, cols| {
        let values = Values::plain(Source::Parts(vec![tensor(&bytes, rows, cols)]));
        values_of(&inputs(values, &(2..4), 6, transposed).unwrap().source, None)
    };
    assert_eq!(cut(false, 4, 6), some_columns(&all, 6, &(2..4)));
    assert_eq!(cut(true, 6, 4), all[8..16]);
}

#[test]
fn codes_keep_their_values() {
    for (form, cols) in forms() {
        let all = values_of(&coded(&form, cols), Some(&form));
        let rows = [1..4, 6..8];
        let some = outputs(coded(&form, cols), Some(&form), &rows, false).unwrap();
        assert_eq!(values_of(&some, Some(&form)), some_rows(&all, cols, &rows), "{form:?}");

        for columns in [0..cols / 2, cols / 2..cols] {
            let whole = form.group >= cols || columns.start.is_multiple_of(form.group);
            if !whole || columns.end < cols && !columns.end.is_multiple_of(form.group) {
                continue;
            }
            let values = Values { form: Some(form), source: coded(&form, cols) };
            let Values { form: Some(cut), source } = inputs(values, &columns, cols, false).unwrap()
            else {
                panic!("no form");
            };
            let Source::Codes { parts, .. } = &source else { panic!("no codes") };
            assert!(parts.iter().all(|part| {
                let scales = part.rows * cut.groups(part.cols);
                part.cols == columns.len()
                    && part.codes.len() == part.rows * cut.codes.row_bytes(part.cols)
                    && part.scales.len() == scales
                    && part.offsets.len() == if cut.offsets { scales } else { 0 }
            }));
            assert_eq!(
                values_of(&source, Some(&cut)),
                some_columns(&all, cols, &columns),
                "{form:?}, inputs {columns:?}"
            );
        }
    }
}

#[test]
fn zeros_follow_the_last_row() {
    let bytes = numbers(8);
    let plain = padded(Source::Parts(vec![tensor(&bytes, 2, 4)]), None, 5, 4);
    let values = values_of(&plain, None);
    assert_eq!((values.len(), &values[4..8]), (20, &[4.0, 5.0, 6.0, 7.0][..]));
    assert!(values[8..].iter().all(|&x| x == 0.0));

    for (form, cols) in forms() {
        let all = values_of(&coded(&form, cols), Some(&form));
        let values = values_of(&padded(coded(&form, cols), Some(&form), 11, cols), Some(&form));
        assert_eq!(values[..8 * cols], all);
        assert!(values.len() == 11 * cols && values[8 * cols..].iter().all(|&x| x == 0.0));
    }

    // A rank may hold nothing but those.
    let none = outputs(
        Source::Parts(vec![tensor(&bytes, 2, 4)]),
        None,
        std::slice::from_ref(&(2..2)),
        false,
    )
    .unwrap();
    let Source::Parts(parts) = padded(none, None, 3, 4) else { panic!("no parts") };
    assert_eq!(parts.iter().map(|part| part.rows).collect::<Vec<_>>(), [0, 3]);
}
