//! The end of a step on the GPU: which of the sampler's kernels run, over what, and the memory they
//! need. `Cuda::sample` calls it; the arithmetic is in kernels/sampler.cu and kernels/logprobs.cu.
//! Nothing here is recorded into a graph, so launches may depend on the step.

use std::sync::Arc;

use super::abi::{self, LogprobRequest, ReportPiece};
use super::context::Context;
use super::device_ptr::DevicePtr;
use super::gemm_small_m;
use super::memory::Memory;
use super::module::Kernels;
use super::reports::{Place, Reports};
use super::slots::Slots;
use super::steps::{OnDevice, SampleInput, Steps};
use super::tensor::Tensor;
use crate::error::Result;
use crate::ids::SlotId;
use crate::plan::TokenMasks;

/// Blocks per multiprocessor that a scan is cut into, and logits that a block gets at least.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
const LEAST_PART: usize = 4096;
/// Rows that report at a time, each with a copy of its logits: at 128k tokens 32 MiB.
const WAVE: usize = 64;
/// Logits of a part that a block reports on, and such parts of a row at most.
const REPORT_PART: usize = 8192;
const REPORT_PARTS: usize = 32;

/// Memory of the sampler, made once for the widest logits.
pub struct Sampler {
    context: Arc<Context>,
    /// Best of each part of each row: two u64.
    best: Option<Memory>,
    /// Copies of rows that report.
    kept: Option<Memory>,
    pieces: Option<Memory>,
    /// Lists of slots whose rows have no room for them.
    far: Vec<Option<Memory>>,
}

/// Parts of a row, and logits of one: a multiple of 128, so that a part begins with a mask's word.
fn parts(vocab: usize, wanted: usize) -> (usize, usize) {
    let length = vocab.div_ceil(wanted.max(1)).next_multiple_of(128);
    (vocab.div_ceil(length).max(1), length)
}

fn kept_bytes(rows: usize, vocab: usize) -> usize {
    rows.min(WAVE) * vocab * 4
}

fn piece_bytes(rows: usize) -> usize {
    rows.min(WAVE) * REPORT_PARTS * size_of::<ReportPiece>()
}

/// What a sampler takes for so many logits rows.
pub fn bytes(rows: usize, vocab: usize) -> usize {
    kept_bytes(rows, vocab) + piece_bytes(rows)
}

impl Sampler {
    pub fn new(context: &Arc<Context>) -> Sampler {
        Sampler { context: context.clone(), best: None, kept: None, pieces: None, far: Vec::new() }
    }

    /// Take memory for logits of this shape; at load.
    pub fn hold(&mut self, rows: usize, vocab: usize) -> Result<()> {
        let context = &self.context;
        let room = |place: &mut Option<Memory>, bytes: usize| -> Result<()> {
            if place.as_ref().is_none_or(|memory| memory.bytes < bytes) {
                *place = None;
                *place = Some(Memory::new(context, bytes, "the sampler")?);
            }
            Ok(())
        };
        let parts = (self.blocks() + rows).max(gemm_small_m::most_parts(context));
        room(&mut self.best, 16 * parts)?;
        room(&mut self.kept, kept_bytes(rows, vocab))?;
        room(&mut self.pieces, piece_bytes(rows))
    }

    /// Where a product of few rows leaves the best of its parts; null before there are logits.
    pub fn best_of_parts(&self) -> DevicePtr {
        address(&self.best)
    }

    /// Blocks that fill the card.
    fn blocks(&self) -> usize {
        BLOCKS_PER_MULTIPROCESSOR * self.context.multiprocessors as usize
    }

    /// Memory for a slot's lists: its address. Grows to powers of two, which waits for the GPU.
    pub fn far(&mut self, slot: SlotId, words: usize) -> Result<DevicePtr> {
        if self.far.len() <= slot.index() {
            self.far.resize_with(slot.index() + 1, || None);
        }
        let place = &mut self.far[slot.index()];
        if place.as_ref().is_none_or(|memory| memory.bytes < 4 * words) {
            *place = None;
            let bytes = 4 * words.next_power_of_two();
            *place = Some(Memory::new(&self.context, bytes, "token lists of a request")?);
        }
        Ok(address(place))
    }

