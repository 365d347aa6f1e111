//! A rank's part of a weight's values: views of some outputs or some inputs, in whatever form the
//! values come. Part of `load`. Nothing is read here; it knows no layer and no rank.

use std::ops::Range;

use crate::device::{Bytes, HostTensor, QuantForm, QuantPart, Source};
use crate::error::Result;
use crate::internal;
use crate::model::quant::unpack::Values;

/// Some outputs of a source's parts, in this order. `transposed`: outputs are columns there.
pub(super) fn outputs<'a>(
    source: Source<'a>,
    form: Option<&QuantForm>,
    rows: &[Range<usize>],
    transposed: bool,
) -> Result<Source<'a>> {
    let plain = |parts: &[HostTensor<'a>]| {
        let count = |part: &HostTensor| if transposed { part.cols } else { part.rows };
        pick(parts, count, rows, |part, range| {
            if transposed {
                part.columns(range)
            } else {
                rows_of(part, range)
            }
        })
    };

    Ok(match (source, form) {
        (Source::Parts(parts), _) => Source::Parts(plain(&parts)?),
        (Source::Quantise { parts, over }, _) => Source::Quantise { parts: plain(&parts)?, over },
        (Source::Codes { parts, order }, Some(form)) => {
            let some = |part: &QuantPart<'a>, range| codes_of(part, form, range);
            Source::Codes { parts: pick(&parts, |part| part.rows, rows, some)?, order }
        }
        (Source::Codes { .. }, None) => return Err(internal!("codes without their form")),
        (other, _) => other,
    })
}

/// Some of `all` inputs of each output. Those of codes are whole groups of `values.form`, and in
/// order.
pub(super) fn inputs<'a>(
    values: Values<'a>,
    inputs: &Range<usize>,
    all: usize,
    transposed: bool,
) -> Result<Values<'a>> {
    let plain = |parts: Vec<HostTensor<'a>>| -> Vec<HostTensor<'a>> {
        let some = |part: &HostTensor<'a>| {
            if transposed {
                rows_of(part, inputs.clone())
            } else {
                part.columns(inputs.clone())
            }
        };
        parts.iter().map(some).collect()
    };

    let source = match (values.source, &values.form) {
        (Source::Parts(parts), _) => Source::Parts(plain(parts)),
        (Source::Quantise { parts, over }, _) => Source::Quantise { parts: plain(parts), over },
        (Source::Codes { parts, order }, Some(form)) if order.is_empty() => {
            let parts = parts.iter().map(|part| code_columns(part, form, inputs));
            Source::Codes { parts: parts.collect::<Result<_>>()?, order }
        }
        (Source::Codes { .. }, _) => return Err(internal!("codes in an order of their own")),
        (other, _) => other,
    };
    // A scale for each row stays one.
    let group = |group| if group == all { inputs.len() } else { group };
    let form = values.form.map(|form| QuantForm { group: group(form.group), ..form });
    Ok(Values { form, source })
}

/// So many rows of each, one behind the other, then the next ones. All have as many rows.
pub(super) fn in_turn<'a>(all: &[HostTensor<'a>], rows: usize) -> Vec<HostTensor<'a>> {
    let rounds = all.first().map_or(0, |first| first.rows / rows.max(1));
    let of_round = |n: usize| all.iter().map(move |t| rows_of(t, n * rows..(n + 1) * rows));
    (0..rounds).flat_map(of_round).collect()
}

