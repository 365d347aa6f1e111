//! Matrices that are stored with adapters of several tasks beside them (`parametrizations` of
//! torch): the last task's is merged, as vLLM does. Part of `load`, whose loader asks for every
//! tensor here.

use crate::device::{Bytes, DType, HostTensor};
use crate::error::Result;
use crate::invalid;
use crate::model::checkpoint::Checkpoint;

/// Adapters of a few dozen tasks, of a few dimensions each.
const MAX_RANK: usize = 1024;

/// Where a matrix and its adapters are stored, by its usual name.
fn apart(name: &str) -> Option<String> {
    let module = name.strip_suffix("weight")?;
    Some(format!("{module}parametrizations.weight."))
}

/// Whether a checkpoint has this tensor, with adapters beside it or without.
pub(super) fn is_stored(checkpoint: &Checkpoint, name: &str) -> bool {
    let merged = apart(name).is_some_and(|at| checkpoint.contains(&format!("{at}original")));
    checkpoint.contains(name) || merged
}

/// A tensor of `rows` x `cols`, its adapter times `scale` merged if it has one.
///
/// # Errors
/// Those of [`Checkpoint::tensor`]; adapters of other shapes.
pub(super) fn stored<'a>(
    checkpoint: &'a Checkpoint,
    scale: Option<f32>,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<HostTensor<'a>> {
    let stands_apart = |at: &str| checkpoint.contains(&format!("{at}original"));
    let at = scale.zip(apart(name)).filter(|(_, at)| stands_apart(at));
    let Some((scale, at)) = at else { return checkpoint.tensor(name, rows, cols) };

    let whole = checkpoint.tensor(&format!("{at}original"), rows, cols)?;
    let [left, right] = factors(checkpoint, &at, [rows, cols])?;
    let rank = right.len() / cols.max(1);
    let mut bytes = Vec::with_capacity(4 * rows * cols);
    for row in 0..rows {
        let mut sums = whole.rows(row..row + 1).values()?;
        for (r, right) in right.chunks_exact(cols).enumerate() {
            let factor = scale * left[row * rank + r];
            sums.iter_mut().zip(right).for_each(|(sum, x)| *sum += factor * x);
        }
        bytes.extend(sums.iter().flat_map(|&x| whole.dtype.round(x).to_le_bytes()));
    }
    let bytes = Bytes::Shared(bytes.into());
    Ok(HostTensor { dtype: DType::F32, rows, cols, bytes })
}

/// The last task's `[rows, rank]` and `[rank, cols]`: B and A of a linear, A and B of a table.
fn factors(checkpoint: &Checkpoint, at: &str, [rows, cols]: [usize; 2]) -> Result<[Vec<f32>; 2]> {
    let [a, b] = ["lora_A", "lora_B"].map(|end| format!("{at}0.{end}"));
    // One of them tells what both should be; what fits neither is named below.
    let (tasks, rank, of_table) = match [&a, &b].map(|name| checkpoint.shape_of(name)) {
        [Some(&[tasks, rank, width]), _] if width == cols => (tasks, rank, false),
        [Some(&[tasks, height, rank]), _] if height == rows => (tasks, rank, true),
        [None, Some(&[tasks, height, rank])] if height == rows => (tasks, rank, false),
        [None, Some(&[tasks, rank, width])] if width == cols => (tasks, rank, true),
        _ => (1, 1, false),
    };
    if tasks == 0 || rank == 0 || rank > MAX_RANK {
        return Err(invalid!(
            "{at}0.lora_A has adapters of {tasks} tasks of rank {rank}: at least one, of rank 1 to \
             {MAX_RANK}."
        ));
    }

    let last = |name: &str, [rows, cols]: [usize; 2]| -> Result<Vec<f32>> {
        let all = checkpoint.stack(name, tasks, rows, cols)?;
        all.rows((tasks - 1) * rows..tasks * rows).values()
    };
    let (left, right) = ([rows, rank], [rank, cols]);
    let a = last(&a, if of_table { left } else { right })?;
    let b = last(&b, if of_table { right } else { left })?;
    Ok(if of_table { [a, b] } else { [b, a] })
}