    /// Tokens and logprobs of the current batch, on their way to the host. Rows go in waves of so
    /// many reports as there are copies of logits; without reports one wave does it all. `best`:
    /// the product that made the logits left the best of so many parts of each row.
    pub fn run(
        &self,
        kernels: &Kernels,
        slots: &Slots,
        steps: &mut Steps,
        logits: &Tensor,
        masks: &TokenMasks,
        best: Option<usize>,
    ) -> Result<()> {
        let logits_rows = &slots.batch().logits;
        let (rows, vocab) = (logits_rows.len(), logits.width);
        let reports = Reports::new(logits_rows, vocab);
        let sent = steps.send_sample_input(masks, logits_rows, vocab, &reports.requests(WAVE))?;
        // Where no kernel reads them again ids go to the host at once.
        let there = reports.list.is_empty() && !slots.batch().drafts;
        let ids = if there { steps.results() } else { steps.device.out.address };
        let largest = slots.greedy && sent.mask_of.is_null() && reports.list.is_empty();
        let best = best.filter(|_| largest);
        let call = SampleStep { sampler: self, kernels, slots, logits, sent, ids, best };
        call.mask(&steps.device, rows)?;

        let waves = reports.list.len().div_ceil(WAVE).max(1);
        let mut first = 0;
        for wave in 0..waves {
            let (from, to) = (wave * WAVE, reports.list.len().min((wave + 1) * WAVE));
            let list = reports.list.get(from..to).unwrap_or_default();
            let end = reports.list.get(to).map_or(rows, |report| report.row);
            let requests = sent.requests.offset_bytes(from * size_of::<LogprobRequest>());
            call.keep(requests, list.len())?;
            for (n, report) in list.iter().enumerate() {
                if let Place::Whole(nth) = report.place {
                    let (memory, row) = match (report.kept, &self.kept) {
                        (true, Some(kept)) => (kept, n),
                        _ => (&logits.memory, report.row),
                    };
                    steps.take_row(memory, row, nth, vocab, reports.whole_rows)?;
                }
            }

            call.choose(&steps.device, first, end - first)?;
            call.report(&steps.device, requests, list.len())?;
            first = end;
        }
        call.accept(&steps.device, rows)?;
        steps.finish(slots.batch(), reports, there)
    }
}

/// One `sample`.
struct SampleStep<'a> {
    sampler: &'a Sampler,
    kernels: &'a Kernels,
    slots: &'a Slots,
    logits: &'a Tensor,
    sent: SampleInput,
    /// Where they go.
    ids: DevicePtr,
    /// All rows are greedy, and the best of so many parts of each is there.
    best: Option<usize>,
}

fn address(memory: &Option<Memory>) -> DevicePtr {
    memory.as_ref().map_or(DevicePtr::NULL, |memory| memory.address)
}

