//! Rows of q and k in the order in which devices rotate them, in whatever form they come. Part of
//! `load`. Rows are copied, since an order of single rows has no view.

use crate::device::{Bytes, HostTensor, QuantForm, QuantPart, Source};
use crate::error::Result;
use crate::internal;
use crate::model::head_order::HeadOrder;
use crate::model::quant::unpack;

/// The first `rows` rows, which are whole heads, in another order; those behind them as they are.
pub(super) fn heads<'a>(
    source: Source<'a>,
    form: Option<&QuantForm>,
    order: HeadOrder,
    rows: usize,
) -> Result<Source<'a>> {
    let plain = |parts: Vec<HostTensor<'a>>| -> Result<Vec<HostTensor<'a>>> {
        each(
            parts,
            |part| part.rows,
            rows,
            order,
            |part, from| {
                let bytes = lines(&part.bytes, part.rows, from)?;
                Ok(HostTensor { bytes, ..part.clone() })
            },
        )
    };

    Ok(match source {
        Source::Parts(parts) => Source::Parts(plain(parts)?),
        Source::Quantise { parts, over } => Source::Quantise { parts: plain(parts)?, over },
        Source::Codes { parts, order: inputs } => {
            let Some(form) = form else { return Err(internal!("codes without their form")) };
            let coded = |part: &QuantPart<'a>, from: &[usize]| codes(part, form, from);
            let parts = each(parts, |part| part.rows, rows, order, coded)?;
            Source::Codes { parts, order: inputs }
        }
        Source::Dummy { .. } | Source::Constant(_) => source,
    })
}

/// Of parts that lie one below the other those that hold some of the first `rows` rows, made anew
/// from the rows that `order` names.
fn each<P>(
    parts: Vec<P>,
    count: impl Fn(&P) -> usize,
    rows: usize,
    order: HeadOrder,
    made: impl Fn(&P, &[usize]) -> Result<P>,
) -> Result<Vec<P>> {
    let mut start = 0;
    let mut ordered = Vec::with_capacity(parts.len());
    for part in parts {
        let own = count(&part);
        let heads = own.min(rows.saturating_sub(start));
        if !start.is_multiple_of(order.head_dim) || !heads.is_multiple_of(order.head_dim) {
            return Err(internal!("a part of {own} rows from {start} on holds no whole heads"));
        }

        start += own;
        if heads == 0 {
            ordered.push(part);
            continue;
        }
        let from = |row| if row < heads { order.stored(row) } else { row };
        let from: Vec<usize> = (0..own).map(from).collect();
        ordered.push(made(&part, &from)?);
    }
    Ok(ordered)
}

/// Lines of bytes, `count` of one length, in this order.
fn lines<'a>(bytes: &Bytes<'a>, count: usize, from: &[usize]) -> Result<Bytes<'a>> {
    let old = unpack::read(bytes)?;
    let mut new = unpack::zeroed(old.len())?;
    let line = old.len() / count.max(1);
    for (to, &from) in new.chunks_exact_mut(line.max(1)).zip(from) {
        to.copy_from_slice(&old[from * line..(from + 1) * line]);
    }
    Ok(Bytes::Shared(new.into()))
}

fn codes<'a>(part: &QuantPart<'a>, form: &QuantForm, from: &[usize]) -> Result<QuantPart<'a>> {
    let groups = form.groups(part.cols);
    let of_groups = |all: &[f32]| match all {
        [] => Vec::new(),
        all => {
            from.iter().flat_map(|row| &all[row * groups..(row + 1) * groups]).copied().collect()
        }
    };
    Ok(QuantPart {
        codes: lines(&part.codes, part.rows, from)?,
        scales: of_groups(&part.scales),
        offsets: of_groups(&part.offsets),
        ..part.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{unpacked, CodeType, DType};

    const ORDER: HeadOrder = HeadOrder { head_dim: 4, first: 0, rotary_dim: 4 };
    /// Of two heads of q, one of k and one of v.
    const ROWS: [usize; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 13, 14, 15];

    fn floats(rows: std::ops::Range<usize>, cols: usize) -> HostTensor<'static> {
        let values =
            rows.clone().flat_map(|row| (0..cols).map(move |col| (100 * row + col) as f32));
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let bytes = Bytes::Shared(bytes.into());
        HostTensor { dtype: DType::F32, rows: rows.len(), cols, bytes }
    }

    fn rows_of(source: &Source) -> Vec<usize> {
        let Source::Parts(parts) = source else { panic!("no parts") };
        let values = |part: &HostTensor| -> Vec<usize> {
            let values = part.values().unwrap();
            values.chunks_exact(part.cols).map(|row| row[0] as usize / 100).collect()
        };
        parts.iter().flat_map(values).collect()
    }

    #[test]
    fn fused_or_in_parts_q_and_k_alone_are_ordered() {
        for parts in [
            vec![floats(0..16, 3)],
            vec![floats(0..8, 3), floats(8..12, 3), floats(12..16, 3)],
            vec![floats(0..4, 1), floats(4..16, 1)],
        ] {
            let ordered = heads(Source::Parts(parts), None, ORDER, 12).unwrap();
            assert_eq!(rows_of(&ordered), ROWS);
        }
    }

    #[test]
    fn codes_are_ordered_with_their_scales_and_offsets() {
        let form = QuantForm { codes: CodeType::Int4, group: 2, offsets: true, inputs: None };
        let (rows, cols) = (16, 6);
        let groups = |step: f32| (0..3 * rows).map(|i| step * i as f32).collect::<Vec<f32>>();
        let codes: Vec<u8> = (0..rows * 3).map(|i| (i * 37 % 251) as u8).collect();
        let codes = Bytes::Shared(codes.into());
        let part = QuantPart { rows, cols, codes, scales: groups(1.0), offsets: groups(0.5) };
        let values = |part: &QuantPart| unpacked(&form, part, &[]).unwrap().values().unwrap();

        let old = values(&part);
        let source = Source::Codes { parts: vec![part], order: vec![] };
        let Source::Codes { parts, .. } = heads(source, Some(&form), ORDER, 12).unwrap() else {
            panic!("no codes")
        };
        let want: Vec<f32> =
            ROWS.iter().flat_map(|row| &old[row * cols..(row + 1) * cols]).copied().collect();
        assert_eq!(values(&parts[0]), want);
    }

    #[test]
    fn parts_of_heads_are_a_mistake() {
        let parts = vec![floats(0..6, 1), floats(6..16, 1)];
        assert!(heads(Source::Parts(parts), None, ORDER, 12).is_err());
    }
}
