//! Where the rows of a part lie in a checkpoint's tensor that holds several. `load` takes weights
//! apart by it, the reader of adapters what is added to them; nothing is read here.

use std::ops::Range;

use crate::device::ScanSpec;

/// Where the parts of all groups lie, of which each holds a part after the other: those of the
/// first part, then those of the second, ...
pub fn by_part(groups: usize, parts: &[usize]) -> Vec<Range<usize>> {
    let whole: usize = parts.iter().sum();
    let mut rows = Vec::with_capacity(groups * parts.len());
    let mut start = 0;
    for part in parts {
        rows.extend((0..groups).map(|g| g * whole + start..g * whole + start + part));
        start += part;
    }
    rows
}

/// Of `heads` of q, `width` rows each, that are followed by a gate as wide: all heads (0), or all
/// gates (1).
pub fn halves_of_heads(heads: usize, width: usize, half: usize) -> Vec<Range<usize>> {
    let starts = (0..heads).map(|head| (2 * head + half) * width);
    starts.map(|start| start..start + width).collect()
}

/// x, B, C, gate and rates in front of a selective scan, of a tensor that has the gate first.
pub fn scan_input(scan: &ScanSpec) -> [Range<usize>; 5] {
    let (inner, group) = (scan.inner_width(), scan.group_width());
    let b = 2 * inner;
    let c = b + group;
    let rates = c + group;
    [inner..b, b..c, c..rates, 0..inner, rates..rates + scan.heads]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<usize> {
        ranges.into_iter().flatten().collect()
    }

    #[test]
    fn parts_of_groups_are_taken_apart() {
        assert_eq!(rows(by_part(2, &[1, 2])), [0, 3, 1, 2, 4, 5]);
    }

    #[test]
    fn heads_and_their_gates_are_taken_apart() {
        assert_eq!(rows(halves_of_heads(2, 2, 0)), [0, 1, 4, 5]);
        assert_eq!(rows(halves_of_heads(2, 2, 1)), [2, 3, 6, 7]);
    }

    #[test]
    fn the_gate_of_a_scan_comes_behind_what_is_convolved() {
        let scan = ScanSpec { heads: 1, head_dim: 2, groups: 1, state: 1 };
        assert_eq!(rows(scan_input(&scan)), [2, 3, 4, 5, 0, 1, 6]);
    }
}