impl SampleStep<'_> {
    fn vocab(&self) -> u32 {
        self.logits.width as u32
    }

    /// Parts that a scan of `rows` rows is cut into, and their length.
    fn scan_parts(&self, rows: usize) -> (usize, usize) {
        let vocab = self.logits.width;
        let wanted = self.sampler.blocks().div_ceil(rows.max(1));
        parts(vocab, wanted.min(vocab.div_ceil(LEAST_PART)))
    }

    fn report_parts(&self) -> (usize, usize) {
        let vocab = self.logits.width;
        parts(vocab, vocab.div_ceil(REPORT_PART).min(REPORT_PARTS))
    }

    /// Step 1 of the spec.
    fn mask(&self, device: &OnDevice, rows: usize) -> Result<()> {
        let SampleInput { mask_of, masks, words_per_mask, .. } = self.sent;
        if mask_of.is_null() {
            return Ok(());
        }
        let (parts, length) = self.scan_parts(rows);
        let parameters = abi::MaskRows {
            logits: self.logits.memory.address,
            mask_of,
            masks,
            seen: device.seen.address,
            vocab: self.vocab(),
            length: length as u32,
            mask_words: words_per_mask,
            unused: 0,
        };
        let kernel = &self.kernels.mask_rows;
        kernel.launch(&self.sampler.context, [rows, parts], abi::SCAN_THREADS, &parameters)
    }

    /// Step 2: copies of the rows that `count` requests report and that will change.
    fn keep(&self, requests: DevicePtr, count: usize) -> Result<()> {
        let (parts, length) = self.report_parts();
        let parameters = abi::KeepRows {
            logits: self.logits.memory.address,
            kept: address(&self.sampler.kept),
            requests,
            vocab: self.vocab(),
            length: length as u32,
        };
        let kernel = &self.kernels.keep_rows;
        kernel.launch(&self.sampler.context, [count, parts], abi::REPORT_THREADS, &parameters)
    }

    /// Steps 3 to 8 for `rows` rows from `first` on.
    fn choose(&self, device: &OnDevice, first: usize, rows: usize) -> Result<()> {
        let context = &self.sampler.context;
        let vocab = self.vocab();
        let logits = self.logits.memory.address.offset_words(self.logits.width * first);
        let sample_slot = device.sample_slot.address.offset_words(first);
        let target = device.target.address.offset_words(first);
        let drafts = device.drafts.address.offset_words(2 * first);
        let seen = device.seen.address.offset_words(first);
        let slots = device.slot_rows(self.slots.layout());
        if self.slots.adjusts {
            let parameters = abi::AdjustRows {
                logits,
                sample_slot,
                target,
                gather_row: device.gather_row.address.offset_words(first),
                drafts,
                token: device.token.address,
                seen,
                slots,
                vocab,
                unused: 0,
            };
            let kernel = &self.kernels.adjust_rows;
            kernel.launch(context, [rows, 1], abi::ADJUST_THREADS, &parameters)?;
        }

        let (parts, length) = self.scan_parts(rows);
        let best = address(&self.sampler.best);
        let length = length as u32;
        let parameters =
            abi::ScanRows { logits, sample_slot, target, drafts, seen, slots, best, vocab, length };
        if self.best.is_none() {
            self.kernels.scan_rows.launch(
                context,
                [rows, parts],
                abi::SCAN_THREADS,
                &parameters,
            )?;
        }

        let parameters = abi::DrawRows {
            logits,
            sample_slot,
            target,
            drafts,
            seen,
            slots,
            best,
            out: self.ids.offset_words(first),
            vocab,
            parts: self.best.unwrap_or(parts) as u32,
            of_product: u32::from(self.best.is_some()),
            unused: 0,
        };
        self.kernels.draw_rows.launch(context, [rows, 1], abi::DRAW_THREADS, &parameters)
    }

    /// Slots that fed drafts learn which of the tokens of `rows` rows count.
    fn accept(&self, device: &OnDevice, rows: usize) -> Result<()> {
        if !self.slots.batch().drafts {
            return Ok(());
        }
        let parameters = abi::AcceptDrafts {
            sample_slot: device.sample_slot.address,
            gather_row: device.gather_row.address,
            drafts: device.drafts.address,
            token: device.token.address,
            out: device.out.address,
            slots: device.slot_rows(self.slots.layout()),
        };
        let kernel = &self.kernels.accept_drafts;
        kernel.launch(&self.sampler.context, [rows, 1], abi::DRAW_THREADS, &parameters)
    }

    /// The answers to `count` requests, behind the ids of the step.
    fn report(&self, device: &OnDevice, requests: DevicePtr, count: usize) -> Result<()> {
        let context = &self.sampler.context;
        let (parts, length) = self.report_parts();
        let logits = self.logits.memory.address;
        let kept = address(&self.sampler.kept);
        let pieces = address(&self.sampler.pieces);
        let target = device.target.address;
        let sampled = device.out.address;
        let vocab = self.vocab();
        let parameters = abi::ReportParts {
            logits,
            kept,
            requests,
            target,
            sampled,
            pieces,
            vocab,
            length: length as u32,
        };
        let kernel = &self.kernels.report_parts;
        kernel.launch(context, [count, parts], abi::REPORT_THREADS, &parameters)?;

        let parameters = abi::ReportRows {
            logits,
            kept,
            requests,
            target,
            sampled,
            pieces,
            answers: sampled.offset_words(self.slots.batch().logits.len()),
            vocab,
            parts: parts as u32,
        };
        self.kernels.report_rows.launch(context, [count, 1], 32, &parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_row() {
        for vocab in [1, 127, 128, 129, 50_257, 128_256, 300_001] {
            for wanted in [0, 1, 2, 7, 32, 1000] {
                let (count, length) = parts(vocab, wanted);
                assert!(count * length >= vocab && (count - 1) * length < vocab);
                assert!(count <= wanted.max(1) && length.is_multiple_of(128));
            }
        }
    }
}
