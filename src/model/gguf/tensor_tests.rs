//! Every type of blocks against what the `gguf` package makes of the same bytes, as floats and as
//! codes, whole and in pieces.

use std::path::{Path, PathBuf};

use super::super::files::Gguf;
use super::*;
use crate::device::{QuantForm, QuantPart};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

/// Random bytes of every type; the package's values of each.
fn types() -> Vec<(Arc<Tensor>, Vec<f32>)> {
    let gguf = Gguf::open(&fixture("types.gguf"), &Arc::default()).unwrap();
    let values = std::fs::read(fixture("types.f32")).unwrap();
    let (values, _) = values.as_chunks::<4>();
    let mut values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut stored: Vec<_> = gguf.stored().map(|(_, stored)| stored.clone()).collect();
    stored.sort_by_key(|stored| stored.at);
    let tensor = |stored: Stored| {
        let own = values.by_ref().take(stored.rows * stored.cols).collect();
        let shard = Arc::clone(&gguf.shards[0]);
        (Arc::new(Tensor { stored, shard, order: Order::AsStored, less: 0.0 }), own)
    };
    let all: Vec<_> = stored.into_iter().map(tensor).collect();
    assert!(values.next().is_none());
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// What the codes of all rows mean.
fn decoded(tensor: &Arc<Tensor>, form: Form, group: usize) -> Vec<f32> {
    let codes = tensor.codes().unwrap();
    let rows = tensor.stored.rows;
    let view = View { tensor: Arc::clone(tensor), form };
    let (scales, offsets) = tensor.scales(0..rows, group, form).unwrap();
    let part = QuantPart {
        rows,
        cols: tensor.stored.cols,
        codes: view.bytes(0..rows),
        scales,
        offsets: if codes.offsets { offsets } else { Vec::new() },
    };
    let wide = crate::device::CodeType::Int8;
    let form = QuantForm {
        codes: if form == Form::Wide { wide } else { codes.narrow.codes() },
        group,
        offsets: codes.offsets,
        inputs: None,
    };
    part.values(&form, 0..rows).unwrap()
}

#[test]
fn floats_are_the_packages_bit_for_bit() {
    let types = types();
    assert_eq!(types.len(), super::super::block_types::TYPES.len());
    for (tensor, want) in types {
        let kind = tensor.stored.kind.name;
        assert_eq!(tensor.stored.name, kind, "the file says which is which");
        assert!(want.iter().any(|x| *x < 0.0) && want.iter().any(|x| *x > 0.0), "{kind}");
        assert_eq!(bits(&tensor.floats().unwrap()), bits(&want), "{kind}");
    }
}

#[test]
fn codes_mean_the_same() {
    for (tensor, want) in types() {
        let kind = tensor.stored.kind.name;
        let Some(codes) = tensor.codes() else { continue };
        for group in [codes.group, 16] {
            let wide = decoded(&tensor, Form::Wide, group);
            assert_eq!(bits(&wide), bits(&want), "{kind} as bytes, groups of {group}");
        }

        let narrow = decoded(&tensor, Form::Narrow, codes.group);
        if !matches!(codes.narrow, Narrow::Int4 { plus: 0 }) {
            assert_eq!(bits(&narrow), bits(&want), "{kind}");
            continue;
        }
        // The offset holds 8 scales more, which takes a rounding.
        let (scales, offsets) = tensor.scales(0..2, codes.group, Form::Wide).unwrap();
        for (n, (got, want)) in narrow.iter().zip(&want).enumerate() {
            let size = 16.0 * scales[n / codes.group].abs() + offsets[n / codes.group].abs();
            assert!((got - want).abs() <= size * f32::EPSILON, "{kind}, {n}: {got}, not {want}");
        }
    }
}

/// Whoever reads may ask for any bytes.
#[test]
fn pieces_of_rows_are_those_of_the_whole() {
    for (tensor, _) in types() {
        let forms = match tensor.codes() {
            Some(_) => &[Form::Values, Form::Narrow, Form::Wide][..],
            None => &[Form::Values],
        };
        for &form in forms {
            let view = View { tensor: Arc::clone(&tensor), form };
            let whole = view.bytes(0..2).load().unwrap().into_owned();
            assert_eq!(whole.len(), 2 * view.row_bytes());
            for range in [1..2, 7..whole.len() - 3, view.row_bytes() - 1..view.row_bytes() + 2] {
                let mut piece = vec![0; range.len()];
                view.read(range.start as u64, &mut piece).unwrap();
                assert_eq!(piece, whole[range.clone()], "{} {range:?}", tensor.stored.kind.name);
            }
        }
    }
}

#[test]
fn rows_of_a_head_are_put_in_their_order() {
    let pairs = Order::Pairs { head: 6 };
    let rows: Vec<usize> = (0..12).map(|row| pairs.source(row)).collect();
    assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);

    let (tensor, _) = types().into_iter().find(|(t, _)| t.stored.kind.name == "Q4_0").unwrap();
    let (stored, shard) = (tensor.stored.clone(), Arc::clone(&tensor.shard));
    let turned = |order, less| Tensor { stored: stored.clone(), shard: shard.clone(), order, less };
    let plain = turned(Order::AsStored, 1.0).floats().unwrap();
    let expected: Vec<f32> = tensor.floats().unwrap().iter().map(|x| x - 1.0).collect();
    assert_eq!(plain, expected);
    // Two rows are a head whose order does not change; a part of it is read by itself.
    let head = Arc::new(turned(Order::Pairs { head: 2 }, 0.0));
    let view = View { tensor: head, form: Form::Wide };
    let all = view.bytes(0..2).load().unwrap().into_owned();
    assert_eq!(view.bytes(1..2).load().unwrap()[..], all[256..]);
}
