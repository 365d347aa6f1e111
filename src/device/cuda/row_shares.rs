//! The sum over ranks of many rows, the residual and its norm, each rank for its share of the rows
//! (kernels/ranks_rows.cu). Between two such seams a rank's residual holds its own rows alone, and
//! what it reads next of the norm may be the codes that it rounds it to. `dense` calls it, behind
//! the product; it knows no layer.

use super::abi;
use super::coded_scratch::padded_inputs;
use super::device_ptr::DevicePtr;
use super::joined_norm::pieces_of_row;
use super::ranks::Member;
use super::tensor::Holds;
use super::weights::{Held, Weight};
use super::{Cuda, Tensor};
use crate::device::{InputQuant, Join, NormKind, Seam, Sublayer};
use crate::error::Result;
use crate::internal;

const OF: &str = "linear_add_norm";

/// The next seam is such a one too: it reads its rank's rows of the residual alone.
fn goes_on(next: Option<Sublayer<'_, Weight>>, width: usize) -> bool {
    next.is_some_and(|next| next.last.join == Join::Sum && next.last.outputs == width)
}

impl Cuda {
    /// Blocks of the launch that makes this rank's share of a seam's rows, behind a weight's
    /// products; None: there is no such launch for it, or others are faster.
    ///
    /// # Errors
    /// Internal: the residual is parted, and there is none.
    pub(super) fn blocks_of_row_shares(
        &self,
        weight: &Weight,
        seam: &Seam<'_, Weight, Tensor>,
        rows: usize,
    ) -> Result<Option<usize>> {
        let (width, parted) = (weight.outputs, seam.residual.parted);
        let takes = pieces_of_row(width, self.dtype).is_some()
            && seam.norm.kind != NormKind::Layer
            && (parted || goes_on(seam.next, width));
        let member: Option<&Member> = self.member.as_ref().filter(|_| weight.join == Join::Sum);
        let blocks = member
            .filter(|_| takes)
            .and_then(|member| member.blocks_of_shares(rows, rows * width * self.dtype.bytes()));
        if blocks.is_none() && parted {
            return Err(internal!(
                "{}: the rows of its residual lie with several ranks",
                weight.name
            ));
        }
        Ok(blocks)
    }

    /// Whether codes, which `made_of` has just said where to put, are all that is to be left of a
    /// norm of so many rows. From here on it holds nothing else then.
    pub(super) fn leaves_codes(
        &self,
        next: Option<Sublayer<'_, Weight>>,
        rows: usize,
        normed: &mut Tensor,
    ) -> bool {
        let Some(rounded) = normed.rounded.as_mut().filter(|made| made.holds == Holds::Bytes)
        else {
            return false;
        };
        rounded.alone = next.is_some_and(|next| self.reads_bytes(next.first, rows));
        rounded.alone
    }

    /// Whether products of so many rows with a weight read codes of their inputs, as bytes, alone.
    fn reads_bytes(&self, weight: &Weight, rows: usize) -> bool {
        let Held::Coded(coded) = &weight.held else { return false };
        let adapted = weight.adapters.is_some() && self.slots.batch().adapters;
        let by_row = coded.inputs == Some(InputQuant::E4m3Row) && self.takes_e4m3(coded);
        by_row && !adapted && weight.outputs.is_multiple_of(16) && self.rounds_to_bytes(rows)
    }

    /// The launch, by as many blocks as `blocks_of_row_shares` says.
    pub(super) fn share_rows(
        &self,
        of: &str,
        blocks: usize,
        seam: Seam<'_, Weight, Tensor>,
    ) -> Result<()> {
        let Seam { norm, delta, residual, normed, next } = seam;
        let (rows, width) = (self.rows(), residual.width);
        let whole = !goes_on(next, width);
        let mut to = abi::AddNorm {
            delta: delta.at(rows, width, OF),
            residual: residual.share(rows, width, OF),
            weight: norm.weight.vector(width),
            bias: DevicePtr::NULL,
            out: normed.to(rows, width, OF),
            codes: DevicePtr::NULL,
            bytes: DevicePtr::NULL,
            steps: DevicePtr::NULL,
            width: width as u32,
            padded_width: padded_inputs(width) as u32,
            eps: norm.eps,
            kind: norm.kind.into(),
            delta_bias: DevicePtr::NULL,
        };
        residual.parted = !whole;

        let made = self.made_of(rows, normed);
        if self.leaves_codes(next, rows, normed) {
            (to.out, to.bytes, to.steps) = (DevicePtr::NULL, made.bytes, made.steps);
        } else {
            // They are made of the norm by those who read it.
            normed.to(rows, width, OF);
        }
        self.launch_row_shares(of, blocks, rows, whole, to)
    }

    /// Each rank says where it wants what, so that they need not want the same.
    pub(super) fn launch_row_shares(
        &self,
        of: &str,
        blocks: usize,
        rows: usize,
        whole: bool,
        norm: abi::AddNorm,
    ) -> Result<()> {
        let member = self.member(of)?;
        member.meet()?;
        let all = member.parameters();
        let whole = u32::from(whole);
        let parameters = abi::SumAddNormRows { all, norm, rows: rows as u32, whole };
        let (grid, threads) = ([blocks, 1], abi::EXCHANGE_THREADS);
        self.kernels.sum_add_norm_rows.launch(&self.context, grid, threads, &parameters)?;
        member.meet()
    }
}