/// Rows of zeros behind all others, so that there are `rows` of `cols`.
pub(super) fn padded<'a>(
    source: Source<'a>,
    form: Option<&QuantForm>,
    rows: usize,
    cols: usize,
) -> Source<'a> {
    let zeros = |parts: &mut Vec<HostTensor<'a>>| {
        let more = rows.saturating_sub(parts.iter().map(|part| part.rows).sum());
        let Some(first) = parts.first().filter(|_| more > 0) else { return };
        let bytes = vec![0; more * cols * first.dtype.bytes()];
        let zeros = Bytes::Shared(bytes.into());
        parts.push(HostTensor { dtype: first.dtype, rows: more, cols, bytes: zeros });
    };

    match (source, form) {
        (Source::Parts(mut parts), _) => {
            zeros(&mut parts);
            Source::Parts(parts)
        }
        (Source::Quantise { mut parts, over }, _) => {
            zeros(&mut parts);
            Source::Quantise { parts, over }
        }
        (Source::Codes { mut parts, order }, Some(form)) => {
            let more = rows.saturating_sub(parts.iter().map(|part| part.rows).sum());
            if more > 0 {
                let groups = vec![0.0; more * form.groups(cols)];
                let codes = vec![0; more * form.codes.row_bytes(cols)];
                parts.push(QuantPart {
                    rows: more,
                    cols,
                    codes: Bytes::Shared(codes.into()),
                    offsets: if form.offsets { groups.clone() } else { Vec::new() },
                    scales: groups,
                });
            }
            Source::Codes { parts, order }
        }
        (other, _) => other,
    }
}

/// Of parts that lie one below the other, `some` of each part that a range touches.
fn pick<P>(
    parts: &[P],
    count: impl Fn(&P) -> usize,
    rows: &[Range<usize>],
    some: impl Fn(&P, Range<usize>) -> P,
) -> Result<Vec<P>> {
    let mut picked = Vec::new();
    for wanted in rows {
        let (mut start, mut found) = (0, 0);
        for part in parts {
            let end = start + count(part);
            let range = wanted.start.max(start)..wanted.end.min(end);
            if !range.is_empty() {
                found += range.len();
                picked.push(some(part, range.start - start..range.end - start));
            }
            start = end;
        }
        if found != wanted.len() {
            return Err(internal!("rows {wanted:?} of {start}"));
        }
    }
    // What holds nothing keeps its type.
    if let (true, Some(first)) = (picked.is_empty(), parts.first()) {
        picked.push(some(first, 0..0));
    }
    Ok(picked)
}

/// Some rows of a tensor.
fn rows_of<'a>(whole: &HostTensor<'a>, rows: Range<usize>) -> HostTensor<'a> {
    let row_bytes = whole.cols * whole.dtype.bytes();
    let bytes = whole.bytes.slice(rows.start * row_bytes..rows.end * row_bytes);
    HostTensor { rows: rows.len(), bytes, ..whole.clone() }
}

/// Some rows of codes.
fn codes_of<'a>(whole: &QuantPart<'a>, form: &QuantForm, rows: Range<usize>) -> QuantPart<'a> {
    let row_bytes = form.codes.row_bytes(whole.cols);
    let groups = form.groups(whole.cols);
    let of_groups = |all: &[f32]| match all {
        [] => Vec::new(),
        all => all[rows.start * groups..rows.end * groups].to_vec(),
    };
    QuantPart {
        rows: rows.len(),
        cols: whole.cols,
        codes: whole.codes.slice(rows.start * row_bytes..rows.end * row_bytes),
        scales: of_groups(&whole.scales),
        offsets: of_groups(&whole.offsets),
    }
}

/// Some columns of codes, whole groups if a row has several.
fn code_columns<'a>(
    whole: &QuantPart<'a>,
    form: &QuantForm,
    columns: &Range<usize>,
) -> Result<QuantPart<'a>> {
    let bits = form.codes.bits();
    let first_bit = columns.start * bits;
    if !first_bit.is_multiple_of(8) {
        return Err(internal!("codes from {} on begin within a byte", columns.start));
    }
    let first = first_bit / 8;
    let bytes = first..first + form.codes.row_bytes(columns.len());
    let groups = form.groups(whole.cols);
    let some = match groups {
        0 | 1 => 0..groups,
        _ => columns.start / form.group..columns.end.div_ceil(form.group),
    };

    let of_groups = |all: &[f32]| -> Vec<f32> {
        all.chunks_exact(groups.max(1)).flat_map(|row| &row[some.clone()]).copied().collect()
    };
    Ok(QuantPart {
        rows: whole.rows,
        cols: columns.len(),
        codes: whole.codes.columns(form.codes.row_bytes(whole.cols), bytes),
        scales: of_groups(&whole.scales),
        offsets: of_groups(&whole.offsets),
    })
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
