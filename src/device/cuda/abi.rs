//! Made from `src/device/cuda/kernels/abi_codes.h` by `TRITON_VLLM_WRITE_BINDINGS=1 cargo test --release --test tidy bindings`.

use super::device_ptr::DevicePtr;

#[doc = " The slot of a token row that only pads the batch: nothing may be read or written for it beyond\n its own row."]
pub const NO_SLOT: u32 = 4294967295;
#[doc = " Instead of a mask's number or length: there is none."]
pub const NO_MASK: u32 = 4294967295;
#[doc = " What was seen of a logits row: NaN or +inf; something above -inf."]
pub const SEEN_WILD: u32 = 1;
pub const SEEN_ABOVE: u32 = 2;
#[doc = " The start of a slot's row. Behind it lie room for the sampler's lists, the page table, and the\n counts: entries of a token and how often it was sampled (0 = it is in the prompt only)."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SlotHeader {
    #[doc = " Positions that are in pages."]
    pub length: u32,
    #[doc = " The newest token, which the next step may feed."]
    pub last_token: u32,
    #[doc = " Tokens that were sampled."]
    pub outputs: u32,
    #[doc = " Entries of the counts."]
    pub count_entries: u32,
    pub temperature: f32,
    #[doc = " 0 = all."]
    pub top_k: u32,
    pub top_p: f32,
    #[doc = " -inf = none."]
    pub ln_min_p: f32,
    pub repetition_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub seed_low: u32,
    pub seed_high: u32,
    #[doc = " Below so many outputs the first list is masked."]
    pub min_tokens: u32,
    #[doc = " The lists lie one behind the other. First the tokens that min_tokens masks: so many."]
    pub masked: u32,
    #[doc = " Whether the counts are kept."]
    pub needs_counts: u32,
    #[doc = " The lists where the row has no room for them; null: in the row."]
    pub lists: DevicePtr,
    #[doc = " Biases: token and f32."]
    pub biases: u32,
    #[doc = " Bad words: where the tokens of each begin in the lists, how many they are; the tokens follow\n the ring."]
    pub bad_words: u32,
    #[doc = " The ring of newest outputs, between biases and bad words: output n is at n % tail."]
    pub tail: u32,
    #[doc = " The mask of allowed tokens: its words, or NO_MASK, and where it begins in the lists."]
    pub allowed_words: u32,
    pub allowed_at: u32,
    #[doc = " 1 + the slot of its adapter, 0 = none."]
    pub adapter: u32,
    #[doc = " Tokens before the one that is chosen, beyond the slot's positions."]
    pub ahead: u32,
    pub unused: [u32; 7usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SlotHeader"][::std::mem::size_of::<SlotHeader>() - 128usize];
    ["Alignment of SlotHeader"][::std::mem::align_of::<SlotHeader>() - 8usize];
    ["Offset of field: SlotHeader::length"][::std::mem::offset_of!(SlotHeader, length) - 0usize];
    ["Offset of field: SlotHeader::last_token"]
        [::std::mem::offset_of!(SlotHeader, last_token) - 4usize];
    ["Offset of field: SlotHeader::outputs"][::std::mem::offset_of!(SlotHeader, outputs) - 8usize];
    ["Offset of field: SlotHeader::count_entries"]
        [::std::mem::offset_of!(SlotHeader, count_entries) - 12usize];
    ["Offset of field: SlotHeader::temperature"]
        [::std::mem::offset_of!(SlotHeader, temperature) - 16usize];
    ["Offset of field: SlotHeader::top_k"][::std::mem::offset_of!(SlotHeader, top_k) - 20usize];
    ["Offset of field: SlotHeader::top_p"][::std::mem::offset_of!(SlotHeader, top_p) - 24usize];
    ["Offset of field: SlotHeader::ln_min_p"]
        [::std::mem::offset_of!(SlotHeader, ln_min_p) - 28usize];
    ["Offset of field: SlotHeader::repetition_penalty"]
        [::std::mem::offset_of!(SlotHeader, repetition_penalty) - 32usize];
    ["Offset of field: SlotHeader::frequency_penalty"]
        [::std::mem::offset_of!(SlotHeader, frequency_penalty) - 36usize];
    ["Offset of field: SlotHeader::presence_penalty"]
        [::std::mem::offset_of!(SlotHeader, presence_penalty) - 40usize];
    ["Offset of field: SlotHeader::seed_low"]
        [::std::mem::offset_of!(SlotHeader, seed_low) - 44usize];
    ["Offset of field: SlotHeader::seed_high"]
        [::std::mem::offset_of!(SlotHeader, seed_high) - 48usize];
    ["Offset of field: SlotHeader::min_tokens"]
        [::std::mem::offset_of!(SlotHeader, min_tokens) - 52usize];
    ["Offset of field: SlotHeader::masked"][::std::mem::offset_of!(SlotHeader, masked) - 56usize];
    ["Offset of field: SlotHeader::needs_counts"]
        [::std::mem::offset_of!(SlotHeader, needs_counts) - 60usize];
    ["Offset of field: SlotHeader::lists"][::std::mem::offset_of!(SlotHeader, lists) - 64usize];
    ["Offset of field: SlotHeader::biases"][::std::mem::offset_of!(SlotHeader, biases) - 72usize];
    ["Offset of field: SlotHeader::bad_words"]
        [::std::mem::offset_of!(SlotHeader, bad_words) - 76usize];
    ["Offset of field: SlotHeader::tail"][::std::mem::offset_of!(SlotHeader, tail) - 80usize];
    ["Offset of field: SlotHeader::allowed_words"]
        [::std::mem::offset_of!(SlotHeader, allowed_words) - 84usize];
    ["Offset of field: SlotHeader::allowed_at"]
        [::std::mem::offset_of!(SlotHeader, allowed_at) - 88usize];
    ["Offset of field: SlotHeader::adapter"][::std::mem::offset_of!(SlotHeader, adapter) - 92usize];
    ["Offset of field: SlotHeader::ahead"][::std::mem::offset_of!(SlotHeader, ahead) - 96usize];
    ["Offset of field: SlotHeader::unused"][::std::mem::offset_of!(SlotHeader, unused) - 100usize];
};
#[doc = " All slot rows, and where the parts of a row lie, in words."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SlotRows {
    pub rows: DevicePtr,
    #[doc = " Words of a row, a multiple of 32."]
    pub stride: u64,
    pub lists: u32,
    pub pages: u32,
    pub counts: u32,
    #[doc = " Entries of two words."]
    pub counts_capacity: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SlotRows"][::std::mem::size_of::<SlotRows>() - 32usize];
    ["Alignment of SlotRows"][::std::mem::align_of::<SlotRows>() - 8usize];
    ["Offset of field: SlotRows::rows"][::std::mem::offset_of!(SlotRows, rows) - 0usize];
    ["Offset of field: SlotRows::stride"][::std::mem::offset_of!(SlotRows, stride) - 8usize];
    ["Offset of field: SlotRows::lists"][::std::mem::offset_of!(SlotRows, lists) - 16usize];
    ["Offset of field: SlotRows::pages"][::std::mem::offset_of!(SlotRows, pages) - 20usize];
    ["Offset of field: SlotRows::counts"][::std::mem::offset_of!(SlotRows, counts) - 24usize];
    ["Offset of field: SlotRows::counts_capacity"]
        [::std::mem::offset_of!(SlotRows, counts_capacity) - 28usize];
};
#[doc = " Flag of a record: its token is the one that the slot sampled last."]
pub const FEED_LAST: u32 = 1;
#[doc = " And: its tokens have places beside positions."]
pub const HAS_PLACES: u32 = 2;
#[doc = " The target of a logits row that is sampled from; another value is the token to report on."]
pub const TO_SAMPLE: u32 = 4294967295;
#[doc = " The sampled id of a row that is not finite."]
pub const NOT_FINITE: u32 = 4294967295;
#[doc = " A sequence of the step, or a slot that only changes. Places in the input count words from its\n start."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct StepRecord {
    pub slot: u32,
    #[doc = " Token rows; 0: there are only changes."]
    pub tokens: u32,
    #[doc = " FEED_LAST, HAS_PLACES."]
    pub flags: u32,
    #[doc = " Where its tokens lie in the input, unless FEED_LAST."]
    pub chunk: u32,
    #[doc = " Its first token row."]
    pub first_row: u32,
    pub first_logits_row: u32,
    #[doc = " Where its changes lie in the input."]
    pub changes: u32,
    pub change_count: u32,
    #[doc = " Its logits rows."]
    pub logits_count: u32,
    #[doc = " Where these lie in the input."]
    pub logits: u32,
    #[doc = " Where three numbers of each token lie, if it has places."]
    pub places: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StepRecord"][::std::mem::size_of::<StepRecord>() - 48usize];
    ["Alignment of StepRecord"][::std::mem::align_of::<StepRecord>() - 4usize];
    ["Offset of field: StepRecord::slot"][::std::mem::offset_of!(StepRecord, slot) - 0usize];
    ["Offset of field: StepRecord::tokens"][::std::mem::offset_of!(StepRecord, tokens) - 4usize];
    ["Offset of field: StepRecord::flags"][::std::mem::offset_of!(StepRecord, flags) - 8usize];
    ["Offset of field: StepRecord::chunk"][::std::mem::offset_of!(StepRecord, chunk) - 12usize];
    ["Offset of field: StepRecord::first_row"]
        [::std::mem::offset_of!(StepRecord, first_row) - 16usize];
    ["Offset of field: StepRecord::first_logits_row"]
        [::std::mem::offset_of!(StepRecord, first_logits_row) - 20usize];
    ["Offset of field: StepRecord::changes"][::std::mem::offset_of!(StepRecord, changes) - 24usize];
    ["Offset of field: StepRecord::change_count"]
        [::std::mem::offset_of!(StepRecord, change_count) - 28usize];
    ["Offset of field: StepRecord::logits_count"]
        [::std::mem::offset_of!(StepRecord, logits_count) - 32usize];
    ["Offset of field: StepRecord::logits"][::std::mem::offset_of!(StepRecord, logits) - 36usize];
    ["Offset of field: StepRecord::places"][::std::mem::offset_of!(StepRecord, places) - 40usize];
    ["Offset of field: StepRecord::unused"][::std::mem::offset_of!(StepRecord, unused) - 44usize];
};
#[doc = " Drafts of a sequence in a step at most."]
pub const MAX_DRAFTS: u32 = 64;
#[doc = " Where a logits row stands among the drafts of its sequence; both 0: there are none."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RowDrafts {
    #[doc = " Drafts up to its token row, which all lie in front of it."]
    pub before: u32,
    #[doc = " Drafts behind it."]
    pub behind: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowDrafts"][::std::mem::size_of::<RowDrafts>() - 8usize];
    ["Alignment of RowDrafts"][::std::mem::align_of::<RowDrafts>() - 4usize];
    ["Offset of field: RowDrafts::before"][::std::mem::offset_of!(RowDrafts, before) - 0usize];
    ["Offset of field: RowDrafts::behind"][::std::mem::offset_of!(RowDrafts, behind) - 4usize];
};
#[doc = " A logits row of a sequence."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LogitsRecord {
    #[doc = " Its token row."]
    pub row: u32,
    #[doc = " The token to report on, or TO_SAMPLE."]
    pub target: u32,
    pub drafts: RowDrafts,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LogitsRecord"][::std::mem::size_of::<LogitsRecord>() - 16usize];
    ["Alignment of LogitsRecord"][::std::mem::align_of::<LogitsRecord>() - 4usize];
    ["Offset of field: LogitsRecord::row"][::std::mem::offset_of!(LogitsRecord, row) - 0usize];
    ["Offset of field: LogitsRecord::target"]
        [::std::mem::offset_of!(LogitsRecord, target) - 4usize];
    ["Offset of field: LogitsRecord::drafts"]
        [::std::mem::offset_of!(LogitsRecord, drafts) - 8usize];
};
#[doc = " `count` words from word `from` of the input to word `to` of the slot's row, or of the memory at\n `far`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RowChange {
    #[doc = " Null: the row."]
    pub far: DevicePtr,
    pub to: u32,
    pub from: u32,
    pub count: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowChange"][::std::mem::size_of::<RowChange>() - 24usize];
    ["Alignment of RowChange"][::std::mem::align_of::<RowChange>() - 8usize];
    ["Offset of field: RowChange::far"][::std::mem::offset_of!(RowChange, far) - 0usize];
    ["Offset of field: RowChange::to"][::std::mem::offset_of!(RowChange, to) - 8usize];
    ["Offset of field: RowChange::from"][::std::mem::offset_of!(RowChange, from) - 12usize];
    ["Offset of field: RowChange::count"][::std::mem::offset_of!(RowChange, count) - 16usize];
    ["Offset of field: RowChange::unused"][::std::mem::offset_of!(RowChange, unused) - 20usize];
};
#[doc = " `words` u32 from pinned memory of the host; both places begin at 16 bytes and have room for a\n multiple of four words."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FetchInput {
    pub from: DevicePtr,
    pub to: DevicePtr,
    pub words: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FetchInput"][::std::mem::size_of::<FetchInput>() - 24usize];
    ["Alignment of FetchInput"][::std::mem::align_of::<FetchInput>() - 8usize];
    ["Offset of field: FetchInput::from"][::std::mem::offset_of!(FetchInput, from) - 0usize];
    ["Offset of field: FetchInput::to"][::std::mem::offset_of!(FetchInput, to) - 8usize];
    ["Offset of field: FetchInput::words"][::std::mem::offset_of!(FetchInput, words) - 16usize];
    ["Offset of field: FetchInput::unused"][::std::mem::offset_of!(FetchInput, unused) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PrepareStep {
    #[doc = " Records, a block each; changes; then the words that both point to."]
    pub input: DevicePtr,
    pub slots: SlotRows,
    #[doc = " Of each token row."]
    pub token: DevicePtr,
    pub position: DevicePtr,
    #[doc = " \\[rows, 3], what turns go by (RopeStore): a position, where there are none"]
    pub places: DevicePtr,
    pub slot_of: DevicePtr,
    #[doc = " 1 + the adapter slot, 0 = none."]
    pub adapter_slot_of: DevicePtr,
    #[doc = " Of each logits row: its token row, its slot, its target, its drafts."]
    pub gather_row: DevicePtr,
    pub sample_slot: DevicePtr,
    pub target: DevicePtr,
    pub drafts: DevicePtr,
    #[doc = " Token rows, and those with padding."]
    pub rows: u32,
    pub padded_rows: u32,
    #[doc = " Logits rows, and those with padding."]
    pub logits_rows: u32,
    pub padded_logits_rows: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PrepareStep"][::std::mem::size_of::<PrepareStep>() - 128usize];
    ["Alignment of PrepareStep"][::std::mem::align_of::<PrepareStep>() - 8usize];
    ["Offset of field: PrepareStep::input"][::std::mem::offset_of!(PrepareStep, input) - 0usize];
    ["Offset of field: PrepareStep::slots"][::std::mem::offset_of!(PrepareStep, slots) - 8usize];
    ["Offset of field: PrepareStep::token"][::std::mem::offset_of!(PrepareStep, token) - 40usize];
    ["Offset of field: PrepareStep::position"]
        [::std::mem::offset_of!(PrepareStep, position) - 48usize];
    ["Offset of field: PrepareStep::places"][::std::mem::offset_of!(PrepareStep, places) - 56usize];
    ["Offset of field: PrepareStep::slot_of"]
        [::std::mem::offset_of!(PrepareStep, slot_of) - 64usize];
    ["Offset of field: PrepareStep::adapter_slot_of"]
        [::std::mem::offset_of!(PrepareStep, adapter_slot_of) - 72usize];
    ["Offset of field: PrepareStep::gather_row"]
        [::std::mem::offset_of!(PrepareStep, gather_row) - 80usize];
    ["Offset of field: PrepareStep::sample_slot"]
        [::std::mem::offset_of!(PrepareStep, sample_slot) - 88usize];
    ["Offset of field: PrepareStep::target"][::std::mem::offset_of!(PrepareStep, target) - 96usize];
    ["Offset of field: PrepareStep::drafts"]
        [::std::mem::offset_of!(PrepareStep, drafts) - 104usize];
    ["Offset of field: PrepareStep::rows"][::std::mem::offset_of!(PrepareStep, rows) - 112usize];
    ["Offset of field: PrepareStep::padded_rows"]
        [::std::mem::offset_of!(PrepareStep, padded_rows) - 116usize];
    ["Offset of field: PrepareStep::logits_rows"]
        [::std::mem::offset_of!(PrepareStep, logits_rows) - 120usize];
    ["Offset of field: PrepareStep::padded_logits_rows"]
        [::std::mem::offset_of!(PrepareStep, padded_logits_rows) - 124usize];
};
#[doc = " ---- The sampler (sampler.cu) ----"]
pub const ADJUST_THREADS: u32 = 512;
pub const SCAN_THREADS: u32 = 512;
pub const DRAW_THREADS: u32 = 1024;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MaskRows {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[rows], or NO_MASK: only rows that are sampled from have one"]
    pub mask_of: DevicePtr,
    #[doc = " \\[masks, mask_words]"]
    pub masks: DevicePtr,
    #[doc = " \\[rows], what was seen of a row (SEEN_*); 0 between steps"]
    pub seen: DevicePtr,
    pub vocab: u32,
    #[doc = " Logits of a part of a row."]
    pub length: u32,
    pub mask_words: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MaskRows"][::std::mem::size_of::<MaskRows>() - 48usize];
    ["Alignment of MaskRows"][::std::mem::align_of::<MaskRows>() - 8usize];
    ["Offset of field: MaskRows::logits"][::std::mem::offset_of!(MaskRows, logits) - 0usize];
    ["Offset of field: MaskRows::mask_of"][::std::mem::offset_of!(MaskRows, mask_of) - 8usize];
    ["Offset of field: MaskRows::masks"][::std::mem::offset_of!(MaskRows, masks) - 16usize];
    ["Offset of field: MaskRows::seen"][::std::mem::offset_of!(MaskRows, seen) - 24usize];
    ["Offset of field: MaskRows::vocab"][::std::mem::offset_of!(MaskRows, vocab) - 32usize];
    ["Offset of field: MaskRows::length"][::std::mem::offset_of!(MaskRows, length) - 36usize];
    ["Offset of field: MaskRows::mask_words"]
        [::std::mem::offset_of!(MaskRows, mask_words) - 40usize];
    ["Offset of field: MaskRows::unused"][::std::mem::offset_of!(MaskRows, unused) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdjustRows {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[rows]"]
    pub sample_slot: DevicePtr,
    pub target: DevicePtr,
    pub gather_row: DevicePtr,
    pub drafts: DevicePtr,
    #[doc = " \\[token rows]"]
    pub token: DevicePtr,
    #[doc = " \\[rows]"]
    pub seen: DevicePtr,
    pub slots: SlotRows,
    pub vocab: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdjustRows"][::std::mem::size_of::<AdjustRows>() - 96usize];
    ["Alignment of AdjustRows"][::std::mem::align_of::<AdjustRows>() - 8usize];
    ["Offset of field: AdjustRows::logits"][::std::mem::offset_of!(AdjustRows, logits) - 0usize];
    ["Offset of field: AdjustRows::sample_slot"]
        [::std::mem::offset_of!(AdjustRows, sample_slot) - 8usize];
    ["Offset of field: AdjustRows::target"][::std::mem::offset_of!(AdjustRows, target) - 16usize];
    ["Offset of field: AdjustRows::gather_row"]
        [::std::mem::offset_of!(AdjustRows, gather_row) - 24usize];
    ["Offset of field: AdjustRows::drafts"][::std::mem::offset_of!(AdjustRows, drafts) - 32usize];
    ["Offset of field: AdjustRows::token"][::std::mem::offset_of!(AdjustRows, token) - 40usize];
    ["Offset of field: AdjustRows::seen"][::std::mem::offset_of!(AdjustRows, seen) - 48usize];
    ["Offset of field: AdjustRows::slots"][::std::mem::offset_of!(AdjustRows, slots) - 56usize];
    ["Offset of field: AdjustRows::vocab"][::std::mem::offset_of!(AdjustRows, vocab) - 88usize];
    ["Offset of field: AdjustRows::unused"][::std::mem::offset_of!(AdjustRows, unused) - 92usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScanRows {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[rows]"]
    pub sample_slot: DevicePtr,
    pub target: DevicePtr,
    pub drafts: DevicePtr,
    #[doc = " \\[rows]"]
    pub seen: DevicePtr,
    pub slots: SlotRows,
    #[doc = " \\[rows, parts, 2]"]
    pub best: DevicePtr,
    pub vocab: u32,
    #[doc = " Logits of a part of a row, a multiple of 128."]
    pub length: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScanRows"][::std::mem::size_of::<ScanRows>() - 88usize];
    ["Alignment of ScanRows"][::std::mem::align_of::<ScanRows>() - 8usize];
    ["Offset of field: ScanRows::logits"][::std::mem::offset_of!(ScanRows, logits) - 0usize];
    ["Offset of field: ScanRows::sample_slot"]
        [::std::mem::offset_of!(ScanRows, sample_slot) - 8usize];
    ["Offset of field: ScanRows::target"][::std::mem::offset_of!(ScanRows, target) - 16usize];
    ["Offset of field: ScanRows::drafts"][::std::mem::offset_of!(ScanRows, drafts) - 24usize];
    ["Offset of field: ScanRows::seen"][::std::mem::offset_of!(ScanRows, seen) - 32usize];
    ["Offset of field: ScanRows::slots"][::std::mem::offset_of!(ScanRows, slots) - 40usize];
    ["Offset of field: ScanRows::best"][::std::mem::offset_of!(ScanRows, best) - 72usize];
    ["Offset of field: ScanRows::vocab"][::std::mem::offset_of!(ScanRows, vocab) - 80usize];
    ["Offset of field: ScanRows::length"][::std::mem::offset_of!(ScanRows, length) - 84usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DrawRows {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[rows]"]
    pub sample_slot: DevicePtr,
    pub target: DevicePtr,
    pub drafts: DevicePtr,
    #[doc = " \\[rows]"]
    pub seen: DevicePtr,
    pub slots: SlotRows,
    #[doc = " \\[rows, parts, 2]"]
    pub best: DevicePtr,
    #[doc = " \\[rows], sampled ids or NOT_FINITE"]
    pub out: DevicePtr,
    pub vocab: u32,
    pub parts: u32,
    #[doc = " `best` is of the product that made the logits: beside a part's largest stands what was seen of\n it, and there is no noise. All rows are greedy."]
    pub of_product: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DrawRows"][::std::mem::size_of::<DrawRows>() - 104usize];
    ["Alignment of DrawRows"][::std::mem::align_of::<DrawRows>() - 8usize];
    ["Offset of field: DrawRows::logits"][::std::mem::offset_of!(DrawRows, logits) - 0usize];
    ["Offset of field: DrawRows::sample_slot"]
        [::std::mem::offset_of!(DrawRows, sample_slot) - 8usize];
    ["Offset of field: DrawRows::target"][::std::mem::offset_of!(DrawRows, target) - 16usize];
    ["Offset of field: DrawRows::drafts"][::std::mem::offset_of!(DrawRows, drafts) - 24usize];
    ["Offset of field: DrawRows::seen"][::std::mem::offset_of!(DrawRows, seen) - 32usize];
    ["Offset of field: DrawRows::slots"][::std::mem::offset_of!(DrawRows, slots) - 40usize];
    ["Offset of field: DrawRows::best"][::std::mem::offset_of!(DrawRows, best) - 72usize];
    ["Offset of field: DrawRows::out"][::std::mem::offset_of!(DrawRows, out) - 80usize];
    ["Offset of field: DrawRows::vocab"][::std::mem::offset_of!(DrawRows, vocab) - 88usize];
    ["Offset of field: DrawRows::parts"][::std::mem::offset_of!(DrawRows, parts) - 92usize];
    ["Offset of field: DrawRows::of_product"]
        [::std::mem::offset_of!(DrawRows, of_product) - 96usize];
    ["Offset of field: DrawRows::unused"][::std::mem::offset_of!(DrawRows, unused) - 100usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AcceptDrafts {
    #[doc = " \\[rows]"]
    pub sample_slot: DevicePtr,
    pub gather_row: DevicePtr,
    pub drafts: DevicePtr,
    #[doc = " \\[token rows]"]
    pub token: DevicePtr,
    #[doc = " \\[rows], sampled ids or NOT_FINITE"]
    pub out: DevicePtr,
    pub slots: SlotRows,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AcceptDrafts"][::std::mem::size_of::<AcceptDrafts>() - 72usize];
    ["Alignment of AcceptDrafts"][::std::mem::align_of::<AcceptDrafts>() - 8usize];
    ["Offset of field: AcceptDrafts::sample_slot"]
        [::std::mem::offset_of!(AcceptDrafts, sample_slot) - 0usize];
    ["Offset of field: AcceptDrafts::gather_row"]
        [::std::mem::offset_of!(AcceptDrafts, gather_row) - 8usize];
    ["Offset of field: AcceptDrafts::drafts"]
        [::std::mem::offset_of!(AcceptDrafts, drafts) - 16usize];
    ["Offset of field: AcceptDrafts::token"][::std::mem::offset_of!(AcceptDrafts, token) - 24usize];
    ["Offset of field: AcceptDrafts::out"][::std::mem::offset_of!(AcceptDrafts, out) - 32usize];
    ["Offset of field: AcceptDrafts::slots"][::std::mem::offset_of!(AcceptDrafts, slots) - 40usize];
};
#[doc = " ---- Logprobs (logprobs.cu) ----"]
pub const REPORT_THREADS: u32 = 256;
#[doc = " Others that an answer lists at most where they are the largest."]
pub const REPORT_MAX_TOP: u32 = 64;
#[doc = " No kept copy, no list of tokens, no answer."]
pub const NOT_ASKED: u32 = 4294967295;
#[doc = " What a logits row reports."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LogprobRequest {
    pub row: u32,
    #[doc = " The kept copy that stands for the row, or NOT_ASKED: the row itself."]
    pub kept: u32,
    #[doc = " How many others it lists."]
    pub count: u32,
    #[doc = " Where their tokens begin, in words from the first request, or NOT_ASKED: the largest."]
    pub tokens: u32,
    #[doc = " Where the answer goes, in words of the answers, or NOT_ASKED: the host wants the whole row."]
    pub answer: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LogprobRequest"][::std::mem::size_of::<LogprobRequest>() - 20usize];
    ["Alignment of LogprobRequest"][::std::mem::align_of::<LogprobRequest>() - 4usize];
    ["Offset of field: LogprobRequest::row"][::std::mem::offset_of!(LogprobRequest, row) - 0usize];
    ["Offset of field: LogprobRequest::kept"]
        [::std::mem::offset_of!(LogprobRequest, kept) - 4usize];
    ["Offset of field: LogprobRequest::count"]
        [::std::mem::offset_of!(LogprobRequest, count) - 8usize];
    ["Offset of field: LogprobRequest::tokens"]
        [::std::mem::offset_of!(LogprobRequest, tokens) - 12usize];
    ["Offset of field: LogprobRequest::answer"]
        [::std::mem::offset_of!(LogprobRequest, answer) - 16usize];
};
#[doc = " The start of an answer; the others follow."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LogprobAnswer {
    pub logprob: f32,
    #[doc = " 0: the row is not finite. Not said of kept rows, which the sampler judges and of which masks\n may have left nothing."]
    pub rank: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LogprobAnswer"][::std::mem::size_of::<LogprobAnswer>() - 8usize];
    ["Alignment of LogprobAnswer"][::std::mem::align_of::<LogprobAnswer>() - 4usize];
    ["Offset of field: LogprobAnswer::logprob"]
        [::std::mem::offset_of!(LogprobAnswer, logprob) - 0usize];
    ["Offset of field: LogprobAnswer::rank"][::std::mem::offset_of!(LogprobAnswer, rank) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct TokenLogprob {
    pub token: u32,
    pub logprob: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TokenLogprob"][::std::mem::size_of::<TokenLogprob>() - 8usize];
    ["Alignment of TokenLogprob"][::std::mem::align_of::<TokenLogprob>() - 4usize];
    ["Offset of field: TokenLogprob::token"][::std::mem::offset_of!(TokenLogprob, token) - 0usize];
    ["Offset of field: TokenLogprob::logprob"]
        [::std::mem::offset_of!(TokenLogprob, logprob) - 4usize];
};
#[doc = " What report_parts finds in a part of a row."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ReportPiece {
    pub peak: f32,
    #[doc = " Of exp(logit - peak)."]
    pub sum: f32,
    #[doc = " Logits that are not below the token's."]
    pub not_below: u32,
    #[doc = " SEEN_*"]
    pub seen: u32,
    #[doc = " The largest in order, with their tokens (logits_order.cuh)."]
    pub top: [u64; 64usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReportPiece"][::std::mem::size_of::<ReportPiece>() - 528usize];
    ["Alignment of ReportPiece"][::std::mem::align_of::<ReportPiece>() - 8usize];
    ["Offset of field: ReportPiece::peak"][::std::mem::offset_of!(ReportPiece, peak) - 0usize];
    ["Offset of field: ReportPiece::sum"][::std::mem::offset_of!(ReportPiece, sum) - 4usize];
    ["Offset of field: ReportPiece::not_below"]
        [::std::mem::offset_of!(ReportPiece, not_below) - 8usize];
    ["Offset of field: ReportPiece::seen"][::std::mem::offset_of!(ReportPiece, seen) - 12usize];
    ["Offset of field: ReportPiece::top"][::std::mem::offset_of!(ReportPiece, top) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KeepRows {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[requests, vocab]"]
    pub kept: DevicePtr,
    pub requests: DevicePtr,
    pub vocab: u32,
    #[doc = " Logits of a part of a row."]
    pub length: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeepRows"][::std::mem::size_of::<KeepRows>() - 32usize];
    ["Alignment of KeepRows"][::std::mem::align_of::<KeepRows>() - 8usize];
    ["Offset of field: KeepRows::logits"][::std::mem::offset_of!(KeepRows, logits) - 0usize];
    ["Offset of field: KeepRows::kept"][::std::mem::offset_of!(KeepRows, kept) - 8usize];
    ["Offset of field: KeepRows::requests"][::std::mem::offset_of!(KeepRows, requests) - 16usize];
    ["Offset of field: KeepRows::vocab"][::std::mem::offset_of!(KeepRows, vocab) - 24usize];
    ["Offset of field: KeepRows::length"][::std::mem::offset_of!(KeepRows, length) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ReportParts {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    #[doc = " \\[requests, vocab]"]
    pub kept: DevicePtr,
    pub requests: DevicePtr,
    #[doc = " \\[rows]"]
    pub target: DevicePtr,
    #[doc = " \\[rows], sampled ids"]
    pub sampled: DevicePtr,
    #[doc = " \\[requests, parts]"]
    pub pieces: DevicePtr,
    pub vocab: u32,
    #[doc = " Logits of a part of a row."]
    pub length: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReportParts"][::std::mem::size_of::<ReportParts>() - 56usize];
    ["Alignment of ReportParts"][::std::mem::align_of::<ReportParts>() - 8usize];
    ["Offset of field: ReportParts::logits"][::std::mem::offset_of!(ReportParts, logits) - 0usize];
    ["Offset of field: ReportParts::kept"][::std::mem::offset_of!(ReportParts, kept) - 8usize];
    ["Offset of field: ReportParts::requests"]
        [::std::mem::offset_of!(ReportParts, requests) - 16usize];
    ["Offset of field: ReportParts::target"][::std::mem::offset_of!(ReportParts, target) - 24usize];
    ["Offset of field: ReportParts::sampled"]
        [::std::mem::offset_of!(ReportParts, sampled) - 32usize];
    ["Offset of field: ReportParts::pieces"][::std::mem::offset_of!(ReportParts, pieces) - 40usize];
    ["Offset of field: ReportParts::vocab"][::std::mem::offset_of!(ReportParts, vocab) - 48usize];
    ["Offset of field: ReportParts::length"][::std::mem::offset_of!(ReportParts, length) - 52usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ReportRows {
    #[doc = " As in ReportParts."]
    pub logits: DevicePtr,
    pub kept: DevicePtr,
    pub requests: DevicePtr,
    pub target: DevicePtr,
    pub sampled: DevicePtr,
    pub pieces: DevicePtr,
    #[doc = " Words."]
    pub answers: DevicePtr,
    pub vocab: u32,
    pub parts: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReportRows"][::std::mem::size_of::<ReportRows>() - 64usize];
    ["Alignment of ReportRows"][::std::mem::align_of::<ReportRows>() - 8usize];
    ["Offset of field: ReportRows::logits"][::std::mem::offset_of!(ReportRows, logits) - 0usize];
    ["Offset of field: ReportRows::kept"][::std::mem::offset_of!(ReportRows, kept) - 8usize];
    ["Offset of field: ReportRows::requests"]
        [::std::mem::offset_of!(ReportRows, requests) - 16usize];
    ["Offset of field: ReportRows::target"][::std::mem::offset_of!(ReportRows, target) - 24usize];
    ["Offset of field: ReportRows::sampled"][::std::mem::offset_of!(ReportRows, sampled) - 32usize];
    ["Offset of field: ReportRows::pieces"][::std::mem::offset_of!(ReportRows, pieces) - 40usize];
    ["Offset of field: ReportRows::answers"][::std::mem::offset_of!(ReportRows, answers) - 48usize];
    ["Offset of field: ReportRows::vocab"][::std::mem::offset_of!(ReportRows, vocab) - 56usize];
    ["Offset of field: ReportRows::parts"][::std::mem::offset_of!(ReportRows, parts) - 60usize];
};
#[doc = " Ranks that share a model, at most."]
pub const MOST_RANKS: u32 = 8;
#[doc = " Where the product of a single row puts its outputs for all ranks, each as it is done (row_push.cuh,\n abi_ranks.h)."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RowPush {
    #[doc = " this rank's words in each rank's mailbox"]
    pub to: [DevicePtr; 8usize],
    #[doc = " the number of the last row that this rank took"]
    pub taken: DevicePtr,
    pub ranks: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowPush"][::std::mem::size_of::<RowPush>() - 80usize];
    ["Alignment of RowPush"][::std::mem::align_of::<RowPush>() - 8usize];
    ["Offset of field: RowPush::to"][::std::mem::offset_of!(RowPush, to) - 0usize];
    ["Offset of field: RowPush::taken"][::std::mem::offset_of!(RowPush, taken) - 64usize];
    ["Offset of field: RowPush::ranks"][::std::mem::offset_of!(RowPush, ranks) - 72usize];
    ["Offset of field: RowPush::unused"][::std::mem::offset_of!(RowPush, unused) - 76usize];
};
#[repr(u32)]
#[doc = " The type of stored elements."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum ElementType {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
}
#[repr(u32)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum NormKind {
    Rms = 0,
    #[doc = " RMS whose weights are stored less one."]
    RmsPlusOne = 1,
    Layer = 2,
}
#[repr(u32)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum Activation {
    Relu = 0,
    ReluSquared = 1,
    Gelu = 2,
    GeluTanh = 3,
    Silu = 4,
    SiluGated = 5,
    GeluGated = 6,
    GeluTanhGated = 7,
    SwigluOai = 8,
    QuickGelu = 9,
    #[doc = " Only the bias."]
    None = 10,
}
#[repr(u32)]
#[doc = " What K and V are in pages: the activations' type, or numbers of eight bits."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum KvType {
    Act = 0,
    E4m3 = 1,
    E5m2 = 2,
}
#[repr(u32)]
#[doc = " What a router's products become."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum RouteScore {
    Softmax = 0,
    Sigmoid = 1,
    #[doc = " Of a choice, its share of a softmax over what comes near to it."]
    SparseMixer = 2,
    SigmoidOfChosen = 3,
}
#[repr(u32)]
#[doc = " Which rows of a sequence make its vector."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum Pooling {
    First = 0,
    Last = 1,
    Mean = 2,
}
#[doc = " ---- Rows (gather.cu) ----"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Embed {
    #[doc = " \\[rows]"]
    pub token: DevicePtr,
    #[doc = " \\[table_rows, width]"]
    pub table: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub table_rows: u32,
    pub width: u32,
    #[doc = " Token of the table's first row; others have rows of zeros."]
    pub first: u32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Embed"][::std::mem::size_of::<Embed>() - 40usize];
    ["Alignment of Embed"][::std::mem::align_of::<Embed>() - 8usize];
    ["Offset of field: Embed::token"][::std::mem::offset_of!(Embed, token) - 0usize];
    ["Offset of field: Embed::table"][::std::mem::offset_of!(Embed, table) - 8usize];
    ["Offset of field: Embed::out"][::std::mem::offset_of!(Embed, out) - 16usize];
    ["Offset of field: Embed::table_rows"][::std::mem::offset_of!(Embed, table_rows) - 24usize];
    ["Offset of field: Embed::width"][::std::mem::offset_of!(Embed, width) - 28usize];
    ["Offset of field: Embed::first"][::std::mem::offset_of!(Embed, first) - 32usize];
    ["Offset of field: Embed::scale"][::std::mem::offset_of!(Embed, scale) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AddPositions {
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    #[doc = " \\[table_rows, width]"]
    pub table: DevicePtr,
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    pub table_rows: u32,
    pub offset: u32,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddPositions"][::std::mem::size_of::<AddPositions>() - 40usize];
    ["Alignment of AddPositions"][::std::mem::align_of::<AddPositions>() - 8usize];
    ["Offset of field: AddPositions::position"]
        [::std::mem::offset_of!(AddPositions, position) - 0usize];
    ["Offset of field: AddPositions::table"][::std::mem::offset_of!(AddPositions, table) - 8usize];
    ["Offset of field: AddPositions::x"][::std::mem::offset_of!(AddPositions, x) - 16usize];
    ["Offset of field: AddPositions::table_rows"]
        [::std::mem::offset_of!(AddPositions, table_rows) - 24usize];
    ["Offset of field: AddPositions::offset"]
        [::std::mem::offset_of!(AddPositions, offset) - 28usize];
    ["Offset of field: AddPositions::width"][::std::mem::offset_of!(AddPositions, width) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Gather {
    #[doc = " \\[samples], rows of x"]
    pub row: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[samples, width]"]
    pub out: DevicePtr,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Gather"][::std::mem::size_of::<Gather>() - 32usize];
    ["Alignment of Gather"][::std::mem::align_of::<Gather>() - 8usize];
    ["Offset of field: Gather::row"][::std::mem::offset_of!(Gather, row) - 0usize];
    ["Offset of field: Gather::x"][::std::mem::offset_of!(Gather, x) - 8usize];
    ["Offset of field: Gather::out"][::std::mem::offset_of!(Gather, out) - 16usize];
    ["Offset of field: Gather::width"][::std::mem::offset_of!(Gather, width) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Pool {
    #[doc = " \\[samples], the last token row of each sequence"]
    pub row: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[samples, width]"]
    pub out: DevicePtr,
    pub kind: Pooling,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Pool"][::std::mem::size_of::<Pool>() - 40usize];
    ["Alignment of Pool"][::std::mem::align_of::<Pool>() - 8usize];
    ["Offset of field: Pool::row"][::std::mem::offset_of!(Pool, row) - 0usize];
    ["Offset of field: Pool::position"][::std::mem::offset_of!(Pool, position) - 8usize];
    ["Offset of field: Pool::x"][::std::mem::offset_of!(Pool, x) - 16usize];
    ["Offset of field: Pool::out"][::std::mem::offset_of!(Pool, out) - 24usize];
    ["Offset of field: Pool::kind"][::std::mem::offset_of!(Pool, kind) - 32usize];
    ["Offset of field: Pool::width"][::std::mem::offset_of!(Pool, width) - 36usize];
};
#[doc = " ---- What follows a product (activation.cu) ----"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BiasAct {
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    #[doc = " \\[width], or null"]
    pub bias: DevicePtr,
    pub width: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BiasAct"][::std::mem::size_of::<BiasAct>() - 24usize];
    ["Alignment of BiasAct"][::std::mem::align_of::<BiasAct>() - 8usize];
    ["Offset of field: BiasAct::x"][::std::mem::offset_of!(BiasAct, x) - 0usize];
    ["Offset of field: BiasAct::bias"][::std::mem::offset_of!(BiasAct, bias) - 8usize];
    ["Offset of field: BiasAct::width"][::std::mem::offset_of!(BiasAct, width) - 16usize];
    ["Offset of field: BiasAct::kind"][::std::mem::offset_of!(BiasAct, kind) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GatedAct {
    #[doc = " \\[rows, 2 half]: gates, then ups"]
    pub x: DevicePtr,
    #[doc = " \\[2 half], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, half]"]
    pub out: DevicePtr,
    pub half: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatedAct"][::std::mem::size_of::<GatedAct>() - 32usize];
    ["Alignment of GatedAct"][::std::mem::align_of::<GatedAct>() - 8usize];
    ["Offset of field: GatedAct::x"][::std::mem::offset_of!(GatedAct, x) - 0usize];
    ["Offset of field: GatedAct::bias"][::std::mem::offset_of!(GatedAct, bias) - 8usize];
    ["Offset of field: GatedAct::out"][::std::mem::offset_of!(GatedAct, out) - 16usize];
    ["Offset of field: GatedAct::half"][::std::mem::offset_of!(GatedAct, half) - 24usize];
    ["Offset of field: GatedAct::kind"][::std::mem::offset_of!(GatedAct, kind) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Clamp {
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    pub width: u32,
    pub limit: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Clamp"][::std::mem::size_of::<Clamp>() - 16usize];
    ["Alignment of Clamp"][::std::mem::align_of::<Clamp>() - 8usize];
    ["Offset of field: Clamp::x"][::std::mem::offset_of!(Clamp, x) - 0usize];
    ["Offset of field: Clamp::width"][::std::mem::offset_of!(Clamp, width) - 8usize];
    ["Offset of field: Clamp::limit"][::std::mem::offset_of!(Clamp, limit) - 12usize];
};
#[doc = " positive x^2 + linear x where x > 0, else negative (e^min(x, limit) - 1 - x) + linear x."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Xielu {
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    pub width: u32,
    pub positive: f32,
    pub negative: f32,
    pub linear: f32,
    pub limit: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Xielu"][::std::mem::size_of::<Xielu>() - 32usize];
    ["Alignment of Xielu"][::std::mem::align_of::<Xielu>() - 8usize];
    ["Offset of field: Xielu::x"][::std::mem::offset_of!(Xielu, x) - 0usize];
    ["Offset of field: Xielu::width"][::std::mem::offset_of!(Xielu, width) - 8usize];
    ["Offset of field: Xielu::positive"][::std::mem::offset_of!(Xielu, positive) - 12usize];
    ["Offset of field: Xielu::negative"][::std::mem::offset_of!(Xielu, negative) - 16usize];
    ["Offset of field: Xielu::linear"][::std::mem::offset_of!(Xielu, linear) - 20usize];
    ["Offset of field: Xielu::limit"][::std::mem::offset_of!(Xielu, limit) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Softcap {
    #[doc = " \\[count], in place"]
    pub logits: DevicePtr,
    pub count: u64,
    pub cap: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Softcap"][::std::mem::size_of::<Softcap>() - 24usize];
    ["Alignment of Softcap"][::std::mem::align_of::<Softcap>() - 8usize];
    ["Offset of field: Softcap::logits"][::std::mem::offset_of!(Softcap, logits) - 0usize];
    ["Offset of field: Softcap::count"][::std::mem::offset_of!(Softcap, count) - 8usize];
    ["Offset of field: Softcap::cap"][::std::mem::offset_of!(Softcap, cap) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BiasLogits {
    #[doc = " \\[rows, vocab], in place"]
    pub logits: DevicePtr,
    #[doc = " \\[vocab]"]
    pub bias: DevicePtr,
    pub vocab: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BiasLogits"][::std::mem::size_of::<BiasLogits>() - 24usize];
    ["Alignment of BiasLogits"][::std::mem::align_of::<BiasLogits>() - 8usize];
    ["Offset of field: BiasLogits::logits"][::std::mem::offset_of!(BiasLogits, logits) - 0usize];
    ["Offset of field: BiasLogits::bias"][::std::mem::offset_of!(BiasLogits, bias) - 8usize];
    ["Offset of field: BiasLogits::vocab"][::std::mem::offset_of!(BiasLogits, vocab) - 16usize];
};
#[doc = " Rows and outputs of a tile of the plain product."]
pub const GEMM_TILE: u32 = 16;
#[doc = " y = x W^T"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PlainGemm {
    #[doc = " \\[rows, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[outputs, inputs]"]
    pub w: DevicePtr,
    #[doc = " \\[rows, outputs], act or f32"]
    pub y: DevicePtr,
    pub rows: u32,
    pub outputs: u32,
    pub inputs: u32,
    #[doc = " Elements from row to row of y."]
    pub stride: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PlainGemm"][::std::mem::size_of::<PlainGemm>() - 40usize];
    ["Alignment of PlainGemm"][::std::mem::align_of::<PlainGemm>() - 8usize];
    ["Offset of field: PlainGemm::x"][::std::mem::offset_of!(PlainGemm, x) - 0usize];
    ["Offset of field: PlainGemm::w"][::std::mem::offset_of!(PlainGemm, w) - 8usize];
    ["Offset of field: PlainGemm::y"][::std::mem::offset_of!(PlainGemm, y) - 16usize];
    ["Offset of field: PlainGemm::rows"][::std::mem::offset_of!(PlainGemm, rows) - 24usize];
    ["Offset of field: PlainGemm::outputs"][::std::mem::offset_of!(PlainGemm, outputs) - 28usize];
    ["Offset of field: PlainGemm::inputs"][::std::mem::offset_of!(PlainGemm, inputs) - 32usize];
    ["Offset of field: PlainGemm::stride"][::std::mem::offset_of!(PlainGemm, stride) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Flush {
    #[doc = " \\[count]"]
    pub words: DevicePtr,
    pub count: u64,
    #[doc = " One word, as good as never written"]
    pub never: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Flush"][::std::mem::size_of::<Flush>() - 24usize];
    ["Alignment of Flush"][::std::mem::align_of::<Flush>() - 8usize];
    ["Offset of field: Flush::words"][::std::mem::offset_of!(Flush, words) - 0usize];
    ["Offset of field: Flush::count"][::std::mem::offset_of!(Flush, count) - 8usize];
    ["Offset of field: Flush::never"][::std::mem::offset_of!(Flush, never) - 16usize];
};
#[doc = " Rows that gemm_small_m takes at most."]
pub const SMALL_M_ROWS: u32 = 8;
#[doc = " Rows of W of a tile, and the gates or ups among them where it is gated."]
pub const SMALL_M_TILE: u32 = 16;
#[doc = " Where tiles of 16 would leave half of the blocks idle."]
pub const SMALL_M_EIGHTS_TILE: u32 = 8;
pub const SMALL_M_GATED_TILE: u32 = 8;
#[doc = " Warps that multiply; one more copies."]
pub const SMALL_M_WARPS: u32 = 8;
pub const SMALL_M_THREADS: u32 = 288;
pub const SMALL_M_BLOCKS_PER_MULTIPROCESSOR: u32 = 2;
pub const SMALL_M_STAGES: u32 = 6;
#[doc = " Times 8 inputs of x that a lane has under way."]
pub const SMALL_M_AHEAD: u32 = 8;
#[doc = " Inputs of a stage, and bytes from row to row of it."]
pub const SMALL_M_INPUTS: u32 = 512;
pub const SMALL_M_PITCH: u32 = 1088;
pub const SMALL_M_STAGE_BYTES: u32 = 17408;
#[doc = " Of the warps' sums."]
pub const SMALL_M_SUMS_BYTES: u32 = 4096;
#[doc = " Sums, the ring with two barriers a stage; a normed row takes a stage's place. What two blocks\n leave of a multiprocessor holds the small kernels between products."]
pub const SMALL_M_SHARED_BYTES: u32 = 108640;
#[doc = " Inputs of a row that is normed, at most."]
pub const SMALL_M_NORMED_INPUTS: u32 = 8192;
#[doc = " y = act(x W^T + bias)"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SmallGemm {
    #[doc = " \\[rows, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[outputs, inputs]"]
    pub w: DevicePtr,
    #[doc = " \\[outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " act \\[rows, outputs], gated \\[rows, outputs / 2]; logits f32 \\[rows, outputs]. Of gemm_small_m null\n where y is added to the residual in place of it."]
    pub y: DevicePtr,
    #[doc = " \\[rows, outputs]"]
    pub residual: DevicePtr,
    #[doc = " \\[inputs]"]
    pub norm_weight: DevicePtr,
    #[doc = " \\[inputs]"]
    pub normed: DevicePtr,
    #[doc = " \\[rows, blocks, 2]"]
    pub best: DevicePtr,
    pub eps: f32,
    pub norm_kind: NormKind,
    pub rows: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub kind: Activation,
    pub stages: u32,
    #[doc = " Of a row, of experts alone."]
    pub choices: u32,
    #[doc = " of kernels that push, in place of y"]
    pub push: RowPush,
    #[doc = " As in RouteRows."]
    pub routes: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SmallGemm"][::std::mem::size_of::<SmallGemm>() - 184usize];
    ["Alignment of SmallGemm"][::std::mem::align_of::<SmallGemm>() - 8usize];
    ["Offset of field: SmallGemm::x"][::std::mem::offset_of!(SmallGemm, x) - 0usize];
    ["Offset of field: SmallGemm::w"][::std::mem::offset_of!(SmallGemm, w) - 8usize];
    ["Offset of field: SmallGemm::bias"][::std::mem::offset_of!(SmallGemm, bias) - 16usize];
    ["Offset of field: SmallGemm::y"][::std::mem::offset_of!(SmallGemm, y) - 24usize];
    ["Offset of field: SmallGemm::residual"][::std::mem::offset_of!(SmallGemm, residual) - 32usize];
    ["Offset of field: SmallGemm::norm_weight"]
        [::std::mem::offset_of!(SmallGemm, norm_weight) - 40usize];
    ["Offset of field: SmallGemm::normed"][::std::mem::offset_of!(SmallGemm, normed) - 48usize];
    ["Offset of field: SmallGemm::best"][::std::mem::offset_of!(SmallGemm, best) - 56usize];
    ["Offset of field: SmallGemm::eps"][::std::mem::offset_of!(SmallGemm, eps) - 64usize];
    ["Offset of field: SmallGemm::norm_kind"]
        [::std::mem::offset_of!(SmallGemm, norm_kind) - 68usize];
    ["Offset of field: SmallGemm::rows"][::std::mem::offset_of!(SmallGemm, rows) - 72usize];
    ["Offset of field: SmallGemm::outputs"][::std::mem::offset_of!(SmallGemm, outputs) - 76usize];
    ["Offset of field: SmallGemm::inputs"][::std::mem::offset_of!(SmallGemm, inputs) - 80usize];
    ["Offset of field: SmallGemm::kind"][::std::mem::offset_of!(SmallGemm, kind) - 84usize];
    ["Offset of field: SmallGemm::stages"][::std::mem::offset_of!(SmallGemm, stages) - 88usize];
    ["Offset of field: SmallGemm::choices"][::std::mem::offset_of!(SmallGemm, choices) - 92usize];
    ["Offset of field: SmallGemm::push"][::std::mem::offset_of!(SmallGemm, push) - 96usize];
    ["Offset of field: SmallGemm::routes"][::std::mem::offset_of!(SmallGemm, routes) - 176usize];
};
#[doc = " Pairs of a head that rope_store rotates at most, and heads of a block."]
pub const ROPE_MAX_PAIRS: u32 = 256;
pub const ROPE_HEADS: u32 = 16;
#[doc = " Of rows that a block has alone: heads of which a thread has the same pairs at once, and threads at\n most."]
pub const ROPE_UNITS: u32 = 3;
pub const ROPE_ROW_THREADS: u32 = 512;
#[doc = " The pool of a layer: \\[pages, 2 (K, V), kv_heads, page_size, dim], of the activations' type, or\n bytes."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RopeStore {
    #[doc = " \\[rows, heads + 2 kv_heads, dim]: q and k are rotated in place"]
    pub qkv: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    #[doc = " \\[rows, 3], of which each pair goes by one; null: by its position"]
    pub places: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    pub pool: DevicePtr,
    pub kv: KvType,
    #[doc = " Bytes are numbers divided by these."]
    pub k_scale: f32,
    #[doc = " Bytes are numbers divided by these."]
    pub v_scale: f32,
    pub heads: u32,
    pub kv_heads: u32,
    pub dim: u32,
    pub page_size: u32,
    #[doc = " Pairs of a head: the first `half` dimensions and the `half` after them."]
    pub half: u32,
    #[doc = " Of sines and cosines."]
    pub magnitude: f32,
    #[doc = " q times 1 + growth ln(1 + (position + growth_ahead) / growth_length), whole steps; 0: it does not\n grow."]
    pub growth: f32,
    pub growth_length: u32,
    pub growth_ahead: u32,
    #[doc = " \\[half]"]
    pub inverse_frequency: [f32; 256usize],
    #[doc = " Of each pair which of the places, two bits."]
    pub axes: [u32; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeStore"][::std::mem::size_of::<RopeStore>() - 1208usize];
    ["Alignment of RopeStore"][::std::mem::align_of::<RopeStore>() - 8usize];
    ["Offset of field: RopeStore::qkv"][::std::mem::offset_of!(RopeStore, qkv) - 0usize];
    ["Offset of field: RopeStore::position"][::std::mem::offset_of!(RopeStore, position) - 8usize];
    ["Offset of field: RopeStore::places"][::std::mem::offset_of!(RopeStore, places) - 16usize];
    ["Offset of field: RopeStore::slot_of"][::std::mem::offset_of!(RopeStore, slot_of) - 24usize];
    ["Offset of field: RopeStore::slots"][::std::mem::offset_of!(RopeStore, slots) - 32usize];
    ["Offset of field: RopeStore::pool"][::std::mem::offset_of!(RopeStore, pool) - 64usize];
    ["Offset of field: RopeStore::kv"][::std::mem::offset_of!(RopeStore, kv) - 72usize];
    ["Offset of field: RopeStore::k_scale"][::std::mem::offset_of!(RopeStore, k_scale) - 76usize];
    ["Offset of field: RopeStore::v_scale"][::std::mem::offset_of!(RopeStore, v_scale) - 80usize];
    ["Offset of field: RopeStore::heads"][::std::mem::offset_of!(RopeStore, heads) - 84usize];
    ["Offset of field: RopeStore::kv_heads"][::std::mem::offset_of!(RopeStore, kv_heads) - 88usize];
    ["Offset of field: RopeStore::dim"][::std::mem::offset_of!(RopeStore, dim) - 92usize];
    ["Offset of field: RopeStore::page_size"]
        [::std::mem::offset_of!(RopeStore, page_size) - 96usize];
    ["Offset of field: RopeStore::half"][::std::mem::offset_of!(RopeStore, half) - 100usize];
    ["Offset of field: RopeStore::magnitude"]
        [::std::mem::offset_of!(RopeStore, magnitude) - 104usize];
    ["Offset of field: RopeStore::growth"][::std::mem::offset_of!(RopeStore, growth) - 108usize];
    ["Offset of field: RopeStore::growth_length"]
        [::std::mem::offset_of!(RopeStore, growth_length) - 112usize];
    ["Offset of field: RopeStore::growth_ahead"]
        [::std::mem::offset_of!(RopeStore, growth_ahead) - 116usize];
    ["Offset of field: RopeStore::inverse_frequency"]
        [::std::mem::offset_of!(RopeStore, inverse_frequency) - 120usize];
    ["Offset of field: RopeStore::axes"][::std::mem::offset_of!(RopeStore, axes) - 1144usize];
};
#[doc = " Threads of a block of attend_rows and attend_all, the largest head, and that of *_wide."]
pub const ATTEND_THREADS: u32 = 128;
pub const ATTEND_MAX_HEAD_DIM: u32 = 256;
pub const ATTEND_WIDE_HEAD_DIM: u32 = 512;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendRows {
    #[doc = " \\[rows, row_width], of which the front is \\[heads, dim]"]
    pub qkv: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    #[doc = " As in RopeStore."]
    pub pool: DevicePtr,
    #[doc = " \\[heads], a score without a value; or null"]
    pub sinks: DevicePtr,
    #[doc = " \\[heads], by which scores fall with the distance of keys; or null"]
    pub slopes: DevicePtr,
    #[doc = " \\[rows, 3], of which 1 and 2 are the first and the last key that a row sees whatever the window;\n or null: none but itself."]
    pub seen: DevicePtr,
    #[doc = " \\[rows, heads, dim]"]
    pub out: DevicePtr,
    pub heads: u32,
    pub kv_heads: u32,
    pub dim: u32,
    pub page_size: u32,
    #[doc = " Of scores, that of K included."]
    pub scale: f32,
    #[doc = " 0 = none"]
    pub window: u32,
    #[doc = " 0 = none"]
    pub softcap: f32,
    pub kv: KvType,
    #[doc = " Of V."]
    pub value_scale: f32,
    #[doc = " Positions of a run, all of whose keys are of it; 0 = none"]
    pub chunk: u32,
    pub row_width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendRows"][::std::mem::size_of::<AttendRows>() - 144usize];
    ["Alignment of AttendRows"][::std::mem::align_of::<AttendRows>() - 8usize];
    ["Offset of field: AttendRows::qkv"][::std::mem::offset_of!(AttendRows, qkv) - 0usize];
    ["Offset of field: AttendRows::position"]
        [::std::mem::offset_of!(AttendRows, position) - 8usize];
    ["Offset of field: AttendRows::slot_of"][::std::mem::offset_of!(AttendRows, slot_of) - 16usize];
    ["Offset of field: AttendRows::slots"][::std::mem::offset_of!(AttendRows, slots) - 24usize];
    ["Offset of field: AttendRows::pool"][::std::mem::offset_of!(AttendRows, pool) - 56usize];
    ["Offset of field: AttendRows::sinks"][::std::mem::offset_of!(AttendRows, sinks) - 64usize];
    ["Offset of field: AttendRows::slopes"][::std::mem::offset_of!(AttendRows, slopes) - 72usize];
    ["Offset of field: AttendRows::seen"][::std::mem::offset_of!(AttendRows, seen) - 80usize];
    ["Offset of field: AttendRows::out"][::std::mem::offset_of!(AttendRows, out) - 88usize];
    ["Offset of field: AttendRows::heads"][::std::mem::offset_of!(AttendRows, heads) - 96usize];
    ["Offset of field: AttendRows::kv_heads"]
        [::std::mem::offset_of!(AttendRows, kv_heads) - 100usize];
    ["Offset of field: AttendRows::dim"][::std::mem::offset_of!(AttendRows, dim) - 104usize];
    ["Offset of field: AttendRows::page_size"]
        [::std::mem::offset_of!(AttendRows, page_size) - 108usize];
    ["Offset of field: AttendRows::scale"][::std::mem::offset_of!(AttendRows, scale) - 112usize];
    ["Offset of field: AttendRows::window"][::std::mem::offset_of!(AttendRows, window) - 116usize];
    ["Offset of field: AttendRows::softcap"]
        [::std::mem::offset_of!(AttendRows, softcap) - 120usize];
    ["Offset of field: AttendRows::kv"][::std::mem::offset_of!(AttendRows, kv) - 124usize];
    ["Offset of field: AttendRows::value_scale"]
        [::std::mem::offset_of!(AttendRows, value_scale) - 128usize];
    ["Offset of field: AttendRows::chunk"][::std::mem::offset_of!(AttendRows, chunk) - 132usize];
    ["Offset of field: AttendRows::row_width"]
        [::std::mem::offset_of!(AttendRows, row_width) - 136usize];
    ["Offset of field: AttendRows::unused"][::std::mem::offset_of!(AttendRows, unused) - 140usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendAll {
    #[doc = " \\[rows, heads + 2 kv_heads, dim]"]
    pub qkv: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    #[doc = " \\[rows, heads, dim]"]
    pub out: DevicePtr,
    pub heads: u32,
    pub kv_heads: u32,
    pub dim: u32,
    #[doc = " To both sides, the row itself counted; 0 = none"]
    pub window: u32,
    pub scale: f32,
    #[doc = " 0 = none"]
    pub softcap: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendAll"][::std::mem::size_of::<AttendAll>() - 88usize];
    ["Alignment of AttendAll"][::std::mem::align_of::<AttendAll>() - 8usize];
    ["Offset of field: AttendAll::qkv"][::std::mem::offset_of!(AttendAll, qkv) - 0usize];
    ["Offset of field: AttendAll::position"][::std::mem::offset_of!(AttendAll, position) - 8usize];
    ["Offset of field: AttendAll::slot_of"][::std::mem::offset_of!(AttendAll, slot_of) - 16usize];
    ["Offset of field: AttendAll::slots"][::std::mem::offset_of!(AttendAll, slots) - 24usize];
    ["Offset of field: AttendAll::out"][::std::mem::offset_of!(AttendAll, out) - 56usize];
    ["Offset of field: AttendAll::heads"][::std::mem::offset_of!(AttendAll, heads) - 64usize];
    ["Offset of field: AttendAll::kv_heads"][::std::mem::offset_of!(AttendAll, kv_heads) - 68usize];
    ["Offset of field: AttendAll::dim"][::std::mem::offset_of!(AttendAll, dim) - 72usize];
    ["Offset of field: AttendAll::window"][::std::mem::offset_of!(AttendAll, window) - 76usize];
    ["Offset of field: AttendAll::scale"][::std::mem::offset_of!(AttendAll, scale) - 80usize];
    ["Offset of field: AttendAll::softcap"][::std::mem::offset_of!(AttendAll, softcap) - 84usize];
};
#[doc = " Packed rows of a tile of prompts, and of single tokens. Packed row r of a sequence is token\n r / group, head r % group of a KV head's q heads."]
pub const PROMPT_ROWS: u32 = 128;
pub const SPLIT_ROWS: u32 = 16;
#[doc = " Of single tokens of several sequences whose first keys are the same (attention_shared_sm90.cu)."]
pub const SHARED_ROWS: u32 = 64;
#[doc = " Keys of a tile by mma, and elements between the ends of its rows in shared memory."]
pub const TILE_KEYS: u32 = 64;
pub const TILE_PADDING: u32 = 8;
pub const CHUNK_THREADS: u32 = 256;
pub const SPLIT_THREADS: u32 = 128;
#[doc = " Over pages of eight bits by wgmma: keys of a tile, up to head size 128 and at 256; stages. And\n what tiles are aligned to, of all pages."]
pub const PROMPT_KEYS: u32 = 128;
pub const PROMPT_KEYS_OF_256: u32 = 64;
pub const PROMPT_STAGES: u32 = 2;
pub const PROMPT_ALIGNMENT: u32 = 1024;
#[doc = " The part of an item that has all keys of its rows."]
pub const NO_PART: u32 = 4294967295;
#[doc = " What the number of a block's next item is multiplied with in `count`."]
pub const NEXT_ITEM: u32 = 256;
#[doc = " A tile of packed rows against a range of keys."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct WorkItem {
    pub slot: u32,
    #[doc = " The first token row of its sequence, and the first packed row of the tile within that."]
    pub first_row: u32,
    pub begin: u32,
    #[doc = " Packed rows. In the split kernel also NEXT_ITEM times the block's next item, 0 = none."]
    pub count: u32,
    #[doc = " Positions."]
    pub keys_from: u32,
    pub keys_to: u32,
    #[doc = " The first part of these rows, or NO_PART."]
    pub part: u32,
    #[doc = " Which of the parts of these rows this is, and how many there are; 0 and 0 with NO_PART."]
    pub piece: u16,
    pub pieces: u16,
    #[doc = " Of a single token whose first keys are others' too: the first part that holds its rows'\n weighted sums over those, which of that part's SHARED_ROWS is its first, and how many such\n parts there are, 0 = none."]
    pub shared: u32,
    pub shared_row: u16,
    pub shared_pieces: u16,
    #[doc = " Of an item of several sequences, those of `slot` first: the first of as many entries of the\n list, which say nothing but the token row of each."]
    pub members: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WorkItem"][::std::mem::size_of::<WorkItem>() - 48usize];
    ["Alignment of WorkItem"][::std::mem::align_of::<WorkItem>() - 4usize];
    ["Offset of field: WorkItem::slot"][::std::mem::offset_of!(WorkItem, slot) - 0usize];
    ["Offset of field: WorkItem::first_row"][::std::mem::offset_of!(WorkItem, first_row) - 4usize];
    ["Offset of field: WorkItem::begin"][::std::mem::offset_of!(WorkItem, begin) - 8usize];
    ["Offset of field: WorkItem::count"][::std::mem::offset_of!(WorkItem, count) - 12usize];
    ["Offset of field: WorkItem::keys_from"][::std::mem::offset_of!(WorkItem, keys_from) - 16usize];
    ["Offset of field: WorkItem::keys_to"][::std::mem::offset_of!(WorkItem, keys_to) - 20usize];
    ["Offset of field: WorkItem::part"][::std::mem::offset_of!(WorkItem, part) - 24usize];
    ["Offset of field: WorkItem::piece"][::std::mem::offset_of!(WorkItem, piece) - 28usize];
    ["Offset of field: WorkItem::pieces"][::std::mem::offset_of!(WorkItem, pieces) - 30usize];
    ["Offset of field: WorkItem::shared"][::std::mem::offset_of!(WorkItem, shared) - 32usize];
    ["Offset of field: WorkItem::shared_row"]
        [::std::mem::offset_of!(WorkItem, shared_row) - 36usize];
    ["Offset of field: WorkItem::shared_pieces"]
        [::std::mem::offset_of!(WorkItem, shared_pieces) - 38usize];
    ["Offset of field: WorkItem::members"][::std::mem::offset_of!(WorkItem, members) - 40usize];
    ["Offset of field: WorkItem::unused"][::std::mem::offset_of!(WorkItem, unused) - 44usize];
};
#[doc = " The kernels of attention_mma.cu, attention_prefill_sm90.cu, and of their twins for pages of eight\n bits."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PagedAttention {
    #[doc = " Prompts: an item for each block. Single tokens: the first item of each block, empty (count 0)\n where it has none, then the items that follow them; before those, where keys are shared, the\n first item of each block of that kernel."]
    pub items: DevicePtr,
    #[doc = " As in AttendRows."]
    pub qkv: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slots: SlotRows,
    #[doc = " As in RopeStore."]
    pub pool: DevicePtr,
    #[doc = " \\[heads], a score without a value; or null"]
    pub sinks: DevicePtr,
    #[doc = " \\[rows, heads, dim]"]
    pub out: DevicePtr,
    #[doc = " \\[parts, kv_heads, SPLIT_ROWS, dim], weighted sums. A part of SHARED_ROWS takes the place of\n several."]
    pub parts: DevicePtr,
    #[doc = " \\[parts, kv_heads, SPLIT_ROWS], maximum (base 2) and sum of weights"]
    pub statistics: DevicePtr,
    #[doc = " \\[first part, kv_heads], parts that are done; 0 between launches"]
    pub arrivals: DevicePtr,
    pub heads: u32,
    pub kv_heads: u32,
    pub page_size: u32,
    #[doc = " Of scores, that of K included."]
    pub scale: f32,
    #[doc = " 0 = none"]
    pub window: u32,
    #[doc = " 0 = none"]
    pub softcap: f32,
    #[doc = " Of tiles in shared memory."]
    pub stages: u32,
    pub kv: KvType,
    #[doc = " Of V."]
    pub value_scale: f32,
    #[doc = " As in AttendRows."]
    pub chunk: u32,
    pub row_width: u32,
    pub unused: u32,
    #[doc = " As in AttendRows."]
    pub seen: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PagedAttention"][::std::mem::size_of::<PagedAttention>() - 160usize];
    ["Alignment of PagedAttention"][::std::mem::align_of::<PagedAttention>() - 8usize];
    ["Offset of field: PagedAttention::items"]
        [::std::mem::offset_of!(PagedAttention, items) - 0usize];
    ["Offset of field: PagedAttention::qkv"][::std::mem::offset_of!(PagedAttention, qkv) - 8usize];
    ["Offset of field: PagedAttention::position"]
        [::std::mem::offset_of!(PagedAttention, position) - 16usize];
    ["Offset of field: PagedAttention::slots"]
        [::std::mem::offset_of!(PagedAttention, slots) - 24usize];
    ["Offset of field: PagedAttention::pool"]
        [::std::mem::offset_of!(PagedAttention, pool) - 56usize];
    ["Offset of field: PagedAttention::sinks"]
        [::std::mem::offset_of!(PagedAttention, sinks) - 64usize];
    ["Offset of field: PagedAttention::out"][::std::mem::offset_of!(PagedAttention, out) - 72usize];
    ["Offset of field: PagedAttention::parts"]
        [::std::mem::offset_of!(PagedAttention, parts) - 80usize];
    ["Offset of field: PagedAttention::statistics"]
        [::std::mem::offset_of!(PagedAttention, statistics) - 88usize];
    ["Offset of field: PagedAttention::arrivals"]
        [::std::mem::offset_of!(PagedAttention, arrivals) - 96usize];
    ["Offset of field: PagedAttention::heads"]
        [::std::mem::offset_of!(PagedAttention, heads) - 104usize];
    ["Offset of field: PagedAttention::kv_heads"]
        [::std::mem::offset_of!(PagedAttention, kv_heads) - 108usize];
    ["Offset of field: PagedAttention::page_size"]
        [::std::mem::offset_of!(PagedAttention, page_size) - 112usize];
    ["Offset of field: PagedAttention::scale"]
        [::std::mem::offset_of!(PagedAttention, scale) - 116usize];
    ["Offset of field: PagedAttention::window"]
        [::std::mem::offset_of!(PagedAttention, window) - 120usize];
    ["Offset of field: PagedAttention::softcap"]
        [::std::mem::offset_of!(PagedAttention, softcap) - 124usize];
    ["Offset of field: PagedAttention::stages"]
        [::std::mem::offset_of!(PagedAttention, stages) - 128usize];
    ["Offset of field: PagedAttention::kv"][::std::mem::offset_of!(PagedAttention, kv) - 132usize];
    ["Offset of field: PagedAttention::value_scale"]
        [::std::mem::offset_of!(PagedAttention, value_scale) - 136usize];
    ["Offset of field: PagedAttention::chunk"]
        [::std::mem::offset_of!(PagedAttention, chunk) - 140usize];
    ["Offset of field: PagedAttention::row_width"]
        [::std::mem::offset_of!(PagedAttention, row_width) - 144usize];
    ["Offset of field: PagedAttention::unused"]
        [::std::mem::offset_of!(PagedAttention, unused) - 148usize];
    ["Offset of field: PagedAttention::seen"]
        [::std::mem::offset_of!(PagedAttention, seen) - 152usize];
};
#[doc = " The kernels of attention_ring_sm90.cu and attention_shared_sm90.cu. Keys of a box; threads: those that multiply and the warp\n that copies. Slots of the ring, each a tile of K or V: of 64 elements, and of more."]
pub const RING_BOX_KEYS: u32 = 16;
pub const RING_THREADS: u32 = 160;
pub const RING_SLOTS_OF_64: u32 = 12;
pub const RING_SLOTS: u32 = 6;
#[doc = " Packed rows that warps merge at once, and bytes that align the ring."]
pub const RING_MERGED_ROWS: u32 = 4;
pub const RING_ALIGNMENT: u32 = 1024;
#[doc = " A matrix's boxes as the GPU copies them: the driver's CUtensorMap."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct TensorMap {
    pub opaque: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TensorMap"][::std::mem::size_of::<TensorMap>() - 128usize];
    ["Alignment of TensorMap"][::std::mem::align_of::<TensorMap>() - 64usize];
    ["Offset of field: TensorMap::opaque"][::std::mem::offset_of!(TensorMap, opaque) - 0usize];
};
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct RingAttention {
    #[doc = " A row for each K or V of a head; boxes of RING_BOX_KEYS keys, 128 bytes each."]
    pub pool: TensorMap,
    pub attention: PagedAttention,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingAttention"][::std::mem::size_of::<RingAttention>() - 320usize];
    ["Alignment of RingAttention"][::std::mem::align_of::<RingAttention>() - 64usize];
    ["Offset of field: RingAttention::pool"][::std::mem::offset_of!(RingAttention, pool) - 0usize];
    ["Offset of field: RingAttention::attention"]
        [::std::mem::offset_of!(RingAttention, attention) - 128usize];
};
#[doc = " Sequences have one row each, of which the kernel does what rope_store would have done, but for\n q and k in qkv, which stay as they are. Head sizes and `rope.half` are multiples of 8."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct RingTurn {
    pub pool: TensorMap,
    pub attention: PagedAttention,
    pub rope: RopeStore,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RingTurn"][::std::mem::size_of::<RingTurn>() - 1536usize];
    ["Alignment of RingTurn"][::std::mem::align_of::<RingTurn>() - 64usize];
    ["Offset of field: RingTurn::pool"][::std::mem::offset_of!(RingTurn, pool) - 0usize];
    ["Offset of field: RingTurn::attention"]
        [::std::mem::offset_of!(RingTurn, attention) - 128usize];
    ["Offset of field: RingTurn::rope"][::std::mem::offset_of!(RingTurn, rope) - 288usize];
};
#[doc = " Packed rows of a tile for which half of a tensor core's columns suffice."]
pub const RING_NARROW_ROWS: u32 = 8;
#[doc = " Rows among which those of one adapter slot are brought together, and of these so many at a time."]
pub const ADAPTER_WINDOW: u32 = 32;
pub const ADAPTER_TILE_ROWS: u32 = 8;
#[doc = " Parts of a weight at most: q, k and v."]
pub const ADAPTER_PARTS: u32 = 3;
#[doc = " Rows of A of a block, its warps, and blocks that share a sum at most."]
pub const SHRINK_ROWS: u32 = 16;
pub const SHRINK_WARPS: u32 = 16;
pub const SHRINK_SPLITS: u32 = 4;
#[doc = " Columns of y of a block, or groups of eight; a thread for each and for each half of a tile."]
pub const EXPAND_COLUMNS: u32 = 128;
pub const EXPAND_THREADS: u32 = 256;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdapterShrink {
    #[doc = " \\[rows, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[token rows], 1 + the adapter slot, 0 = none"]
    pub adapter_slot_of: DevicePtr,
    #[doc = " \\[rows], the token row of each; null: they are the token rows"]
    pub row_of: DevicePtr,
    #[doc = " \\[adapter slots, parts, max_rank, inputs]"]
    pub a: DevicePtr,
    #[doc = " \\[adapter slots, parts]"]
    pub ranks: DevicePtr,
    #[doc = " \\[splits, rows, parts, max_rank]"]
    pub low: DevicePtr,
    pub rows: u32,
    #[doc = " Blocks that share the tiles of a window."]
    pub tiles: u32,
    pub inputs: u32,
    pub parts: u32,
    pub max_rank: u32,
    pub splits: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdapterShrink"][::std::mem::size_of::<AdapterShrink>() - 72usize];
    ["Alignment of AdapterShrink"][::std::mem::align_of::<AdapterShrink>() - 8usize];
    ["Offset of field: AdapterShrink::x"][::std::mem::offset_of!(AdapterShrink, x) - 0usize];
    ["Offset of field: AdapterShrink::adapter_slot_of"]
        [::std::mem::offset_of!(AdapterShrink, adapter_slot_of) - 8usize];
    ["Offset of field: AdapterShrink::row_of"]
        [::std::mem::offset_of!(AdapterShrink, row_of) - 16usize];
    ["Offset of field: AdapterShrink::a"][::std::mem::offset_of!(AdapterShrink, a) - 24usize];
    ["Offset of field: AdapterShrink::ranks"]
        [::std::mem::offset_of!(AdapterShrink, ranks) - 32usize];
    ["Offset of field: AdapterShrink::low"][::std::mem::offset_of!(AdapterShrink, low) - 40usize];
    ["Offset of field: AdapterShrink::rows"][::std::mem::offset_of!(AdapterShrink, rows) - 48usize];
    ["Offset of field: AdapterShrink::tiles"]
        [::std::mem::offset_of!(AdapterShrink, tiles) - 52usize];
    ["Offset of field: AdapterShrink::inputs"]
        [::std::mem::offset_of!(AdapterShrink, inputs) - 56usize];
    ["Offset of field: AdapterShrink::parts"]
        [::std::mem::offset_of!(AdapterShrink, parts) - 60usize];
    ["Offset of field: AdapterShrink::max_rank"]
        [::std::mem::offset_of!(AdapterShrink, max_rank) - 64usize];
    ["Offset of field: AdapterShrink::splits"]
        [::std::mem::offset_of!(AdapterShrink, splits) - 68usize];
};
#[doc = " adapter_expand, and adapter_expand_logits with y of f32."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AdapterExpand {
    #[doc = " \\[rows, outputs], in place"]
    pub y: DevicePtr,
    #[doc = " As in AdapterShrink, up to the ranks."]
    pub adapter_slot_of: DevicePtr,
    pub row_of: DevicePtr,
    pub low: DevicePtr,
    #[doc = " \\[adapter slots, max_rank, outputs]"]
    pub b: DevicePtr,
    pub ranks: DevicePtr,
    pub rows: u32,
    pub tiles: u32,
    pub outputs: u32,
    pub parts: u32,
    pub max_rank: u32,
    pub splits: u32,
    #[doc = " Where the first part ends, and the second."]
    pub end0: u32,
    pub end1: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdapterExpand"][::std::mem::size_of::<AdapterExpand>() - 80usize];
    ["Alignment of AdapterExpand"][::std::mem::align_of::<AdapterExpand>() - 8usize];
    ["Offset of field: AdapterExpand::y"][::std::mem::offset_of!(AdapterExpand, y) - 0usize];
    ["Offset of field: AdapterExpand::adapter_slot_of"]
        [::std::mem::offset_of!(AdapterExpand, adapter_slot_of) - 8usize];
    ["Offset of field: AdapterExpand::row_of"]
        [::std::mem::offset_of!(AdapterExpand, row_of) - 16usize];
    ["Offset of field: AdapterExpand::low"][::std::mem::offset_of!(AdapterExpand, low) - 24usize];
    ["Offset of field: AdapterExpand::b"][::std::mem::offset_of!(AdapterExpand, b) - 32usize];
    ["Offset of field: AdapterExpand::ranks"]
        [::std::mem::offset_of!(AdapterExpand, ranks) - 40usize];
    ["Offset of field: AdapterExpand::rows"][::std::mem::offset_of!(AdapterExpand, rows) - 48usize];
    ["Offset of field: AdapterExpand::tiles"]
        [::std::mem::offset_of!(AdapterExpand, tiles) - 52usize];
    ["Offset of field: AdapterExpand::outputs"]
        [::std::mem::offset_of!(AdapterExpand, outputs) - 56usize];
    ["Offset of field: AdapterExpand::parts"]
        [::std::mem::offset_of!(AdapterExpand, parts) - 60usize];
    ["Offset of field: AdapterExpand::max_rank"]
        [::std::mem::offset_of!(AdapterExpand, max_rank) - 64usize];
    ["Offset of field: AdapterExpand::splits"]
        [::std::mem::offset_of!(AdapterExpand, splits) - 68usize];
    ["Offset of field: AdapterExpand::end0"][::std::mem::offset_of!(AdapterExpand, end0) - 72usize];
    ["Offset of field: AdapterExpand::end1"][::std::mem::offset_of!(AdapterExpand, end1) - 76usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EmbedAdapted {
    #[doc = " \\[rows]"]
    pub token: DevicePtr,
    #[doc = " \\[rows], 1 + the adapter slot, 0 = none"]
    pub adapter_slot_of: DevicePtr,
    #[doc = " \\[table_rows, width]"]
    pub table: DevicePtr,
    #[doc = " \\[adapter slots, table_rows, rank], each slot with room for max_rank"]
    pub a: DevicePtr,
    #[doc = " \\[adapter slots, max_rank, width]"]
    pub b: DevicePtr,
    #[doc = " \\[adapter slots]"]
    pub ranks: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub table_rows: u32,
    pub width: u32,
    pub max_rank: u32,
    #[doc = " As in Embed."]
    pub first: u32,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbedAdapted"][::std::mem::size_of::<EmbedAdapted>() - 80usize];
    ["Alignment of EmbedAdapted"][::std::mem::align_of::<EmbedAdapted>() - 8usize];
    ["Offset of field: EmbedAdapted::token"][::std::mem::offset_of!(EmbedAdapted, token) - 0usize];
    ["Offset of field: EmbedAdapted::adapter_slot_of"]
        [::std::mem::offset_of!(EmbedAdapted, adapter_slot_of) - 8usize];
    ["Offset of field: EmbedAdapted::table"][::std::mem::offset_of!(EmbedAdapted, table) - 16usize];
    ["Offset of field: EmbedAdapted::a"][::std::mem::offset_of!(EmbedAdapted, a) - 24usize];
    ["Offset of field: EmbedAdapted::b"][::std::mem::offset_of!(EmbedAdapted, b) - 32usize];
    ["Offset of field: EmbedAdapted::ranks"][::std::mem::offset_of!(EmbedAdapted, ranks) - 40usize];
    ["Offset of field: EmbedAdapted::out"][::std::mem::offset_of!(EmbedAdapted, out) - 48usize];
    ["Offset of field: EmbedAdapted::table_rows"]
        [::std::mem::offset_of!(EmbedAdapted, table_rows) - 56usize];
    ["Offset of field: EmbedAdapted::width"][::std::mem::offset_of!(EmbedAdapted, width) - 60usize];
    ["Offset of field: EmbedAdapted::max_rank"]
        [::std::mem::offset_of!(EmbedAdapted, max_rank) - 64usize];
    ["Offset of field: EmbedAdapted::first"][::std::mem::offset_of!(EmbedAdapted, first) - 68usize];
    ["Offset of field: EmbedAdapted::scale"][::std::mem::offset_of!(EmbedAdapted, scale) - 72usize];
    ["Offset of field: EmbedAdapted::unused"]
        [::std::mem::offset_of!(EmbedAdapted, unused) - 76usize];
};
#[doc = " `to` of all four is of the device's type for matrices, f32 for vectors."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ConvertWeight {
    #[doc = " \\[count] of `kind`"]
    pub from: DevicePtr,
    pub to: DevicePtr,
    pub count: u64,
    pub kind: ElementType,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvertWeight"][::std::mem::size_of::<ConvertWeight>() - 32usize];
    ["Alignment of ConvertWeight"][::std::mem::align_of::<ConvertWeight>() - 8usize];
    ["Offset of field: ConvertWeight::from"][::std::mem::offset_of!(ConvertWeight, from) - 0usize];
    ["Offset of field: ConvertWeight::to"][::std::mem::offset_of!(ConvertWeight, to) - 8usize];
    ["Offset of field: ConvertWeight::count"]
        [::std::mem::offset_of!(ConvertWeight, count) - 16usize];
    ["Offset of field: ConvertWeight::kind"][::std::mem::offset_of!(ConvertWeight, kind) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TurnWeight {
    #[doc = " \\[inputs of this part, outputs] of `kind`"]
    pub from: DevicePtr,
    #[doc = " \\[outputs, all_inputs]"]
    pub to: DevicePtr,
    pub count: u64,
    pub outputs: u64,
    pub first_input: u64,
    pub all_inputs: u64,
    pub kind: ElementType,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TurnWeight"][::std::mem::size_of::<TurnWeight>() - 56usize];
    ["Alignment of TurnWeight"][::std::mem::align_of::<TurnWeight>() - 8usize];
    ["Offset of field: TurnWeight::from"][::std::mem::offset_of!(TurnWeight, from) - 0usize];
    ["Offset of field: TurnWeight::to"][::std::mem::offset_of!(TurnWeight, to) - 8usize];
    ["Offset of field: TurnWeight::count"][::std::mem::offset_of!(TurnWeight, count) - 16usize];
    ["Offset of field: TurnWeight::outputs"][::std::mem::offset_of!(TurnWeight, outputs) - 24usize];
    ["Offset of field: TurnWeight::first_input"]
        [::std::mem::offset_of!(TurnWeight, first_input) - 32usize];
    ["Offset of field: TurnWeight::all_inputs"]
        [::std::mem::offset_of!(TurnWeight, all_inputs) - 40usize];
    ["Offset of field: TurnWeight::kind"][::std::mem::offset_of!(TurnWeight, kind) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DummyWeight {
    pub to: DevicePtr,
    pub seed: u64,
    pub count: u64,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DummyWeight"][::std::mem::size_of::<DummyWeight>() - 32usize];
    ["Alignment of DummyWeight"][::std::mem::align_of::<DummyWeight>() - 8usize];
    ["Offset of field: DummyWeight::to"][::std::mem::offset_of!(DummyWeight, to) - 0usize];
    ["Offset of field: DummyWeight::seed"][::std::mem::offset_of!(DummyWeight, seed) - 8usize];
    ["Offset of field: DummyWeight::count"][::std::mem::offset_of!(DummyWeight, count) - 16usize];
    ["Offset of field: DummyWeight::scale"][::std::mem::offset_of!(DummyWeight, scale) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ConstantWeight {
    pub to: DevicePtr,
    pub count: u64,
    pub value: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConstantWeight"][::std::mem::size_of::<ConstantWeight>() - 24usize];
    ["Alignment of ConstantWeight"][::std::mem::align_of::<ConstantWeight>() - 8usize];
    ["Offset of field: ConstantWeight::to"][::std::mem::offset_of!(ConstantWeight, to) - 0usize];
    ["Offset of field: ConstantWeight::count"]
        [::std::mem::offset_of!(ConstantWeight, count) - 8usize];
    ["Offset of field: ConstantWeight::value"]
        [::std::mem::offset_of!(ConstantWeight, value) - 16usize];
};
pub const DRAFT_THREADS: u32 = 128;
#[doc = " out\\[r, first ..] = x\\[r]"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PutColumns {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    #[doc = " \\[rows, out_width]"]
    pub out: DevicePtr,
    pub width: u32,
    pub out_width: u32,
    pub first: u32,
    #[doc = " Rows at position 0 are zeros."]
    pub blank_start: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PutColumns"][::std::mem::size_of::<PutColumns>() - 40usize];
    ["Alignment of PutColumns"][::std::mem::align_of::<PutColumns>() - 8usize];
    ["Offset of field: PutColumns::x"][::std::mem::offset_of!(PutColumns, x) - 0usize];
    ["Offset of field: PutColumns::position"]
        [::std::mem::offset_of!(PutColumns, position) - 8usize];
    ["Offset of field: PutColumns::out"][::std::mem::offset_of!(PutColumns, out) - 16usize];
    ["Offset of field: PutColumns::width"][::std::mem::offset_of!(PutColumns, width) - 24usize];
    ["Offset of field: PutColumns::out_width"]
        [::std::mem::offset_of!(PutColumns, out_width) - 28usize];
    ["Offset of field: PutColumns::first"][::std::mem::offset_of!(PutColumns, first) - 32usize];
    ["Offset of field: PutColumns::blank_start"]
        [::std::mem::offset_of!(PutColumns, blank_start) - 36usize];
};
#[doc = " Rows of a step and those that are kept by page: store_hidden copies to the kept ones, load_hidden\n from them."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HiddenRows {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[pages * page_size, width]"]
    pub kept: DevicePtr,
    #[doc = " \\[rows], the token row that each stands for; null: itself"]
    pub row: DevicePtr,
    #[doc = " \\[token rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    pub width: u32,
    pub page_size: u32,
    #[doc = " Positions behind the token row's."]
    pub ahead: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HiddenRows"][::std::mem::size_of::<HiddenRows>() - 88usize];
    ["Alignment of HiddenRows"][::std::mem::align_of::<HiddenRows>() - 8usize];
    ["Offset of field: HiddenRows::x"][::std::mem::offset_of!(HiddenRows, x) - 0usize];
    ["Offset of field: HiddenRows::kept"][::std::mem::offset_of!(HiddenRows, kept) - 8usize];
    ["Offset of field: HiddenRows::row"][::std::mem::offset_of!(HiddenRows, row) - 16usize];
    ["Offset of field: HiddenRows::position"]
        [::std::mem::offset_of!(HiddenRows, position) - 24usize];
    ["Offset of field: HiddenRows::slot_of"][::std::mem::offset_of!(HiddenRows, slot_of) - 32usize];
    ["Offset of field: HiddenRows::slots"][::std::mem::offset_of!(HiddenRows, slots) - 40usize];
    ["Offset of field: HiddenRows::width"][::std::mem::offset_of!(HiddenRows, width) - 72usize];
    ["Offset of field: HiddenRows::page_size"]
        [::std::mem::offset_of!(HiddenRows, page_size) - 76usize];
    ["Offset of field: HiddenRows::ahead"][::std::mem::offset_of!(HiddenRows, ahead) - 80usize];
    ["Offset of field: HiddenRows::unused"][::std::mem::offset_of!(HiddenRows, unused) - 84usize];
};
#[doc = " *at = row"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BeginUnread {
    pub at: DevicePtr,
    pub row: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BeginUnread"][::std::mem::size_of::<BeginUnread>() - 16usize];
    ["Alignment of BeginUnread"][::std::mem::align_of::<BeginUnread>() - 8usize];
    ["Offset of field: BeginUnread::at"][::std::mem::offset_of!(BeginUnread, at) - 0usize];
    ["Offset of field: BeginUnread::row"][::std::mem::offset_of!(BeginUnread, row) - 8usize];
    ["Offset of field: BeginUnread::unused"][::std::mem::offset_of!(BeginUnread, unused) - 12usize];
};
#[doc = " rows\\[*at + r, first ..] = x\\[r], and kept\\[*at + r] = the kept row of r's position if first is 0."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PutUnread {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[_, row_width]"]
    pub rows: DevicePtr,
    pub kept: DevicePtr,
    pub at: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    pub width: u32,
    pub row_width: u32,
    pub first: u32,
    pub page_size: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PutUnread"][::std::mem::size_of::<PutUnread>() - 96usize];
    ["Alignment of PutUnread"][::std::mem::align_of::<PutUnread>() - 8usize];
    ["Offset of field: PutUnread::x"][::std::mem::offset_of!(PutUnread, x) - 0usize];
    ["Offset of field: PutUnread::rows"][::std::mem::offset_of!(PutUnread, rows) - 8usize];
    ["Offset of field: PutUnread::kept"][::std::mem::offset_of!(PutUnread, kept) - 16usize];
    ["Offset of field: PutUnread::at"][::std::mem::offset_of!(PutUnread, at) - 24usize];
    ["Offset of field: PutUnread::position"][::std::mem::offset_of!(PutUnread, position) - 32usize];
    ["Offset of field: PutUnread::slot_of"][::std::mem::offset_of!(PutUnread, slot_of) - 40usize];
    ["Offset of field: PutUnread::slots"][::std::mem::offset_of!(PutUnread, slots) - 48usize];
    ["Offset of field: PutUnread::width"][::std::mem::offset_of!(PutUnread, width) - 80usize];
    ["Offset of field: PutUnread::row_width"]
        [::std::mem::offset_of!(PutUnread, row_width) - 84usize];
    ["Offset of field: PutUnread::first"][::std::mem::offset_of!(PutUnread, first) - 88usize];
    ["Offset of field: PutUnread::page_size"]
        [::std::mem::offset_of!(PutUnread, page_size) - 92usize];
};
#[doc = " kept\\[of\\[r]] = x\\[r]"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KeepUnread {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows]"]
    pub of: DevicePtr,
    #[doc = " \\[_, width]"]
    pub kept: DevicePtr,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KeepUnread"][::std::mem::size_of::<KeepUnread>() - 32usize];
    ["Alignment of KeepUnread"][::std::mem::align_of::<KeepUnread>() - 8usize];
    ["Offset of field: KeepUnread::x"][::std::mem::offset_of!(KeepUnread, x) - 0usize];
    ["Offset of field: KeepUnread::of"][::std::mem::offset_of!(KeepUnread, of) - 8usize];
    ["Offset of field: KeepUnread::kept"][::std::mem::offset_of!(KeepUnread, kept) - 16usize];
    ["Offset of field: KeepUnread::width"][::std::mem::offset_of!(KeepUnread, width) - 24usize];
    ["Offset of field: KeepUnread::unused"][::std::mem::offset_of!(KeepUnread, unused) - 28usize];
};
#[doc = " logits\\[s, t] = x\\[s, places\\[t]], or -inf"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SpreadLogits {
    #[doc = " \\[rows, few]"]
    pub x: DevicePtr,
    #[doc = " \\[vocab], below 0: none"]
    pub places: DevicePtr,
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    pub few: u32,
    pub vocab: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SpreadLogits"][::std::mem::size_of::<SpreadLogits>() - 32usize];
    ["Alignment of SpreadLogits"][::std::mem::align_of::<SpreadLogits>() - 8usize];
    ["Offset of field: SpreadLogits::x"][::std::mem::offset_of!(SpreadLogits, x) - 0usize];
    ["Offset of field: SpreadLogits::places"]
        [::std::mem::offset_of!(SpreadLogits, places) - 8usize];
    ["Offset of field: SpreadLogits::logits"]
        [::std::mem::offset_of!(SpreadLogits, logits) - 16usize];
    ["Offset of field: SpreadLogits::few"][::std::mem::offset_of!(SpreadLogits, few) - 24usize];
    ["Offset of field: SpreadLogits::vocab"][::std::mem::offset_of!(SpreadLogits, vocab) - 28usize];
};
pub const MAX_EXPERTS: u32 = 1024;
pub const MAX_EXPERT_GROUPS: u32 = 64;
#[doc = " Rows that a block of route_rows routes."]
pub const ROUTE_ROWS: u32 = 4;
#[doc = " Tiles of the two kernels on tensor cores: choices, outputs (gates and ups together), stages."]
pub const NARROW_ROWS: u32 = 16;
pub const NARROW_OUTPUTS: u32 = 64;
pub const NARROW_STAGES: u32 = 4;
pub const NARROW_THREADS: u32 = 128;
pub const WIDE_ROWS: u32 = 64;
pub const WIDE_OUTPUTS: u32 = 128;
pub const WIDE_STAGES: u32 = 3;
pub const WIDE_THREADS: u32 = 256;
#[doc = " Inputs of a stage, and elements between the ends of its rows."]
pub const EXPERT_SLICE: u32 = 64;
pub const EXPERT_PADDING: u32 = 8;
#[doc = " Rows and columns of the plain kernel's tile."]
pub const EXPERT_PLAIN_TILE: u32 = 16;
#[doc = " Choices of one expert that a block multiplies together: entries of the order."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpertTile {
    pub expert: u32,
    pub first: u32,
    pub count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpertTile"][::std::mem::size_of::<ExpertTile>() - 12usize];
    ["Alignment of ExpertTile"][::std::mem::align_of::<ExpertTile>() - 4usize];
    ["Offset of field: ExpertTile::expert"][::std::mem::offset_of!(ExpertTile, expert) - 0usize];
    ["Offset of field: ExpertTile::first"][::std::mem::offset_of!(ExpertTile, first) - 4usize];
    ["Offset of field: ExpertTile::count"][::std::mem::offset_of!(ExpertTile, count) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RouteRows {
    #[doc = " \\[rows, experts]"]
    pub logits: DevicePtr,
    #[doc = " \\[experts], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[experts], added to scores where experts are chosen; or null"]
    pub choice_bias: DevicePtr,
    #[doc = " \\[rows, 2, top_k]: numbers of experts, then weights"]
    pub routes: DevicePtr,
    pub rows: u32,
    pub experts: u32,
    pub top_k: u32,
    #[doc = " Weights are divided by the sum of those chosen."]
    pub renormalise: u32,
    pub score: RouteScore,
    #[doc = " Experts are chosen out of the best groups of neighbours; 0: out of all. With a choice bias the\n two best of a group count, else the best one."]
    pub groups: u32,
    #[doc = " Experts are chosen out of the best groups of neighbours; 0: out of all. With a choice bias the\n two best of a group count, else the best one."]
    pub top_groups: u32,
    #[doc = " Of weights."]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteRows"][::std::mem::size_of::<RouteRows>() - 64usize];
    ["Alignment of RouteRows"][::std::mem::align_of::<RouteRows>() - 8usize];
    ["Offset of field: RouteRows::logits"][::std::mem::offset_of!(RouteRows, logits) - 0usize];
    ["Offset of field: RouteRows::bias"][::std::mem::offset_of!(RouteRows, bias) - 8usize];
    ["Offset of field: RouteRows::choice_bias"]
        [::std::mem::offset_of!(RouteRows, choice_bias) - 16usize];
    ["Offset of field: RouteRows::routes"][::std::mem::offset_of!(RouteRows, routes) - 24usize];
    ["Offset of field: RouteRows::rows"][::std::mem::offset_of!(RouteRows, rows) - 32usize];
    ["Offset of field: RouteRows::experts"][::std::mem::offset_of!(RouteRows, experts) - 36usize];
    ["Offset of field: RouteRows::top_k"][::std::mem::offset_of!(RouteRows, top_k) - 40usize];
    ["Offset of field: RouteRows::renormalise"]
        [::std::mem::offset_of!(RouteRows, renormalise) - 44usize];
    ["Offset of field: RouteRows::score"][::std::mem::offset_of!(RouteRows, score) - 48usize];
    ["Offset of field: RouteRows::groups"][::std::mem::offset_of!(RouteRows, groups) - 52usize];
    ["Offset of field: RouteRows::top_groups"]
        [::std::mem::offset_of!(RouteRows, top_groups) - 56usize];
    ["Offset of field: RouteRows::scale"][::std::mem::offset_of!(RouteRows, scale) - 60usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GroupRows {
    #[doc = " As in RouteRows."]
    pub routes: DevicePtr,
    #[doc = " \\[choices], by expert"]
    pub order: DevicePtr,
    pub tiles: DevicePtr,
    #[doc = " One word"]
    pub tile_count: DevicePtr,
    pub choices: u32,
    pub top_k: u32,
    pub experts: u32,
    #[doc = " Choices of a tile at most."]
    pub tile_rows: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupRows"][::std::mem::size_of::<GroupRows>() - 48usize];
    ["Alignment of GroupRows"][::std::mem::align_of::<GroupRows>() - 8usize];
    ["Offset of field: GroupRows::routes"][::std::mem::offset_of!(GroupRows, routes) - 0usize];
    ["Offset of field: GroupRows::order"][::std::mem::offset_of!(GroupRows, order) - 8usize];
    ["Offset of field: GroupRows::tiles"][::std::mem::offset_of!(GroupRows, tiles) - 16usize];
    ["Offset of field: GroupRows::tile_count"]
        [::std::mem::offset_of!(GroupRows, tile_count) - 24usize];
    ["Offset of field: GroupRows::choices"][::std::mem::offset_of!(GroupRows, choices) - 32usize];
    ["Offset of field: GroupRows::top_k"][::std::mem::offset_of!(GroupRows, top_k) - 36usize];
    ["Offset of field: GroupRows::experts"][::std::mem::offset_of!(GroupRows, experts) - 40usize];
    ["Offset of field: GroupRows::tile_rows"]
        [::std::mem::offset_of!(GroupRows, tile_rows) - 44usize];
};
#[doc = " The kernels experts_up_* (x has a row for each row) and experts_down_* (one for each choice)."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MultiplyExperts {
    #[doc = " \\[rows or choices, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[experts, outputs, inputs]"]
    pub w: DevicePtr,
    #[doc = " \\[experts, outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[choices, outputs / 2 or outputs]"]
    pub out: DevicePtr,
    pub order: DevicePtr,
    pub tiles: DevicePtr,
    pub tile_count: DevicePtr,
    pub top_k: u32,
    #[doc = " Of one expert, gates and ups together."]
    pub outputs: u32,
    pub inputs: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MultiplyExperts"][::std::mem::size_of::<MultiplyExperts>() - 72usize];
    ["Alignment of MultiplyExperts"][::std::mem::align_of::<MultiplyExperts>() - 8usize];
    ["Offset of field: MultiplyExperts::x"][::std::mem::offset_of!(MultiplyExperts, x) - 0usize];
    ["Offset of field: MultiplyExperts::w"][::std::mem::offset_of!(MultiplyExperts, w) - 8usize];
    ["Offset of field: MultiplyExperts::bias"]
        [::std::mem::offset_of!(MultiplyExperts, bias) - 16usize];
    ["Offset of field: MultiplyExperts::out"]
        [::std::mem::offset_of!(MultiplyExperts, out) - 24usize];
    ["Offset of field: MultiplyExperts::order"]
        [::std::mem::offset_of!(MultiplyExperts, order) - 32usize];
    ["Offset of field: MultiplyExperts::tiles"]
        [::std::mem::offset_of!(MultiplyExperts, tiles) - 40usize];
    ["Offset of field: MultiplyExperts::tile_count"]
        [::std::mem::offset_of!(MultiplyExperts, tile_count) - 48usize];
    ["Offset of field: MultiplyExperts::top_k"]
        [::std::mem::offset_of!(MultiplyExperts, top_k) - 56usize];
    ["Offset of field: MultiplyExperts::outputs"]
        [::std::mem::offset_of!(MultiplyExperts, outputs) - 60usize];
    ["Offset of field: MultiplyExperts::inputs"]
        [::std::mem::offset_of!(MultiplyExperts, inputs) - 64usize];
    ["Offset of field: MultiplyExperts::kind"]
        [::std::mem::offset_of!(MultiplyExperts, kind) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CombineExperts {
    #[doc = " As in RouteRows."]
    pub routes: DevicePtr,
    #[doc = " \\[choices, width]"]
    pub parts: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub top_k: u32,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineExperts"][::std::mem::size_of::<CombineExperts>() - 32usize];
    ["Alignment of CombineExperts"][::std::mem::align_of::<CombineExperts>() - 8usize];
    ["Offset of field: CombineExperts::routes"]
        [::std::mem::offset_of!(CombineExperts, routes) - 0usize];
    ["Offset of field: CombineExperts::parts"]
        [::std::mem::offset_of!(CombineExperts, parts) - 8usize];
    ["Offset of field: CombineExperts::out"][::std::mem::offset_of!(CombineExperts, out) - 16usize];
    ["Offset of field: CombineExperts::top_k"]
        [::std::mem::offset_of!(CombineExperts, top_k) - 24usize];
    ["Offset of field: CombineExperts::width"]
        [::std::mem::offset_of!(CombineExperts, width) - 28usize];
};
#[doc = " Few choices of an expert (few_rows.cuh): threads, and choices of an item at most."]
pub const FEW_WARPS: u32 = 8;
pub const FEW_THREADS: u32 = 256;
pub const FEW_CHOICES: u32 = 16;
#[doc = " Outputs of an item, gates and ups together."]
pub const FEW_OUTPUTS: u32 = 16;
#[doc = " Plain weights: inputs of a slot of a warp's ring, its bytes, slots of a ring."]
pub const FEW_INPUTS: u32 = 64;
pub const FEW_SLOT_BYTES: u32 = 2048;
pub const FEW_SLOTS: u32 = 5;
#[doc = " The warps' sums of two items, for each eight choices of an item."]
pub const FEW_SUMS_BYTES: u32 = 8192;
pub const FEW_SHARED_BYTES: u32 = 98304;
#[doc = " Counters of a mixture: slices of an item's outputs, and one of the router's blocks."]
pub const FEW_TICKETS: u32 = 4096;
#[doc = " As MultiplyExperts, for few choices of each expert; with a sum, each row's parts by their weights\n in the order of its choices."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct FewExperts {
    #[doc = " \\[rows or choices, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[experts, outputs, inputs]; not where they are codes"]
    pub w: DevicePtr,
    #[doc = " \\[experts, outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[choices, outputs / 2 or outputs]"]
    pub out: DevicePtr,
    pub order: DevicePtr,
    #[doc = " Null: one tile, whose choices are the rows."]
    pub tiles: DevicePtr,
    pub tile_count: DevicePtr,
    #[doc = " As in RouteRows."]
    pub routes: DevicePtr,
    #[doc = " \\[rows, outputs], or null"]
    pub sum: DevicePtr,
    #[doc = " \\[slices], 0 between launches"]
    pub tickets: DevicePtr,
    pub rows: u32,
    #[doc = " Choices of a row of x."]
    pub top_k: u32,
    #[doc = " Of a row."]
    pub choices: u32,
    #[doc = " Of one expert, gates and ups together."]
    pub outputs: u32,
    pub inputs: u32,
    pub gated: u32,
    #[doc = " Of FEW_CHOICES choices, in a tile."]
    pub pieces: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FewExperts"][::std::mem::size_of::<FewExperts>() - 112usize];
    ["Alignment of FewExperts"][::std::mem::align_of::<FewExperts>() - 8usize];
    ["Offset of field: FewExperts::x"][::std::mem::offset_of!(FewExperts, x) - 0usize];
    ["Offset of field: FewExperts::w"][::std::mem::offset_of!(FewExperts, w) - 8usize];
    ["Offset of field: FewExperts::bias"][::std::mem::offset_of!(FewExperts, bias) - 16usize];
    ["Offset of field: FewExperts::out"][::std::mem::offset_of!(FewExperts, out) - 24usize];
    ["Offset of field: FewExperts::order"][::std::mem::offset_of!(FewExperts, order) - 32usize];
    ["Offset of field: FewExperts::tiles"][::std::mem::offset_of!(FewExperts, tiles) - 40usize];
    ["Offset of field: FewExperts::tile_count"]
        [::std::mem::offset_of!(FewExperts, tile_count) - 48usize];
    ["Offset of field: FewExperts::routes"][::std::mem::offset_of!(FewExperts, routes) - 56usize];
    ["Offset of field: FewExperts::sum"][::std::mem::offset_of!(FewExperts, sum) - 64usize];
    ["Offset of field: FewExperts::tickets"][::std::mem::offset_of!(FewExperts, tickets) - 72usize];
    ["Offset of field: FewExperts::rows"][::std::mem::offset_of!(FewExperts, rows) - 80usize];
    ["Offset of field: FewExperts::top_k"][::std::mem::offset_of!(FewExperts, top_k) - 84usize];
    ["Offset of field: FewExperts::choices"][::std::mem::offset_of!(FewExperts, choices) - 88usize];
    ["Offset of field: FewExperts::outputs"][::std::mem::offset_of!(FewExperts, outputs) - 92usize];
    ["Offset of field: FewExperts::inputs"][::std::mem::offset_of!(FewExperts, inputs) - 96usize];
    ["Offset of field: FewExperts::gated"][::std::mem::offset_of!(FewExperts, gated) - 100usize];
    ["Offset of field: FewExperts::pieces"][::std::mem::offset_of!(FewExperts, pieces) - 104usize];
    ["Offset of field: FewExperts::kind"][::std::mem::offset_of!(FewExperts, kind) - 108usize];
};
#[doc = " route_rows and group_rows behind the router's product, in one."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RouteFew {
    #[doc = " Of the router; `x` has `rows` rows."]
    pub product: FewExperts,
    pub route: RouteRows,
    pub group: GroupRows,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteFew"][::std::mem::size_of::<RouteFew>() - 224usize];
    ["Alignment of RouteFew"][::std::mem::align_of::<RouteFew>() - 8usize];
    ["Offset of field: RouteFew::product"][::std::mem::offset_of!(RouteFew, product) - 0usize];
    ["Offset of field: RouteFew::route"][::std::mem::offset_of!(RouteFew, route) - 112usize];
    ["Offset of field: RouteFew::group"][::std::mem::offset_of!(RouteFew, group) - 176usize];
};
#[doc = " Choices of all rows that the kernels of few rows take at most."]
pub const SMALL_CHOICES: u32 = 64;
#[doc = " The router's product of a few rows, to `route.logits`, and the choice behind it."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RouteSmall {
    pub product: SmallGemm,
    pub route: RouteRows,
    #[doc = " Counts blocks; 0 between launches."]
    pub ticket: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteSmall"][::std::mem::size_of::<RouteSmall>() - 256usize];
    ["Alignment of RouteSmall"][::std::mem::align_of::<RouteSmall>() - 8usize];
    ["Offset of field: RouteSmall::product"][::std::mem::offset_of!(RouteSmall, product) - 0usize];
    ["Offset of field: RouteSmall::route"][::std::mem::offset_of!(RouteSmall, route) - 184usize];
    ["Offset of field: RouteSmall::ticket"][::std::mem::offset_of!(RouteSmall, ticket) - 248usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AddGated {
    #[doc = " \\[width]"]
    pub gate: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub delta: DevicePtr,
    #[doc = " \\[rows, width], in place"]
    pub out: DevicePtr,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddGated"][::std::mem::size_of::<AddGated>() - 40usize];
    ["Alignment of AddGated"][::std::mem::align_of::<AddGated>() - 8usize];
    ["Offset of field: AddGated::gate"][::std::mem::offset_of!(AddGated, gate) - 0usize];
    ["Offset of field: AddGated::x"][::std::mem::offset_of!(AddGated, x) - 8usize];
    ["Offset of field: AddGated::delta"][::std::mem::offset_of!(AddGated, delta) - 16usize];
    ["Offset of field: AddGated::out"][::std::mem::offset_of!(AddGated, out) - 24usize];
    ["Offset of field: AddGated::width"][::std::mem::offset_of!(AddGated, width) - 32usize];
};
#[doc = " What attend_latent takes at most: a latent vector, and its rotated pairs."]
pub const LATENT_MAX_WIDTH: u32 = 640;
pub const LATENT_MAX_PAIRS: u32 = 64;
#[doc = " Heads of q of a block of store_latent."]
pub const LATENT_STORE_HEADS: u32 = 16;
pub const LATENT_THREADS: u32 = 128;
#[doc = " What tiles have code for: the front of a latent vector, and its end."]
pub const LATENT_TILE_RANK: u32 = 512;
pub const LATENT_TILE_ROTARY: u32 = 64;
#[doc = " Keys of a tile, tiles in flight, elements between the ends of rows in shared memory."]
pub const LATENT_KEYS: u32 = 32;
pub const LATENT_STAGES: u32 = 2;
pub const LATENT_PADDING: u32 = 8;
#[doc = " Packed rows of a tile: few and many, the warps that share them by rows and by columns."]
pub const LATENT_FEW_ROWS: u32 = 16;
pub const LATENT_MANY_ROWS: u32 = 64;
pub const LATENT_FEW_THREADS: u32 = 128;
pub const LATENT_MANY_THREADS: u32 = 256;
#[doc = " Tiles of multiply_heads: rows, few and many, outputs, inputs of a stage, warps' threads."]
pub const HEADS_FEW_ROWS: u32 = 16;
pub const HEADS_MANY_ROWS: u32 = 64;
pub const HEADS_OUTPUTS: u32 = 64;
pub const HEADS_SLICE: u32 = 64;
pub const HEADS_THREADS: u32 = 128;
#[doc = " out\\[r, h] = W_h x\\[r, h]"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MultiplyHeads {
    #[doc = " \\[rows, heads, x_dim], of which the first `inputs` are read"]
    pub x: DevicePtr,
    #[doc = " \\[heads, outputs, inputs]"]
    pub w: DevicePtr,
    #[doc = " \\[rows, heads, out_dim], of which the first `outputs` are written"]
    pub out: DevicePtr,
    pub rows: u32,
    pub heads: u32,
    pub x_dim: u32,
    pub out_dim: u32,
    pub outputs: u32,
    pub inputs: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MultiplyHeads"][::std::mem::size_of::<MultiplyHeads>() - 48usize];
    ["Alignment of MultiplyHeads"][::std::mem::align_of::<MultiplyHeads>() - 8usize];
    ["Offset of field: MultiplyHeads::x"][::std::mem::offset_of!(MultiplyHeads, x) - 0usize];
    ["Offset of field: MultiplyHeads::w"][::std::mem::offset_of!(MultiplyHeads, w) - 8usize];
    ["Offset of field: MultiplyHeads::out"][::std::mem::offset_of!(MultiplyHeads, out) - 16usize];
    ["Offset of field: MultiplyHeads::rows"][::std::mem::offset_of!(MultiplyHeads, rows) - 24usize];
    ["Offset of field: MultiplyHeads::heads"]
        [::std::mem::offset_of!(MultiplyHeads, heads) - 28usize];
    ["Offset of field: MultiplyHeads::x_dim"]
        [::std::mem::offset_of!(MultiplyHeads, x_dim) - 32usize];
    ["Offset of field: MultiplyHeads::out_dim"]
        [::std::mem::offset_of!(MultiplyHeads, out_dim) - 36usize];
    ["Offset of field: MultiplyHeads::outputs"]
        [::std::mem::offset_of!(MultiplyHeads, outputs) - 40usize];
    ["Offset of field: MultiplyHeads::inputs"]
        [::std::mem::offset_of!(MultiplyHeads, inputs) - 44usize];
};
#[doc = " The pool of a layer: \\[pages, page_size, rank + 2 half]."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct StoreLatent {
    #[doc = " \\[rows, heads, nope + 2 half]"]
    pub q: DevicePtr,
    #[doc = " \\[rows, rank + 2 half]"]
    pub latent: DevicePtr,
    #[doc = " \\[rank]"]
    pub weight: DevicePtr,
    #[doc = " \\[rows, heads, rank + 2 half], whose ends are written"]
    pub queries: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    pub pool: DevicePtr,
    pub heads: u32,
    pub rank: u32,
    pub nope: u32,
    pub page_size: u32,
    #[doc = " Pairs: the first `half` of the rotated dimensions and the `half` after them."]
    pub half: u32,
    pub eps: f32,
    pub kind: NormKind,
    #[doc = " Of sines and cosines."]
    pub magnitude: f32,
    #[doc = " \\[half]"]
    pub inverse_frequency: [f32; 64usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of StoreLatent"][::std::mem::size_of::<StoreLatent>() - 376usize];
    ["Alignment of StoreLatent"][::std::mem::align_of::<StoreLatent>() - 8usize];
    ["Offset of field: StoreLatent::q"][::std::mem::offset_of!(StoreLatent, q) - 0usize];
    ["Offset of field: StoreLatent::latent"][::std::mem::offset_of!(StoreLatent, latent) - 8usize];
    ["Offset of field: StoreLatent::weight"][::std::mem::offset_of!(StoreLatent, weight) - 16usize];
    ["Offset of field: StoreLatent::queries"]
        [::std::mem::offset_of!(StoreLatent, queries) - 24usize];
    ["Offset of field: StoreLatent::position"]
        [::std::mem::offset_of!(StoreLatent, position) - 32usize];
    ["Offset of field: StoreLatent::slot_of"]
        [::std::mem::offset_of!(StoreLatent, slot_of) - 40usize];
    ["Offset of field: StoreLatent::slots"][::std::mem::offset_of!(StoreLatent, slots) - 48usize];
    ["Offset of field: StoreLatent::pool"][::std::mem::offset_of!(StoreLatent, pool) - 80usize];
    ["Offset of field: StoreLatent::heads"][::std::mem::offset_of!(StoreLatent, heads) - 88usize];
    ["Offset of field: StoreLatent::rank"][::std::mem::offset_of!(StoreLatent, rank) - 92usize];
    ["Offset of field: StoreLatent::nope"][::std::mem::offset_of!(StoreLatent, nope) - 96usize];
    ["Offset of field: StoreLatent::page_size"]
        [::std::mem::offset_of!(StoreLatent, page_size) - 100usize];
    ["Offset of field: StoreLatent::half"][::std::mem::offset_of!(StoreLatent, half) - 104usize];
    ["Offset of field: StoreLatent::eps"][::std::mem::offset_of!(StoreLatent, eps) - 108usize];
    ["Offset of field: StoreLatent::kind"][::std::mem::offset_of!(StoreLatent, kind) - 112usize];
    ["Offset of field: StoreLatent::magnitude"]
        [::std::mem::offset_of!(StoreLatent, magnitude) - 116usize];
    ["Offset of field: StoreLatent::inverse_frequency"]
        [::std::mem::offset_of!(StoreLatent, inverse_frequency) - 120usize];
};
#[doc = " Weights by all of a latent vector, sums of its first `rank` elements."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendLatent {
    #[doc = " \\[rows, heads, width]"]
    pub queries: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub slots: SlotRows,
    #[doc = " As in StoreLatent."]
    pub pool: DevicePtr,
    #[doc = " \\[rows, heads, rank]"]
    pub out: DevicePtr,
    pub heads: u32,
    pub width: u32,
    pub rank: u32,
    pub page_size: u32,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendLatent"][::std::mem::size_of::<AttendLatent>() - 96usize];
    ["Alignment of AttendLatent"][::std::mem::align_of::<AttendLatent>() - 8usize];
    ["Offset of field: AttendLatent::queries"]
        [::std::mem::offset_of!(AttendLatent, queries) - 0usize];
    ["Offset of field: AttendLatent::position"]
        [::std::mem::offset_of!(AttendLatent, position) - 8usize];
    ["Offset of field: AttendLatent::slot_of"]
        [::std::mem::offset_of!(AttendLatent, slot_of) - 16usize];
    ["Offset of field: AttendLatent::slots"][::std::mem::offset_of!(AttendLatent, slots) - 24usize];
    ["Offset of field: AttendLatent::pool"][::std::mem::offset_of!(AttendLatent, pool) - 56usize];
    ["Offset of field: AttendLatent::out"][::std::mem::offset_of!(AttendLatent, out) - 64usize];
    ["Offset of field: AttendLatent::heads"][::std::mem::offset_of!(AttendLatent, heads) - 72usize];
    ["Offset of field: AttendLatent::width"][::std::mem::offset_of!(AttendLatent, width) - 76usize];
    ["Offset of field: AttendLatent::rank"][::std::mem::offset_of!(AttendLatent, rank) - 80usize];
    ["Offset of field: AttendLatent::page_size"]
        [::std::mem::offset_of!(AttendLatent, page_size) - 84usize];
    ["Offset of field: AttendLatent::scale"][::std::mem::offset_of!(AttendLatent, scale) - 88usize];
    ["Offset of field: AttendLatent::unused"]
        [::std::mem::offset_of!(AttendLatent, unused) - 92usize];
};
#[doc = " The kernels of attention_latent.cu. Packed row r of a sequence is token r / heads, head r % heads."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PagedLatent {
    #[doc = " As in PagedAttention."]
    pub items: DevicePtr,
    #[doc = " \\[rows, heads, LATENT_TILE_RANK + LATENT_TILE_ROTARY]"]
    pub queries: DevicePtr,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slots: SlotRows,
    pub pool: DevicePtr,
    #[doc = " \\[rows, heads, LATENT_TILE_RANK]"]
    pub out: DevicePtr,
    #[doc = " \\[parts, rows of a tile, LATENT_TILE_RANK], weighted sums"]
    pub parts: DevicePtr,
    #[doc = " \\[parts, rows of a tile], maximum (base 2) and sum of weights"]
    pub statistics: DevicePtr,
    #[doc = " \\[first part], parts that are done; 0 between launches"]
    pub arrivals: DevicePtr,
    pub heads: u32,
    pub page_size: u32,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PagedLatent"][::std::mem::size_of::<PagedLatent>() - 112usize];
    ["Alignment of PagedLatent"][::std::mem::align_of::<PagedLatent>() - 8usize];
    ["Offset of field: PagedLatent::items"][::std::mem::offset_of!(PagedLatent, items) - 0usize];
    ["Offset of field: PagedLatent::queries"]
        [::std::mem::offset_of!(PagedLatent, queries) - 8usize];
    ["Offset of field: PagedLatent::position"]
        [::std::mem::offset_of!(PagedLatent, position) - 16usize];
    ["Offset of field: PagedLatent::slots"][::std::mem::offset_of!(PagedLatent, slots) - 24usize];
    ["Offset of field: PagedLatent::pool"][::std::mem::offset_of!(PagedLatent, pool) - 56usize];
    ["Offset of field: PagedLatent::out"][::std::mem::offset_of!(PagedLatent, out) - 64usize];
    ["Offset of field: PagedLatent::parts"][::std::mem::offset_of!(PagedLatent, parts) - 72usize];
    ["Offset of field: PagedLatent::statistics"]
        [::std::mem::offset_of!(PagedLatent, statistics) - 80usize];
    ["Offset of field: PagedLatent::arrivals"]
        [::std::mem::offset_of!(PagedLatent, arrivals) - 88usize];
    ["Offset of field: PagedLatent::heads"][::std::mem::offset_of!(PagedLatent, heads) - 96usize];
    ["Offset of field: PagedLatent::page_size"]
        [::std::mem::offset_of!(PagedLatent, page_size) - 100usize];
    ["Offset of field: PagedLatent::scale"][::std::mem::offset_of!(PagedLatent, scale) - 104usize];
    ["Offset of field: PagedLatent::unused"]
        [::std::mem::offset_of!(PagedLatent, unused) - 108usize];
};
pub const LAYER_THREADS: u32 = 128;
#[doc = " q|k to q|k|v: v is k."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ValuesOfKeys {
    #[doc = " \\[rows, q_width + k_width]"]
    pub qk: DevicePtr,
    #[doc = " \\[rows, q_width + 2 k_width]"]
    pub qkv: DevicePtr,
    pub q_width: u32,
    pub k_width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ValuesOfKeys"][::std::mem::size_of::<ValuesOfKeys>() - 24usize];
    ["Alignment of ValuesOfKeys"][::std::mem::align_of::<ValuesOfKeys>() - 8usize];
    ["Offset of field: ValuesOfKeys::qk"][::std::mem::offset_of!(ValuesOfKeys, qk) - 0usize];
    ["Offset of field: ValuesOfKeys::qkv"][::std::mem::offset_of!(ValuesOfKeys, qkv) - 8usize];
    ["Offset of field: ValuesOfKeys::q_width"]
        [::std::mem::offset_of!(ValuesOfKeys, q_width) - 16usize];
    ["Offset of field: ValuesOfKeys::k_width"]
        [::std::mem::offset_of!(ValuesOfKeys, k_width) - 20usize];
};
#[doc = " x *= factor"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleRows {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    pub width: u32,
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleRows"][::std::mem::size_of::<ScaleRows>() - 16usize];
    ["Alignment of ScaleRows"][::std::mem::align_of::<ScaleRows>() - 8usize];
    ["Offset of field: ScaleRows::x"][::std::mem::offset_of!(ScaleRows, x) - 0usize];
    ["Offset of field: ScaleRows::width"][::std::mem::offset_of!(ScaleRows, width) - 8usize];
    ["Offset of field: ScaleRows::factor"][::std::mem::offset_of!(ScaleRows, factor) - 12usize];
};
#[doc = " A route's weight times its expert's."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleRoutes {
    #[doc = " \\[experts]"]
    pub scales: DevicePtr,
    #[doc = " \\[rows, 2 top_k]: numbers, then weights"]
    pub routes: DevicePtr,
    pub rows: u32,
    pub top_k: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleRoutes"][::std::mem::size_of::<ScaleRoutes>() - 24usize];
    ["Alignment of ScaleRoutes"][::std::mem::align_of::<ScaleRoutes>() - 8usize];
    ["Offset of field: ScaleRoutes::scales"][::std::mem::offset_of!(ScaleRoutes, scales) - 0usize];
    ["Offset of field: ScaleRoutes::routes"][::std::mem::offset_of!(ScaleRoutes, routes) - 8usize];
    ["Offset of field: ScaleRoutes::rows"][::std::mem::offset_of!(ScaleRoutes, rows) - 16usize];
    ["Offset of field: ScaleRoutes::top_k"][::std::mem::offset_of!(ScaleRoutes, top_k) - 20usize];
};
#[doc = " out = weight * x, of routes of one choice each; the weight becomes 1."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct WeighInputs {
    #[doc = " \\[rows, 2]"]
    pub routes: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WeighInputs"][::std::mem::size_of::<WeighInputs>() - 32usize];
    ["Alignment of WeighInputs"][::std::mem::align_of::<WeighInputs>() - 8usize];
    ["Offset of field: WeighInputs::routes"][::std::mem::offset_of!(WeighInputs, routes) - 0usize];
    ["Offset of field: WeighInputs::x"][::std::mem::offset_of!(WeighInputs, x) - 8usize];
    ["Offset of field: WeighInputs::out"][::std::mem::offset_of!(WeighInputs, out) - 16usize];
    ["Offset of field: WeighInputs::width"][::std::mem::offset_of!(WeighInputs, width) - 24usize];
    ["Offset of field: WeighInputs::unused"][::std::mem::offset_of!(WeighInputs, unused) - 28usize];
};
#[doc = " Where rows are many: eights of columns that a thread of a norm has, and threads at most, for rows\n of up to NORM_MANY_COLUMNS, a multiple of eight."]
pub const NORM_GROUPS: u32 = 2;
pub const NORM_MANY_THREADS: u32 = 512;
pub const NORM_MANY_COLUMNS: u32 = 8192;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormRows {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[width]"]
    pub weight: DevicePtr,
    #[doc = " \\[width], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub codes: DevicePtr,
    #[doc = " \\[rows, padded_width]"]
    pub bytes: DevicePtr,
    #[doc = " \\[rows]"]
    pub steps: DevicePtr,
    pub width: u32,
    pub padded_width: u32,
    pub eps: f32,
    pub kind: NormKind,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormRows"][::std::mem::size_of::<NormRows>() - 72usize];
    ["Alignment of NormRows"][::std::mem::align_of::<NormRows>() - 8usize];
    ["Offset of field: NormRows::x"][::std::mem::offset_of!(NormRows, x) - 0usize];
    ["Offset of field: NormRows::weight"][::std::mem::offset_of!(NormRows, weight) - 8usize];
    ["Offset of field: NormRows::bias"][::std::mem::offset_of!(NormRows, bias) - 16usize];
    ["Offset of field: NormRows::out"][::std::mem::offset_of!(NormRows, out) - 24usize];
    ["Offset of field: NormRows::codes"][::std::mem::offset_of!(NormRows, codes) - 32usize];
    ["Offset of field: NormRows::bytes"][::std::mem::offset_of!(NormRows, bytes) - 40usize];
    ["Offset of field: NormRows::steps"][::std::mem::offset_of!(NormRows, steps) - 48usize];
    ["Offset of field: NormRows::width"][::std::mem::offset_of!(NormRows, width) - 56usize];
    ["Offset of field: NormRows::padded_width"]
        [::std::mem::offset_of!(NormRows, padded_width) - 60usize];
    ["Offset of field: NormRows::eps"][::std::mem::offset_of!(NormRows, eps) - 64usize];
    ["Offset of field: NormRows::kind"][::std::mem::offset_of!(NormRows, kind) - 68usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AddNorm {
    #[doc = " \\[rows, width]"]
    pub delta: DevicePtr,
    #[doc = " \\[rows, width], becomes the sum"]
    pub residual: DevicePtr,
    #[doc = " \\[width]"]
    pub weight: DevicePtr,
    #[doc = " \\[width], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, width]; null: codes or bytes are all that is wanted of rows that a block holds."]
    pub out: DevicePtr,
    #[doc = " As in NormRows."]
    pub codes: DevicePtr,
    pub bytes: DevicePtr,
    pub steps: DevicePtr,
    pub width: u32,
    pub padded_width: u32,
    pub eps: f32,
    pub kind: NormKind,
    #[doc = " \\[width], added to delta by add_norm alone; or null"]
    pub delta_bias: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddNorm"][::std::mem::size_of::<AddNorm>() - 88usize];
    ["Alignment of AddNorm"][::std::mem::align_of::<AddNorm>() - 8usize];
    ["Offset of field: AddNorm::delta"][::std::mem::offset_of!(AddNorm, delta) - 0usize];
    ["Offset of field: AddNorm::residual"][::std::mem::offset_of!(AddNorm, residual) - 8usize];
    ["Offset of field: AddNorm::weight"][::std::mem::offset_of!(AddNorm, weight) - 16usize];
    ["Offset of field: AddNorm::bias"][::std::mem::offset_of!(AddNorm, bias) - 24usize];
    ["Offset of field: AddNorm::out"][::std::mem::offset_of!(AddNorm, out) - 32usize];
    ["Offset of field: AddNorm::codes"][::std::mem::offset_of!(AddNorm, codes) - 40usize];
    ["Offset of field: AddNorm::bytes"][::std::mem::offset_of!(AddNorm, bytes) - 48usize];
    ["Offset of field: AddNorm::steps"][::std::mem::offset_of!(AddNorm, steps) - 56usize];
    ["Offset of field: AddNorm::width"][::std::mem::offset_of!(AddNorm, width) - 64usize];
    ["Offset of field: AddNorm::padded_width"]
        [::std::mem::offset_of!(AddNorm, padded_width) - 68usize];
    ["Offset of field: AddNorm::eps"][::std::mem::offset_of!(AddNorm, eps) - 72usize];
    ["Offset of field: AddNorm::kind"][::std::mem::offset_of!(AddNorm, kind) - 76usize];
    ["Offset of field: AddNorm::delta_bias"][::std::mem::offset_of!(AddNorm, delta_bias) - 80usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AddRows {
    #[doc = " \\[rows, width]"]
    pub delta: DevicePtr,
    #[doc = " \\[rows, width], becomes the sum"]
    pub residual: DevicePtr,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddRows"][::std::mem::size_of::<AddRows>() - 24usize];
    ["Alignment of AddRows"][::std::mem::align_of::<AddRows>() - 8usize];
    ["Offset of field: AddRows::delta"][::std::mem::offset_of!(AddRows, delta) - 0usize];
    ["Offset of field: AddRows::residual"][::std::mem::offset_of!(AddRows, residual) - 8usize];
    ["Offset of field: AddRows::width"][::std::mem::offset_of!(AddRows, width) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormParts {
    #[doc = " Part p of row r lies at x + r * stride + first + p * width; in place."]
    pub x: DevicePtr,
    #[doc = " \\[width], part p's at weight + p * weight_step"]
    pub weight: DevicePtr,
    #[doc = " Null, or of an RMS norm over the elements of all ranks: their sums of squares, \\[rows, 2], of\n which the first counts."]
    pub squares: DevicePtr,
    pub stride: u32,
    pub first: u32,
    pub width: u32,
    pub eps: f32,
    pub kind: NormKind,
    #[doc = " Elements of `squares`."]
    pub count: f32,
    pub weight_step: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormParts"][::std::mem::size_of::<NormParts>() - 56usize];
    ["Alignment of NormParts"][::std::mem::align_of::<NormParts>() - 8usize];
    ["Offset of field: NormParts::x"][::std::mem::offset_of!(NormParts, x) - 0usize];
    ["Offset of field: NormParts::weight"][::std::mem::offset_of!(NormParts, weight) - 8usize];
    ["Offset of field: NormParts::squares"][::std::mem::offset_of!(NormParts, squares) - 16usize];
    ["Offset of field: NormParts::stride"][::std::mem::offset_of!(NormParts, stride) - 24usize];
    ["Offset of field: NormParts::first"][::std::mem::offset_of!(NormParts, first) - 28usize];
    ["Offset of field: NormParts::width"][::std::mem::offset_of!(NormParts, width) - 32usize];
    ["Offset of field: NormParts::eps"][::std::mem::offset_of!(NormParts, eps) - 36usize];
    ["Offset of field: NormParts::kind"][::std::mem::offset_of!(NormParts, kind) - 40usize];
    ["Offset of field: NormParts::count"][::std::mem::offset_of!(NormParts, count) - 44usize];
    ["Offset of field: NormParts::weight_step"]
        [::std::mem::offset_of!(NormParts, weight_step) - 48usize];
    ["Offset of field: NormParts::unused"][::std::mem::offset_of!(NormParts, unused) - 52usize];
};
#[doc = " Of each row of x the sum of squares of the first `q_width` elements, and of the `k_width` behind."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SquareParts {
    pub x: DevicePtr,
    #[doc = " \\[rows, 2]"]
    pub squares: DevicePtr,
    pub stride: u32,
    pub q_width: u32,
    pub k_width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SquareParts"][::std::mem::size_of::<SquareParts>() - 32usize];
    ["Alignment of SquareParts"][::std::mem::align_of::<SquareParts>() - 8usize];
    ["Offset of field: SquareParts::x"][::std::mem::offset_of!(SquareParts, x) - 0usize];
    ["Offset of field: SquareParts::squares"]
        [::std::mem::offset_of!(SquareParts, squares) - 8usize];
    ["Offset of field: SquareParts::stride"][::std::mem::offset_of!(SquareParts, stride) - 16usize];
    ["Offset of field: SquareParts::q_width"]
        [::std::mem::offset_of!(SquareParts, q_width) - 20usize];
    ["Offset of field: SquareParts::k_width"]
        [::std::mem::offset_of!(SquareParts, k_width) - 24usize];
    ["Offset of field: SquareParts::unused"][::std::mem::offset_of!(SquareParts, unused) - 28usize];
};
pub const EXCHANGE_THREADS: u32 = 512;
pub const EXCHANGE_PIECE_BYTES: u32 = 8192;
#[doc = " Pieces of a block in one exchange at most; there is room for two exchanges."]
pub const EXCHANGE_PIECES: u32 = 4;
pub const EXCHANGE_SLOTS: u32 = 8;
#[doc = " Blocks at most: all are on the card at once, beside whatever else runs there."]
pub const EXCHANGE_BLOCKS: u32 = 64;
#[doc = " Blocks that meet at most, of a kernel that touches other ranks' memory; and tensors whose places\n they tell each other."]
pub const MEETING_BLOCKS: u32 = 256;
pub const MEETING_PLACES: u32 = 5;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Ranks {
    #[doc = " of each rank, this one among them"]
    pub mailbox: [DevicePtr; 8usize],
    #[doc = " In the host's memory: not 0 where a rank is lost, and nobody is to wait any more."]
    pub stop: DevicePtr,
    pub rank: u32,
    pub ranks: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Ranks"][::std::mem::size_of::<Ranks>() - 80usize];
    ["Alignment of Ranks"][::std::mem::align_of::<Ranks>() - 8usize];
    ["Offset of field: Ranks::mailbox"][::std::mem::offset_of!(Ranks, mailbox) - 0usize];
    ["Offset of field: Ranks::stop"][::std::mem::offset_of!(Ranks, stop) - 64usize];
    ["Offset of field: Ranks::rank"][::std::mem::offset_of!(Ranks, rank) - 72usize];
    ["Offset of field: Ranks::ranks"][::std::mem::offset_of!(Ranks, ranks) - 76usize];
};
#[doc = " x = the sum of all ranks' x, in f32 and in the order of ranks."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SumRanks {
    pub all: Ranks,
    #[doc = " \\[count], activations, or f32 of sum_ranks_f32; aligned to 16 bytes"]
    pub x: DevicePtr,
    #[doc = " of sum_ranks and sum_ranks_f32, what EXCHANGE_PIECES of all blocks hold at most"]
    pub count: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SumRanks"][::std::mem::size_of::<SumRanks>() - 96usize];
    ["Alignment of SumRanks"][::std::mem::align_of::<SumRanks>() - 8usize];
    ["Offset of field: SumRanks::all"][::std::mem::offset_of!(SumRanks, all) - 0usize];
    ["Offset of field: SumRanks::x"][::std::mem::offset_of!(SumRanks, x) - 80usize];
    ["Offset of field: SumRanks::count"][::std::mem::offset_of!(SumRanks, count) - 88usize];
};
#[doc = " Columns of a row at most where a norm follows: threads of a block hold two times eight each."]
pub const NORMED_COLUMNS: u32 = 8192;
#[doc = " x = the sum of all ranks' x, as of sum_ranks; then what add_norm does with it as delta, which is\n left as it was. RMS kinds, without a bias; the width a multiple of 8, NORMED_COLUMNS at most. A\n row takes one piece or more, of its own: no block has more rows than EXCHANGE_PIECES hold."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SumAddNorm {
    pub all: Ranks,
    #[doc = " its delta is x"]
    pub norm: AddNorm,
    pub rows: u32,
    #[doc = " 1: the kernel behind may start while this one waits for other ranks (Member::leaves_ahead)."]
    pub ahead: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SumAddNorm"][::std::mem::size_of::<SumAddNorm>() - 176usize];
    ["Alignment of SumAddNorm"][::std::mem::align_of::<SumAddNorm>() - 8usize];
    ["Offset of field: SumAddNorm::all"][::std::mem::offset_of!(SumAddNorm, all) - 0usize];
    ["Offset of field: SumAddNorm::norm"][::std::mem::offset_of!(SumAddNorm, norm) - 80usize];
    ["Offset of field: SumAddNorm::rows"][::std::mem::offset_of!(SumAddNorm, rows) - 168usize];
    ["Offset of field: SumAddNorm::ahead"][::std::mem::offset_of!(SumAddNorm, ahead) - 172usize];
};
#[doc = " Threads of a block of sum_pushed_row, which have eight columns each; its blocks are one cluster."]
pub const PUSHED_THREADS: u32 = 256;
#[doc = " As SumAddNorm, of a single row of a half type that the products of all ranks push."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SumPushedRow {
    pub all: Ranks,
    #[doc = " of this rank's mailbox"]
    pub words: DevicePtr,
    #[doc = " of this rank's mailbox"]
    pub taken: DevicePtr,
    #[doc = " without delta"]
    pub norm: AddNorm,
    #[doc = " as of SumAddNorm"]
    pub ahead: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SumPushedRow"][::std::mem::size_of::<SumPushedRow>() - 192usize];
    ["Alignment of SumPushedRow"][::std::mem::align_of::<SumPushedRow>() - 8usize];
    ["Offset of field: SumPushedRow::all"][::std::mem::offset_of!(SumPushedRow, all) - 0usize];
    ["Offset of field: SumPushedRow::words"][::std::mem::offset_of!(SumPushedRow, words) - 80usize];
    ["Offset of field: SumPushedRow::taken"][::std::mem::offset_of!(SumPushedRow, taken) - 88usize];
    ["Offset of field: SumPushedRow::norm"][::std::mem::offset_of!(SumPushedRow, norm) - 96usize];
    ["Offset of field: SumPushedRow::ahead"]
        [::std::mem::offset_of!(SumPushedRow, ahead) - 184usize];
    ["Offset of field: SumPushedRow::unused"]
        [::std::mem::offset_of!(SumPushedRow, unused) - 188usize];
};
#[doc = " As SumAddNorm, by sum_add_norm_rows: each rank makes a share of the rows alone, one behind the\n other, and gives all ranks of them what these want. A block has any number of rows."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SumAddNormRows {
    pub all: Ranks,
    #[doc = " Of the residual only this rank's rows are read. `out`, or `bytes` with `steps`, are null where\n this rank wants none of them; `codes` are."]
    pub norm: AddNorm,
    pub rows: u32,
    #[doc = " 1: this rank wants all rows of the residual, else it has only its own."]
    pub whole: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SumAddNormRows"][::std::mem::size_of::<SumAddNormRows>() - 176usize];
    ["Alignment of SumAddNormRows"][::std::mem::align_of::<SumAddNormRows>() - 8usize];
    ["Offset of field: SumAddNormRows::all"][::std::mem::offset_of!(SumAddNormRows, all) - 0usize];
    ["Offset of field: SumAddNormRows::norm"]
        [::std::mem::offset_of!(SumAddNormRows, norm) - 80usize];
    ["Offset of field: SumAddNormRows::rows"]
        [::std::mem::offset_of!(SumAddNormRows, rows) - 168usize];
    ["Offset of field: SumAddNormRows::whole"]
        [::std::mem::offset_of!(SumAddNormRows, whole) - 172usize];
};
#[doc = " whole = all ranks' parts side by side; columns behind the whole's end are dropped. All of it, or\n of gather_ranks `vectors` times 16 bytes of the part from the `first` on, as many as\n EXCHANGE_PIECES of all blocks hold at most."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GatherRanks {
    pub all: Ranks,
    #[doc = " \\[rows, width], aligned to 16 bytes"]
    pub part: DevicePtr,
    #[doc = " \\[rows, all_width]"]
    pub whole: DevicePtr,
    pub first: u64,
    pub vectors: u64,
    pub rows: u32,
    pub width: u32,
    pub all_width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatherRanks"][::std::mem::size_of::<GatherRanks>() - 128usize];
    ["Alignment of GatherRanks"][::std::mem::align_of::<GatherRanks>() - 8usize];
    ["Offset of field: GatherRanks::all"][::std::mem::offset_of!(GatherRanks, all) - 0usize];
    ["Offset of field: GatherRanks::part"][::std::mem::offset_of!(GatherRanks, part) - 80usize];
    ["Offset of field: GatherRanks::whole"][::std::mem::offset_of!(GatherRanks, whole) - 88usize];
    ["Offset of field: GatherRanks::first"][::std::mem::offset_of!(GatherRanks, first) - 96usize];
    ["Offset of field: GatherRanks::vectors"]
        [::std::mem::offset_of!(GatherRanks, vectors) - 104usize];
    ["Offset of field: GatherRanks::rows"][::std::mem::offset_of!(GatherRanks, rows) - 112usize];
    ["Offset of field: GatherRanks::width"][::std::mem::offset_of!(GatherRanks, width) - 116usize];
    ["Offset of field: GatherRanks::all_width"]
        [::std::mem::offset_of!(GatherRanks, all_width) - 120usize];
    ["Offset of field: GatherRanks::unused"]
        [::std::mem::offset_of!(GatherRanks, unused) - 124usize];
};
pub const CONV_THREADS: u32 = 128;
#[doc = " Taps at most: one more than the inputs that are kept."]
pub const CONV_MAX_TAPS: u32 = 8;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ShortConvolution {
    #[doc = " \\[rows, stride], of which the first `width` columns are channels"]
    pub x: DevicePtr,
    #[doc = " \\[width, taps]"]
    pub weight: DevicePtr,
    #[doc = " \\[width], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub tails: DevicePtr,
    pub slot_bytes: u64,
    pub entry_bytes: u64,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    pub rows: u32,
    pub stride: u32,
    pub width: u32,
    pub taps: u32,
    #[doc = " Whether x * sigmoid(x) follows."]
    pub silu: u32,
    pub spares: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ShortConvolution"][::std::mem::size_of::<ShortConvolution>() - 96usize];
    ["Alignment of ShortConvolution"][::std::mem::align_of::<ShortConvolution>() - 8usize];
    ["Offset of field: ShortConvolution::x"][::std::mem::offset_of!(ShortConvolution, x) - 0usize];
    ["Offset of field: ShortConvolution::weight"]
        [::std::mem::offset_of!(ShortConvolution, weight) - 8usize];
    ["Offset of field: ShortConvolution::bias"]
        [::std::mem::offset_of!(ShortConvolution, bias) - 16usize];
    ["Offset of field: ShortConvolution::out"]
        [::std::mem::offset_of!(ShortConvolution, out) - 24usize];
    ["Offset of field: ShortConvolution::tails"]
        [::std::mem::offset_of!(ShortConvolution, tails) - 32usize];
    ["Offset of field: ShortConvolution::slot_bytes"]
        [::std::mem::offset_of!(ShortConvolution, slot_bytes) - 40usize];
    ["Offset of field: ShortConvolution::entry_bytes"]
        [::std::mem::offset_of!(ShortConvolution, entry_bytes) - 48usize];
    ["Offset of field: ShortConvolution::position"]
        [::std::mem::offset_of!(ShortConvolution, position) - 56usize];
    ["Offset of field: ShortConvolution::slot_of"]
        [::std::mem::offset_of!(ShortConvolution, slot_of) - 64usize];
    ["Offset of field: ShortConvolution::rows"]
        [::std::mem::offset_of!(ShortConvolution, rows) - 72usize];
    ["Offset of field: ShortConvolution::stride"]
        [::std::mem::offset_of!(ShortConvolution, stride) - 76usize];
    ["Offset of field: ShortConvolution::width"]
        [::std::mem::offset_of!(ShortConvolution, width) - 80usize];
    ["Offset of field: ShortConvolution::taps"]
        [::std::mem::offset_of!(ShortConvolution, taps) - 84usize];
    ["Offset of field: ShortConvolution::silu"]
        [::std::mem::offset_of!(ShortConvolution, silu) - 88usize];
    ["Offset of field: ShortConvolution::spares"]
        [::std::mem::offset_of!(ShortConvolution, spares) - 92usize];
};
#[doc = " Warps of a block, rows of a matrix that each holds in registers, columns at most; the same of a\n selective scan."]
pub const DELTA_WARPS: u32 = 4;
pub const DELTA_WARP_ROWS: u32 = 8;
pub const DELTA_BLOCK_ROWS: u32 = 32;
pub const DELTA_THREADS: u32 = 128;
pub const DELTA_MAX_KEY_DIM: u32 = 256;
#[doc = " Prompts (chunks.cu): tokens of a chunk, and so of the shortest sequence that is cut into some;\n rows of a matrix of a block, its threads and shared memory."]
pub const RULE_TOKENS: u32 = 64;
pub const RULE_ROWS: u32 = 64;
pub const RULE_THREADS: u32 = 128;
pub const RULE_SHARED_BYTES: u32 = 98816;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DeltaRule {
    #[doc = " \\[rows, q|k|v]"]
    pub mixed: DevicePtr,
    #[doc = " \\[rows, 2 value_heads]: beta, then the rate, of each value head"]
    pub rates: DevicePtr,
    #[doc = " \\[value_heads]"]
    pub log_decay: DevicePtr,
    #[doc = " \\[value_heads]"]
    pub rate_bias: DevicePtr,
    #[doc = " \\[rows, value_heads, value_dim]"]
    pub out: DevicePtr,
    pub matrices: DevicePtr,
    pub slot_bytes: u64,
    pub entry_bytes: u64,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    #[doc = " Of the step's sequences, a block for each; null: a block for each row, as a recorded step has\n it, of which those that begin no sequence end at once."]
    pub records: DevicePtr,
    pub rows: u32,
    pub key_heads: u32,
    pub value_heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    #[doc = " 1: sequences of RULE_TOKENS tokens or more are left to chunks.cu."]
    pub without_chunks: u32,
    pub spares: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DeltaRule"][::std::mem::size_of::<DeltaRule>() - 120usize];
    ["Alignment of DeltaRule"][::std::mem::align_of::<DeltaRule>() - 8usize];
    ["Offset of field: DeltaRule::mixed"][::std::mem::offset_of!(DeltaRule, mixed) - 0usize];
    ["Offset of field: DeltaRule::rates"][::std::mem::offset_of!(DeltaRule, rates) - 8usize];
    ["Offset of field: DeltaRule::log_decay"]
        [::std::mem::offset_of!(DeltaRule, log_decay) - 16usize];
    ["Offset of field: DeltaRule::rate_bias"]
        [::std::mem::offset_of!(DeltaRule, rate_bias) - 24usize];
    ["Offset of field: DeltaRule::out"][::std::mem::offset_of!(DeltaRule, out) - 32usize];
    ["Offset of field: DeltaRule::matrices"][::std::mem::offset_of!(DeltaRule, matrices) - 40usize];
    ["Offset of field: DeltaRule::slot_bytes"]
        [::std::mem::offset_of!(DeltaRule, slot_bytes) - 48usize];
    ["Offset of field: DeltaRule::entry_bytes"]
        [::std::mem::offset_of!(DeltaRule, entry_bytes) - 56usize];
    ["Offset of field: DeltaRule::position"][::std::mem::offset_of!(DeltaRule, position) - 64usize];
    ["Offset of field: DeltaRule::slot_of"][::std::mem::offset_of!(DeltaRule, slot_of) - 72usize];
    ["Offset of field: DeltaRule::records"][::std::mem::offset_of!(DeltaRule, records) - 80usize];
    ["Offset of field: DeltaRule::rows"][::std::mem::offset_of!(DeltaRule, rows) - 88usize];
    ["Offset of field: DeltaRule::key_heads"]
        [::std::mem::offset_of!(DeltaRule, key_heads) - 92usize];
    ["Offset of field: DeltaRule::value_heads"]
        [::std::mem::offset_of!(DeltaRule, value_heads) - 96usize];
    ["Offset of field: DeltaRule::key_dim"][::std::mem::offset_of!(DeltaRule, key_dim) - 100usize];
    ["Offset of field: DeltaRule::value_dim"]
        [::std::mem::offset_of!(DeltaRule, value_dim) - 104usize];
    ["Offset of field: DeltaRule::without_chunks"]
        [::std::mem::offset_of!(DeltaRule, without_chunks) - 108usize];
    ["Offset of field: DeltaRule::spares"][::std::mem::offset_of!(DeltaRule, spares) - 112usize];
    ["Offset of field: DeltaRule::unused"][::std::mem::offset_of!(DeltaRule, unused) - 116usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct SelectiveScan {
    #[doc = " \\[rows, x|B|C]"]
    pub mixed: DevicePtr,
    #[doc = " Of row r, one of each head, at rates + r * stride + first."]
    pub rates: DevicePtr,
    #[doc = " \\[heads]"]
    pub log_decay: DevicePtr,
    #[doc = " \\[heads]"]
    pub rate_bias: DevicePtr,
    #[doc = " \\[heads]"]
    pub skip: DevicePtr,
    #[doc = " \\[rows, heads, head_dim]"]
    pub out: DevicePtr,
    pub matrices: DevicePtr,
    pub slot_bytes: u64,
    pub entry_bytes: u64,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    #[doc = " As DeltaRule's."]
    pub records: DevicePtr,
    pub rows: u32,
    pub heads: u32,
    pub head_dim: u32,
    pub groups: u32,
    pub state: u32,
    pub stride: u32,
    pub first: u32,
    #[doc = " 1: sequences of RULE_TOKENS tokens or more are left to chunks.cu."]
    pub without_chunks: u32,
    pub spares: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SelectiveScan"][::std::mem::size_of::<SelectiveScan>() - 136usize];
    ["Alignment of SelectiveScan"][::std::mem::align_of::<SelectiveScan>() - 8usize];
    ["Offset of field: SelectiveScan::mixed"]
        [::std::mem::offset_of!(SelectiveScan, mixed) - 0usize];
    ["Offset of field: SelectiveScan::rates"]
        [::std::mem::offset_of!(SelectiveScan, rates) - 8usize];
    ["Offset of field: SelectiveScan::log_decay"]
        [::std::mem::offset_of!(SelectiveScan, log_decay) - 16usize];
    ["Offset of field: SelectiveScan::rate_bias"]
        [::std::mem::offset_of!(SelectiveScan, rate_bias) - 24usize];
    ["Offset of field: SelectiveScan::skip"][::std::mem::offset_of!(SelectiveScan, skip) - 32usize];
    ["Offset of field: SelectiveScan::out"][::std::mem::offset_of!(SelectiveScan, out) - 40usize];
    ["Offset of field: SelectiveScan::matrices"]
        [::std::mem::offset_of!(SelectiveScan, matrices) - 48usize];
    ["Offset of field: SelectiveScan::slot_bytes"]
        [::std::mem::offset_of!(SelectiveScan, slot_bytes) - 56usize];
    ["Offset of field: SelectiveScan::entry_bytes"]
        [::std::mem::offset_of!(SelectiveScan, entry_bytes) - 64usize];
    ["Offset of field: SelectiveScan::position"]
        [::std::mem::offset_of!(SelectiveScan, position) - 72usize];
    ["Offset of field: SelectiveScan::slot_of"]
        [::std::mem::offset_of!(SelectiveScan, slot_of) - 80usize];
    ["Offset of field: SelectiveScan::records"]
        [::std::mem::offset_of!(SelectiveScan, records) - 88usize];
    ["Offset of field: SelectiveScan::rows"][::std::mem::offset_of!(SelectiveScan, rows) - 96usize];
    ["Offset of field: SelectiveScan::heads"]
        [::std::mem::offset_of!(SelectiveScan, heads) - 100usize];
    ["Offset of field: SelectiveScan::head_dim"]
        [::std::mem::offset_of!(SelectiveScan, head_dim) - 104usize];
    ["Offset of field: SelectiveScan::groups"]
        [::std::mem::offset_of!(SelectiveScan, groups) - 108usize];
    ["Offset of field: SelectiveScan::state"]
        [::std::mem::offset_of!(SelectiveScan, state) - 112usize];
    ["Offset of field: SelectiveScan::stride"]
        [::std::mem::offset_of!(SelectiveScan, stride) - 116usize];
    ["Offset of field: SelectiveScan::first"]
        [::std::mem::offset_of!(SelectiveScan, first) - 120usize];
    ["Offset of field: SelectiveScan::without_chunks"]
        [::std::mem::offset_of!(SelectiveScan, without_chunks) - 124usize];
    ["Offset of field: SelectiveScan::spares"]
        [::std::mem::offset_of!(SelectiveScan, spares) - 128usize];
    ["Offset of field: SelectiveScan::unused"]
        [::std::mem::offset_of!(SelectiveScan, unused) - 132usize];
};
#[doc = " Columns of a channel's row at most: what its thread holds in registers."]
pub const CHANNEL_SCAN_MAX_STATE: u32 = 64;
pub const CHANNEL_SCAN_THREADS: u32 = 128;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ChannelScan {
    #[doc = " \\[rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub rates: DevicePtr,
    #[doc = " \\[rows, B|C], of `state` each"]
    pub bc: DevicePtr,
    #[doc = " \\[width, state]"]
    pub log_decay: DevicePtr,
    #[doc = " \\[width]"]
    pub rate_bias: DevicePtr,
    #[doc = " \\[width]"]
    pub skip: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub matrices: DevicePtr,
    pub slot_bytes: u64,
    pub entry_bytes: u64,
    #[doc = " \\[rows]"]
    pub position: DevicePtr,
    pub slot_of: DevicePtr,
    #[doc = " As DeltaRule's."]
    pub records: DevicePtr,
    pub rows: u32,
    pub width: u32,
    pub state: u32,
    pub spares: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ChannelScan"][::std::mem::size_of::<ChannelScan>() - 120usize];
    ["Alignment of ChannelScan"][::std::mem::align_of::<ChannelScan>() - 8usize];
    ["Offset of field: ChannelScan::x"][::std::mem::offset_of!(ChannelScan, x) - 0usize];
    ["Offset of field: ChannelScan::rates"][::std::mem::offset_of!(ChannelScan, rates) - 8usize];
    ["Offset of field: ChannelScan::bc"][::std::mem::offset_of!(ChannelScan, bc) - 16usize];
    ["Offset of field: ChannelScan::log_decay"]
        [::std::mem::offset_of!(ChannelScan, log_decay) - 24usize];
    ["Offset of field: ChannelScan::rate_bias"]
        [::std::mem::offset_of!(ChannelScan, rate_bias) - 32usize];
    ["Offset of field: ChannelScan::skip"][::std::mem::offset_of!(ChannelScan, skip) - 40usize];
    ["Offset of field: ChannelScan::out"][::std::mem::offset_of!(ChannelScan, out) - 48usize];
    ["Offset of field: ChannelScan::matrices"]
        [::std::mem::offset_of!(ChannelScan, matrices) - 56usize];
    ["Offset of field: ChannelScan::slot_bytes"]
        [::std::mem::offset_of!(ChannelScan, slot_bytes) - 64usize];
    ["Offset of field: ChannelScan::entry_bytes"]
        [::std::mem::offset_of!(ChannelScan, entry_bytes) - 72usize];
    ["Offset of field: ChannelScan::position"]
        [::std::mem::offset_of!(ChannelScan, position) - 80usize];
    ["Offset of field: ChannelScan::slot_of"]
        [::std::mem::offset_of!(ChannelScan, slot_of) - 88usize];
    ["Offset of field: ChannelScan::records"]
        [::std::mem::offset_of!(ChannelScan, records) - 96usize];
    ["Offset of field: ChannelScan::rows"][::std::mem::offset_of!(ChannelScan, rows) - 104usize];
    ["Offset of field: ChannelScan::width"][::std::mem::offset_of!(ChannelScan, width) - 108usize];
    ["Offset of field: ChannelScan::state"][::std::mem::offset_of!(ChannelScan, state) - 112usize];
    ["Offset of field: ChannelScan::spares"]
        [::std::mem::offset_of!(ChannelScan, spares) - 116usize];
};
#[repr(u32)]
#[doc = " What a gate multiplies by."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum Gate {
    Silu = 0,
    Sigmoid = 1,
}
#[repr(u32)]
#[doc = " Which of a norm and a gate comes first."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum GateOrder {
    NormFirst = 0,
    GateFirst = 1,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct NormGated {
    #[doc = " \\[rows, parts, width], in place"]
    pub x: DevicePtr,
    #[doc = " Part p's at weight + p * weight_step; null: there is no norm."]
    pub weight: DevicePtr,
    #[doc = " Of x's row r at z + r * stride + first."]
    pub z: DevicePtr,
    pub parts: u32,
    pub width: u32,
    pub stride: u32,
    pub first: u32,
    pub eps: f32,
    #[doc = " An RMS kind."]
    pub norm: NormKind,
    pub gate: Gate,
    pub order: GateOrder,
    pub weight_step: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormGated"][::std::mem::size_of::<NormGated>() - 64usize];
    ["Alignment of NormGated"][::std::mem::align_of::<NormGated>() - 8usize];
    ["Offset of field: NormGated::x"][::std::mem::offset_of!(NormGated, x) - 0usize];
    ["Offset of field: NormGated::weight"][::std::mem::offset_of!(NormGated, weight) - 8usize];
    ["Offset of field: NormGated::z"][::std::mem::offset_of!(NormGated, z) - 16usize];
    ["Offset of field: NormGated::parts"][::std::mem::offset_of!(NormGated, parts) - 24usize];
    ["Offset of field: NormGated::width"][::std::mem::offset_of!(NormGated, width) - 28usize];
    ["Offset of field: NormGated::stride"][::std::mem::offset_of!(NormGated, stride) - 32usize];
    ["Offset of field: NormGated::first"][::std::mem::offset_of!(NormGated, first) - 36usize];
    ["Offset of field: NormGated::eps"][::std::mem::offset_of!(NormGated, eps) - 40usize];
    ["Offset of field: NormGated::norm"][::std::mem::offset_of!(NormGated, norm) - 44usize];
    ["Offset of field: NormGated::gate"][::std::mem::offset_of!(NormGated, gate) - 48usize];
    ["Offset of field: NormGated::order"][::std::mem::offset_of!(NormGated, order) - 52usize];
    ["Offset of field: NormGated::weight_step"]
        [::std::mem::offset_of!(NormGated, weight_step) - 56usize];
    ["Offset of field: NormGated::unused"][::std::mem::offset_of!(NormGated, unused) - 60usize];
};
#[doc = " out = a b, of `width` columns of each."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Multiply {
    #[doc = " \\[rows, a_stride]"]
    pub a: DevicePtr,
    #[doc = " \\[rows, b_stride]"]
    pub b: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub a_stride: u32,
    pub b_stride: u32,
    pub a_first: u32,
    pub b_first: u32,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Multiply"][::std::mem::size_of::<Multiply>() - 48usize];
    ["Alignment of Multiply"][::std::mem::align_of::<Multiply>() - 8usize];
    ["Offset of field: Multiply::a"][::std::mem::offset_of!(Multiply, a) - 0usize];
    ["Offset of field: Multiply::b"][::std::mem::offset_of!(Multiply, b) - 8usize];
    ["Offset of field: Multiply::out"][::std::mem::offset_of!(Multiply, out) - 16usize];
    ["Offset of field: Multiply::a_stride"][::std::mem::offset_of!(Multiply, a_stride) - 24usize];
    ["Offset of field: Multiply::b_stride"][::std::mem::offset_of!(Multiply, b_stride) - 28usize];
    ["Offset of field: Multiply::a_first"][::std::mem::offset_of!(Multiply, a_first) - 32usize];
    ["Offset of field: Multiply::b_first"][::std::mem::offset_of!(Multiply, b_first) - 36usize];
    ["Offset of field: Multiply::width"][::std::mem::offset_of!(Multiply, width) - 40usize];
    ["Offset of field: Multiply::unused"][::std::mem::offset_of!(Multiply, unused) - 44usize];
};
#[doc = " x *= sigmoid(z)"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GateRows {
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub z: DevicePtr,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GateRows"][::std::mem::size_of::<GateRows>() - 24usize];
    ["Alignment of GateRows"][::std::mem::align_of::<GateRows>() - 8usize];
    ["Offset of field: GateRows::x"][::std::mem::offset_of!(GateRows, x) - 0usize];
    ["Offset of field: GateRows::z"][::std::mem::offset_of!(GateRows, z) - 8usize];
    ["Offset of field: GateRows::width"][::std::mem::offset_of!(GateRows, width) - 16usize];
    ["Offset of field: GateRows::unused"][::std::mem::offset_of!(GateRows, unused) - 20usize];
};
pub const VISION_THREADS: u32 = 128;
#[doc = " Rows of tiles of attention: of spans that are short, and of others."]
pub const SHORT_SPAN_ROWS: u32 = 64;
pub const LONG_SPAN_ROWS: u32 = 128;
#[doc = " Stages of keys in shared memory."]
pub const SPAN_STAGES: u32 = 2;
#[doc = " The largest head of the kernel without tensor cores."]
pub const SPAN_MAX_HEAD_DIM: u32 = 256;
#[doc = " Of a row that is no patch."]
pub const NO_PATCH: u32 = 4294967295;
#[doc = " out\\[r] = numbers of the bytes of patch\\[r]"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PutPatches {
    #[doc = " \\[patches, 3, width / 3]"]
    pub bytes: DevicePtr,
    #[doc = " \\[rows]; NO_PATCH: a row of zeros"]
    pub patch: DevicePtr,
    #[doc = " \\[3, 256], what a byte of each colour stands for"]
    pub numbers: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PutPatches"][::std::mem::size_of::<PutPatches>() - 40usize];
    ["Alignment of PutPatches"][::std::mem::align_of::<PutPatches>() - 8usize];
    ["Offset of field: PutPatches::bytes"][::std::mem::offset_of!(PutPatches, bytes) - 0usize];
    ["Offset of field: PutPatches::patch"][::std::mem::offset_of!(PutPatches, patch) - 8usize];
    ["Offset of field: PutPatches::numbers"][::std::mem::offset_of!(PutPatches, numbers) - 16usize];
    ["Offset of field: PutPatches::out"][::std::mem::offset_of!(PutPatches, out) - 24usize];
    ["Offset of field: PutPatches::width"][::std::mem::offset_of!(PutPatches, width) - 32usize];
    ["Offset of field: PutPatches::unused"][::std::mem::offset_of!(PutPatches, unused) - 36usize];
};
#[doc = " A row of a table of places, and how much it counts."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Corner {
    pub row: u32,
    pub share: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Corner"][::std::mem::size_of::<Corner>() - 8usize];
    ["Alignment of Corner"][::std::mem::align_of::<Corner>() - 4usize];
    ["Offset of field: Corner::row"][::std::mem::offset_of!(Corner, row) - 0usize];
    ["Offset of field: Corner::share"][::std::mem::offset_of!(Corner, share) - 4usize];
};
#[doc = " x\\[r] += the table's rows at four corners."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AddPlaces {
    #[doc = " \\[table_rows, width]"]
    pub table: DevicePtr,
    #[doc = " \\[rows, 4]"]
    pub corners: DevicePtr,
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    pub table_rows: u32,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddPlaces"][::std::mem::size_of::<AddPlaces>() - 32usize];
    ["Alignment of AddPlaces"][::std::mem::align_of::<AddPlaces>() - 8usize];
    ["Offset of field: AddPlaces::table"][::std::mem::offset_of!(AddPlaces, table) - 0usize];
    ["Offset of field: AddPlaces::corners"][::std::mem::offset_of!(AddPlaces, corners) - 8usize];
    ["Offset of field: AddPlaces::x"][::std::mem::offset_of!(AddPlaces, x) - 16usize];
    ["Offset of field: AddPlaces::table_rows"]
        [::std::mem::offset_of!(AddPlaces, table_rows) - 24usize];
    ["Offset of field: AddPlaces::width"][::std::mem::offset_of!(AddPlaces, width) - 28usize];
};
#[doc = " Pairs i and i + dim / 2 of heads, behind a bias of all columns."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct TurnRows {
    #[doc = " \\[rows, width], the first `heads` heads of which are turned in place"]
    pub qkv: DevicePtr,
    #[doc = " \\[rows, dim / 2]"]
    pub angles: DevicePtr,
    #[doc = " \\[width], or null"]
    pub bias: DevicePtr,
    pub heads: u32,
    pub dim: u32,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TurnRows"][::std::mem::size_of::<TurnRows>() - 40usize];
    ["Alignment of TurnRows"][::std::mem::align_of::<TurnRows>() - 8usize];
    ["Offset of field: TurnRows::qkv"][::std::mem::offset_of!(TurnRows, qkv) - 0usize];
    ["Offset of field: TurnRows::angles"][::std::mem::offset_of!(TurnRows, angles) - 8usize];
    ["Offset of field: TurnRows::bias"][::std::mem::offset_of!(TurnRows, bias) - 16usize];
    ["Offset of field: TurnRows::heads"][::std::mem::offset_of!(TurnRows, heads) - 24usize];
    ["Offset of field: TurnRows::dim"][::std::mem::offset_of!(TurnRows, dim) - 28usize];
    ["Offset of field: TurnRows::width"][::std::mem::offset_of!(TurnRows, width) - 32usize];
    ["Offset of field: TurnRows::unused"][::std::mem::offset_of!(TurnRows, unused) - 36usize];
};
#[doc = " A row of one tensor to one of another."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RowPair {
    pub from: u32,
    pub to: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowPair"][::std::mem::size_of::<RowPair>() - 8usize];
    ["Alignment of RowPair"][::std::mem::align_of::<RowPair>() - 4usize];
    ["Offset of field: RowPair::from"][::std::mem::offset_of!(RowPair, from) - 0usize];
    ["Offset of field: RowPair::to"][::std::mem::offset_of!(RowPair, to) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CopyRows {
    #[doc = " \\[_, width]"]
    pub x: DevicePtr,
    pub pairs: DevicePtr,
    #[doc = " \\[_, width]"]
    pub out: DevicePtr,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyRows"][::std::mem::size_of::<CopyRows>() - 32usize];
    ["Alignment of CopyRows"][::std::mem::align_of::<CopyRows>() - 8usize];
    ["Offset of field: CopyRows::x"][::std::mem::offset_of!(CopyRows, x) - 0usize];
    ["Offset of field: CopyRows::pairs"][::std::mem::offset_of!(CopyRows, pairs) - 8usize];
    ["Offset of field: CopyRows::out"][::std::mem::offset_of!(CopyRows, out) - 16usize];
    ["Offset of field: CopyRows::width"][::std::mem::offset_of!(CopyRows, width) - 24usize];
    ["Offset of field: CopyRows::unused"][::std::mem::offset_of!(CopyRows, unused) - 28usize];
};
#[doc = " A row that is made of others."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RowBlend {
    pub of: [Corner; 4usize],
    pub to: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowBlend"][::std::mem::size_of::<RowBlend>() - 40usize];
    ["Alignment of RowBlend"][::std::mem::align_of::<RowBlend>() - 4usize];
    ["Offset of field: RowBlend::of"][::std::mem::offset_of!(RowBlend, of) - 0usize];
    ["Offset of field: RowBlend::to"][::std::mem::offset_of!(RowBlend, to) - 32usize];
    ["Offset of field: RowBlend::unused"][::std::mem::offset_of!(RowBlend, unused) - 36usize];
};
#[doc = " out\\[blend.to] = shares of rows of x and, behind these, of the table's."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct BlendRows {
    #[doc = " \\[x_rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[table_rows, width]"]
    pub table: DevicePtr,
    pub blends: DevicePtr,
    #[doc = " \\[_, width]"]
    pub out: DevicePtr,
    pub x_rows: u32,
    pub table_rows: u32,
    pub width: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BlendRows"][::std::mem::size_of::<BlendRows>() - 48usize];
    ["Alignment of BlendRows"][::std::mem::align_of::<BlendRows>() - 8usize];
    ["Offset of field: BlendRows::x"][::std::mem::offset_of!(BlendRows, x) - 0usize];
    ["Offset of field: BlendRows::table"][::std::mem::offset_of!(BlendRows, table) - 8usize];
    ["Offset of field: BlendRows::blends"][::std::mem::offset_of!(BlendRows, blends) - 16usize];
    ["Offset of field: BlendRows::out"][::std::mem::offset_of!(BlendRows, out) - 24usize];
    ["Offset of field: BlendRows::x_rows"][::std::mem::offset_of!(BlendRows, x_rows) - 32usize];
    ["Offset of field: BlendRows::table_rows"]
        [::std::mem::offset_of!(BlendRows, table_rows) - 36usize];
    ["Offset of field: BlendRows::width"][::std::mem::offset_of!(BlendRows, width) - 40usize];
    ["Offset of field: BlendRows::unused"][::std::mem::offset_of!(BlendRows, unused) - 44usize];
};
#[doc = " out\\[r] = the mean of `count` rows of x."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct MeanRows {
    #[doc = " \\[count * rows, width]"]
    pub x: DevicePtr,
    #[doc = " \\[rows, width]"]
    pub out: DevicePtr,
    pub count: u32,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MeanRows"][::std::mem::size_of::<MeanRows>() - 24usize];
    ["Alignment of MeanRows"][::std::mem::align_of::<MeanRows>() - 8usize];
    ["Offset of field: MeanRows::x"][::std::mem::offset_of!(MeanRows, x) - 0usize];
    ["Offset of field: MeanRows::out"][::std::mem::offset_of!(MeanRows, out) - 8usize];
    ["Offset of field: MeanRows::count"][::std::mem::offset_of!(MeanRows, count) - 16usize];
    ["Offset of field: MeanRows::width"][::std::mem::offset_of!(MeanRows, width) - 20usize];
};
#[doc = " x\\[r] = (x\\[r] * factor - bias) * scale"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct Standardise {
    #[doc = " \\[rows, width], in place"]
    pub x: DevicePtr,
    #[doc = " \\[width]"]
    pub bias: DevicePtr,
    #[doc = " \\[width]"]
    pub scale: DevicePtr,
    pub factor: f32,
    pub width: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Standardise"][::std::mem::size_of::<Standardise>() - 32usize];
    ["Alignment of Standardise"][::std::mem::align_of::<Standardise>() - 8usize];
    ["Offset of field: Standardise::x"][::std::mem::offset_of!(Standardise, x) - 0usize];
    ["Offset of field: Standardise::bias"][::std::mem::offset_of!(Standardise, bias) - 8usize];
    ["Offset of field: Standardise::scale"][::std::mem::offset_of!(Standardise, scale) - 16usize];
    ["Offset of field: Standardise::factor"][::std::mem::offset_of!(Standardise, factor) - 24usize];
    ["Offset of field: Standardise::width"][::std::mem::offset_of!(Standardise, width) - 28usize];
};
#[doc = " Rows against the keys of their span."]
#[repr(C)]
#[derive(Debug, Copy, Clone, Default, PartialEq, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SpanTile {
    #[doc = " Rows."]
    pub first: u32,
    #[doc = " Rows."]
    pub count: u32,
    #[doc = " Keys."]
    pub begin: u32,
    #[doc = " Keys."]
    pub end: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SpanTile"][::std::mem::size_of::<SpanTile>() - 16usize];
    ["Alignment of SpanTile"][::std::mem::align_of::<SpanTile>() - 4usize];
    ["Offset of field: SpanTile::first"][::std::mem::offset_of!(SpanTile, first) - 0usize];
    ["Offset of field: SpanTile::count"][::std::mem::offset_of!(SpanTile, count) - 4usize];
    ["Offset of field: SpanTile::begin"][::std::mem::offset_of!(SpanTile, begin) - 8usize];
    ["Offset of field: SpanTile::end"][::std::mem::offset_of!(SpanTile, end) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct AttendSpans {
    #[doc = " \\[rows, 3, heads, dim]"]
    pub qkv: DevicePtr,
    pub tiles: DevicePtr,
    #[doc = " \\[rows, heads, dim]"]
    pub out: DevicePtr,
    pub heads: u32,
    pub dim: u32,
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttendSpans"][::std::mem::size_of::<AttendSpans>() - 40usize];
    ["Alignment of AttendSpans"][::std::mem::align_of::<AttendSpans>() - 8usize];
    ["Offset of field: AttendSpans::qkv"][::std::mem::offset_of!(AttendSpans, qkv) - 0usize];
    ["Offset of field: AttendSpans::tiles"][::std::mem::offset_of!(AttendSpans, tiles) - 8usize];
    ["Offset of field: AttendSpans::out"][::std::mem::offset_of!(AttendSpans, out) - 16usize];
    ["Offset of field: AttendSpans::heads"][::std::mem::offset_of!(AttendSpans, heads) - 24usize];
    ["Offset of field: AttendSpans::dim"][::std::mem::offset_of!(AttendSpans, dim) - 28usize];
    ["Offset of field: AttendSpans::scale"][::std::mem::offset_of!(AttendSpans, scale) - 32usize];
    ["Offset of field: AttendSpans::unused"][::std::mem::offset_of!(AttendSpans, unused) - 36usize];
};
#[repr(u32)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum CodeKind {
    E4m3 = 0,
    Int8 = 1,
    Int4 = 2,
    E2m1 = 3,
    Table = 4,
}
pub const CODE_BLOCK_BYTES: u32 = 64;
pub const CODE_CHUNK_BLOCKS: u32 = 16;
#[doc = " Scales of a block at most: one for each step of 16 inputs."]
pub const CODE_MOST_SCALES: u32 = 8;
#[doc = " A matrix \\[outputs, inputs] of codes."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CodedMatrix {
    #[doc = " \\[outputs, row_bytes]"]
    pub rows: DevicePtr,
    #[doc = " \\[outputs]"]
    pub factor: DevicePtr,
    pub outputs: u32,
    pub inputs: u32,
    pub row_bytes: u32,
    #[doc = " Of a whole chunk."]
    pub chunk_bytes: u32,
    #[doc = " Of a row."]
    pub blocks: u32,
    #[doc = " Of a block: 0 (the row's factor is all), 1, 2, 4, 8."]
    pub scales: u32,
    #[doc = " 1: there are as many zeros."]
    pub zeros: u32,
    pub kind: CodeKind,
    #[doc = " Of CODE_KIND_TABLE."]
    pub table: [f32; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CodedMatrix"][::std::mem::size_of::<CodedMatrix>() - 112usize];
    ["Alignment of CodedMatrix"][::std::mem::align_of::<CodedMatrix>() - 8usize];
    ["Offset of field: CodedMatrix::rows"][::std::mem::offset_of!(CodedMatrix, rows) - 0usize];
    ["Offset of field: CodedMatrix::factor"][::std::mem::offset_of!(CodedMatrix, factor) - 8usize];
    ["Offset of field: CodedMatrix::outputs"]
        [::std::mem::offset_of!(CodedMatrix, outputs) - 16usize];
    ["Offset of field: CodedMatrix::inputs"][::std::mem::offset_of!(CodedMatrix, inputs) - 20usize];
    ["Offset of field: CodedMatrix::row_bytes"]
        [::std::mem::offset_of!(CodedMatrix, row_bytes) - 24usize];
    ["Offset of field: CodedMatrix::chunk_bytes"]
        [::std::mem::offset_of!(CodedMatrix, chunk_bytes) - 28usize];
    ["Offset of field: CodedMatrix::blocks"][::std::mem::offset_of!(CodedMatrix, blocks) - 32usize];
    ["Offset of field: CodedMatrix::scales"][::std::mem::offset_of!(CodedMatrix, scales) - 36usize];
    ["Offset of field: CodedMatrix::zeros"][::std::mem::offset_of!(CodedMatrix, zeros) - 40usize];
    ["Offset of field: CodedMatrix::kind"][::std::mem::offset_of!(CodedMatrix, kind) - 44usize];
    ["Offset of field: CodedMatrix::table"][::std::mem::offset_of!(CodedMatrix, table) - 48usize];
};
#[doc = " Codes of rows `first_row` .. as they lie in a checkpoint, \\[rows, from_row_bytes], to their\n places."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PlaceCodes {
    pub to: CodedMatrix,
    pub from: DevicePtr,
    pub first_row: u32,
    pub rows: u32,
    pub from_row_bytes: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PlaceCodes"][::std::mem::size_of::<PlaceCodes>() - 136usize];
    ["Alignment of PlaceCodes"][::std::mem::align_of::<PlaceCodes>() - 8usize];
    ["Offset of field: PlaceCodes::to"][::std::mem::offset_of!(PlaceCodes, to) - 0usize];
    ["Offset of field: PlaceCodes::from"][::std::mem::offset_of!(PlaceCodes, from) - 112usize];
    ["Offset of field: PlaceCodes::first_row"]
        [::std::mem::offset_of!(PlaceCodes, first_row) - 120usize];
    ["Offset of field: PlaceCodes::rows"][::std::mem::offset_of!(PlaceCodes, rows) - 124usize];
    ["Offset of field: PlaceCodes::from_row_bytes"]
        [::std::mem::offset_of!(PlaceCodes, from_row_bytes) - 128usize];
};
#[doc = " Scales (zeros) of rows, \\[rows, blocks * scales], to their places."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct PlaceScales {
    pub to: CodedMatrix,
    pub from: DevicePtr,
    pub first_row: u32,
    pub rows: u32,
    pub as_zeros: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PlaceScales"][::std::mem::size_of::<PlaceScales>() - 136usize];
    ["Alignment of PlaceScales"][::std::mem::align_of::<PlaceScales>() - 8usize];
    ["Offset of field: PlaceScales::to"][::std::mem::offset_of!(PlaceScales, to) - 0usize];
    ["Offset of field: PlaceScales::from"][::std::mem::offset_of!(PlaceScales, from) - 112usize];
    ["Offset of field: PlaceScales::first_row"]
        [::std::mem::offset_of!(PlaceScales, first_row) - 120usize];
    ["Offset of field: PlaceScales::rows"][::std::mem::offset_of!(PlaceScales, rows) - 124usize];
    ["Offset of field: PlaceScales::as_zeros"]
        [::std::mem::offset_of!(PlaceScales, as_zeros) - 128usize];
};
#[doc = " Any codes, and every scale 1."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DummyCodes {
    pub to: CodedMatrix,
    pub seed: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DummyCodes"][::std::mem::size_of::<DummyCodes>() - 120usize];
    ["Alignment of DummyCodes"][::std::mem::align_of::<DummyCodes>() - 8usize];
    ["Offset of field: DummyCodes::to"][::std::mem::offset_of!(DummyCodes, to) - 0usize];
    ["Offset of field: DummyCodes::seed"][::std::mem::offset_of!(DummyCodes, seed) - 112usize];
};
#[repr(u32)]
#[doc = " What plain weights are quantised by."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum ScaleOver {
    Matrix = 0,
    Row = 1,
    Block = 2,
}
pub const SCALE_BLOCK: u32 = 128;
#[doc = " The largest |w| of each row or of each block of 128 x 128, as the bits of an f32: the largest by\n atomics, 0 before."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct LargestWeights {
    #[doc = " \\[outputs, inputs]"]
    pub w: DevicePtr,
    #[doc = " \\[matrices], \\[outputs] or \\[matrices, blocks of rows, blocks of inputs]"]
    pub largest: DevicePtr,
    pub outputs: u32,
    pub inputs: u32,
    #[doc = " Rows that share a scale, and among which blocks are counted."]
    pub matrix_rows: u32,
    pub over: ScaleOver,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LargestWeights"][::std::mem::size_of::<LargestWeights>() - 32usize];
    ["Alignment of LargestWeights"][::std::mem::align_of::<LargestWeights>() - 8usize];
    ["Offset of field: LargestWeights::w"][::std::mem::offset_of!(LargestWeights, w) - 0usize];
    ["Offset of field: LargestWeights::largest"]
        [::std::mem::offset_of!(LargestWeights, largest) - 8usize];
    ["Offset of field: LargestWeights::outputs"]
        [::std::mem::offset_of!(LargestWeights, outputs) - 16usize];
    ["Offset of field: LargestWeights::inputs"]
        [::std::mem::offset_of!(LargestWeights, inputs) - 20usize];
    ["Offset of field: LargestWeights::matrix_rows"]
        [::std::mem::offset_of!(LargestWeights, matrix_rows) - 24usize];
    ["Offset of field: LargestWeights::over"]
        [::std::mem::offset_of!(LargestWeights, over) - 28usize];
};
#[doc = " Plain weights to E4M3, their scales or factors with them."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct EncodeWeights {
    pub to: CodedMatrix,
    pub w: DevicePtr,
    pub largest: DevicePtr,
    #[doc = " \\[outputs]"]
    pub factor: DevicePtr,
    pub matrix_rows: u32,
    pub over: ScaleOver,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EncodeWeights"][::std::mem::size_of::<EncodeWeights>() - 144usize];
    ["Alignment of EncodeWeights"][::std::mem::align_of::<EncodeWeights>() - 8usize];
    ["Offset of field: EncodeWeights::to"][::std::mem::offset_of!(EncodeWeights, to) - 0usize];
    ["Offset of field: EncodeWeights::w"][::std::mem::offset_of!(EncodeWeights, w) - 112usize];
    ["Offset of field: EncodeWeights::largest"]
        [::std::mem::offset_of!(EncodeWeights, largest) - 120usize];
    ["Offset of field: EncodeWeights::factor"]
        [::std::mem::offset_of!(EncodeWeights, factor) - 128usize];
    ["Offset of field: EncodeWeights::matrix_rows"]
        [::std::mem::offset_of!(EncodeWeights, matrix_rows) - 136usize];
    ["Offset of field: EncodeWeights::over"]
        [::std::mem::offset_of!(EncodeWeights, over) - 140usize];
};
#[doc = " Blocks of codes that a block of four times as many threads unpacks."]
pub const UNPACK_BLOCKS: u32 = 64;
#[doc = " Rows of a coded matrix as plain ones, not aligned to more than an element where inputs are no\n multiple of 16 bytes."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct UnpackCodes {
    pub from: CodedMatrix,
    #[doc = " \\[rows, inputs]"]
    pub to: DevicePtr,
    pub first_row: u32,
    pub rows: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of UnpackCodes"][::std::mem::size_of::<UnpackCodes>() - 128usize];
    ["Alignment of UnpackCodes"][::std::mem::align_of::<UnpackCodes>() - 8usize];
    ["Offset of field: UnpackCodes::from"][::std::mem::offset_of!(UnpackCodes, from) - 0usize];
    ["Offset of field: UnpackCodes::to"][::std::mem::offset_of!(UnpackCodes, to) - 112usize];
    ["Offset of field: UnpackCodes::first_row"]
        [::std::mem::offset_of!(UnpackCodes, first_row) - 120usize];
    ["Offset of field: UnpackCodes::rows"][::std::mem::offset_of!(UnpackCodes, rows) - 124usize];
};
#[repr(u32)]
#[doc = " How inputs are rounded: device/quant.rs, InputQuant."]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum InputRounding {
    None = 0,
    E4m3Tensor = 1,
    E4m3Row = 2,
    E4m3Block = 3,
    Int8Tensor = 4,
    Int8TensorWithZero = 5,
    Int8Row = 6,
    Int8RowWithZero = 7,
}
pub const ROUND_THREADS: u32 = 512;
#[doc = " Blocks of 128 inputs whose steps are held at a time."]
pub const ROUND_BLOCKS: u32 = 512;
#[doc = " Codes of each row as activations, and the step that multiplies their products; with `bytes` they\n are E4M3 in the order of a coded matrix instead, filled up with zeros."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct RoundInputs {
    #[doc = " \\[rows, inputs]"]
    pub x: DevicePtr,
    #[doc = " Column k of the result is input order\\[k]; null: k."]
    pub order: DevicePtr,
    #[doc = " \\[rows, inputs], or null"]
    pub codes: DevicePtr,
    #[doc = " \\[rows, padded_inputs], or null"]
    pub bytes: DevicePtr,
    #[doc = " \\[rows]"]
    pub steps: DevicePtr,
    pub inputs: u32,
    pub padded_inputs: u32,
    pub step: f32,
    pub zero: f32,
    pub kind: InputRounding,
    #[doc = " 1: steps times codes instead of codes, for weights that are not held as codes."]
    pub values: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RoundInputs"][::std::mem::size_of::<RoundInputs>() - 64usize];
    ["Alignment of RoundInputs"][::std::mem::align_of::<RoundInputs>() - 8usize];
    ["Offset of field: RoundInputs::x"][::std::mem::offset_of!(RoundInputs, x) - 0usize];
    ["Offset of field: RoundInputs::order"][::std::mem::offset_of!(RoundInputs, order) - 8usize];
    ["Offset of field: RoundInputs::codes"][::std::mem::offset_of!(RoundInputs, codes) - 16usize];
    ["Offset of field: RoundInputs::bytes"][::std::mem::offset_of!(RoundInputs, bytes) - 24usize];
    ["Offset of field: RoundInputs::steps"][::std::mem::offset_of!(RoundInputs, steps) - 32usize];
    ["Offset of field: RoundInputs::inputs"][::std::mem::offset_of!(RoundInputs, inputs) - 40usize];
    ["Offset of field: RoundInputs::padded_inputs"]
        [::std::mem::offset_of!(RoundInputs, padded_inputs) - 44usize];
    ["Offset of field: RoundInputs::step"][::std::mem::offset_of!(RoundInputs, step) - 48usize];
    ["Offset of field: RoundInputs::zero"][::std::mem::offset_of!(RoundInputs, zero) - 52usize];
    ["Offset of field: RoundInputs::kind"][::std::mem::offset_of!(RoundInputs, kind) - 56usize];
    ["Offset of field: RoundInputs::values"][::std::mem::offset_of!(RoundInputs, values) - 60usize];
};
#[doc = " Times eight outputs that a thread of gated_round holds at most."]
pub const GATED_EIGHTS: u32 = 4;
#[doc = " Gates and ups as of GatedAct, rounded at once to what products take that round their inputs to\n E4M3 row by row: bytes in the order of a coded matrix, filled up with zeros, and the step of each\n row. Half a multiple of 8, of at most GATED_EIGHTS times eight a thread."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct GatedRound {
    #[doc = " \\[rows, 2 half]: gates, then ups"]
    pub x: DevicePtr,
    #[doc = " \\[2 half], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, padded_half]"]
    pub bytes: DevicePtr,
    #[doc = " \\[rows]"]
    pub steps: DevicePtr,
    pub half: u32,
    pub padded_half: u32,
    pub kind: Activation,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatedRound"][::std::mem::size_of::<GatedRound>() - 48usize];
    ["Alignment of GatedRound"][::std::mem::align_of::<GatedRound>() - 8usize];
    ["Offset of field: GatedRound::x"][::std::mem::offset_of!(GatedRound, x) - 0usize];
    ["Offset of field: GatedRound::bias"][::std::mem::offset_of!(GatedRound, bias) - 8usize];
    ["Offset of field: GatedRound::bytes"][::std::mem::offset_of!(GatedRound, bytes) - 16usize];
    ["Offset of field: GatedRound::steps"][::std::mem::offset_of!(GatedRound, steps) - 24usize];
    ["Offset of field: GatedRound::half"][::std::mem::offset_of!(GatedRound, half) - 32usize];
    ["Offset of field: GatedRound::padded_half"]
        [::std::mem::offset_of!(GatedRound, padded_half) - 36usize];
    ["Offset of field: GatedRound::kind"][::std::mem::offset_of!(GatedRound, kind) - 40usize];
    ["Offset of field: GatedRound::unused"][::std::mem::offset_of!(GatedRound, unused) - 44usize];
};
#[doc = " y = y * steps\\[row] * factor\\[output] + bias, then the activation; in place. Bias or factor may be\n null."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleAct {
    #[doc = " \\[rows, width]"]
    pub y: DevicePtr,
    pub steps: DevicePtr,
    pub factor: DevicePtr,
    pub bias: DevicePtr,
    pub width: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleAct"][::std::mem::size_of::<ScaleAct>() - 40usize];
    ["Alignment of ScaleAct"][::std::mem::align_of::<ScaleAct>() - 8usize];
    ["Offset of field: ScaleAct::y"][::std::mem::offset_of!(ScaleAct, y) - 0usize];
    ["Offset of field: ScaleAct::steps"][::std::mem::offset_of!(ScaleAct, steps) - 8usize];
    ["Offset of field: ScaleAct::factor"][::std::mem::offset_of!(ScaleAct, factor) - 16usize];
    ["Offset of field: ScaleAct::bias"][::std::mem::offset_of!(ScaleAct, bias) - 24usize];
    ["Offset of field: ScaleAct::width"][::std::mem::offset_of!(ScaleAct, width) - 32usize];
    ["Offset of field: ScaleAct::kind"][::std::mem::offset_of!(ScaleAct, kind) - 36usize];
};
#[doc = " logits *= steps\\[row], in place."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleLogits {
    #[doc = " \\[rows, vocab]"]
    pub logits: DevicePtr,
    pub steps: DevicePtr,
    pub vocab: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleLogits"][::std::mem::size_of::<ScaleLogits>() - 24usize];
    ["Alignment of ScaleLogits"][::std::mem::align_of::<ScaleLogits>() - 8usize];
    ["Offset of field: ScaleLogits::logits"][::std::mem::offset_of!(ScaleLogits, logits) - 0usize];
    ["Offset of field: ScaleLogits::steps"][::std::mem::offset_of!(ScaleLogits, steps) - 8usize];
    ["Offset of field: ScaleLogits::vocab"][::std::mem::offset_of!(ScaleLogits, vocab) - 16usize];
};
#[doc = " As ScaleAct, of gates and ups: \\[rows, 2 half] -> \\[rows, half]."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct ScaleGated {
    pub x: DevicePtr,
    pub steps: DevicePtr,
    pub factor: DevicePtr,
    pub bias: DevicePtr,
    pub out: DevicePtr,
    pub half: u32,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ScaleGated"][::std::mem::size_of::<ScaleGated>() - 48usize];
    ["Alignment of ScaleGated"][::std::mem::align_of::<ScaleGated>() - 8usize];
    ["Offset of field: ScaleGated::x"][::std::mem::offset_of!(ScaleGated, x) - 0usize];
    ["Offset of field: ScaleGated::steps"][::std::mem::offset_of!(ScaleGated, steps) - 8usize];
    ["Offset of field: ScaleGated::factor"][::std::mem::offset_of!(ScaleGated, factor) - 16usize];
    ["Offset of field: ScaleGated::bias"][::std::mem::offset_of!(ScaleGated, bias) - 24usize];
    ["Offset of field: ScaleGated::out"][::std::mem::offset_of!(ScaleGated, out) - 32usize];
    ["Offset of field: ScaleGated::half"][::std::mem::offset_of!(ScaleGated, half) - 40usize];
    ["Offset of field: ScaleGated::kind"][::std::mem::offset_of!(ScaleGated, kind) - 44usize];
};
#[doc = " Rows that coded_small_m takes at most; shared memory of a block, and what of it x may take."]
pub const CODED_SMALL_ROWS: u32 = 8;
pub const CODED_SMALL_SHARED_BYTES: u32 = 110592;
pub const CODED_SMALL_X_BYTES: u32 = 59392;
pub const CODED_SMALL_MOST_STAGES: u32 = 6;
#[doc = " Stages of a block that are on their way at a time."]
pub const CODED_SMALL_UNDER_WAY: u32 = 2;
#[doc = " Inputs of a single row that coded_small_e4m3_row rounds, at most."]
pub const CODED_SMALL_ROW_INPUTS: u32 = 16384;
#[doc = " Threads, outputs and columns (rows of x) of a tile of coded_wgmma; a block at a time is on a\n multiprocessor."]
pub const CODED_THREADS: u32 = 512;
pub const CODED_TILE: u32 = 256;
pub const CODED_FEW_ROWS: u32 = 16;
pub const CODED_MANY_ROWS: u32 = 64;
pub const CODED_FEW_STAGES: u32 = 10;
pub const CODED_MANY_STAGES: u32 = 6;
#[doc = " Blocks that share the inputs of a tile, at most: as many as every card lets be a cluster."]
pub const CODED_MOST_SHARES: u32 = 8;
#[doc = " Shared memory: stages of up to 128 inputs of each row of x and a block of each output's codes,\n what lies behind them, and room to align them."]
pub const CODED_REST_BYTES: u32 = 5120;
pub const CODED_FEW_SHARED_BYTES: u32 = 209920;
pub const CODED_MANY_SHARED_BYTES: u32 = 201728;
#[repr(u32)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub enum CodedEnd {
    Act = 0,
    Gated = 1,
    Logits = 2,
}
#[doc = " y = act(steps\\[row] * (x W^T) + bias)"]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CodedProduct {
    pub w: CodedMatrix,
    #[doc = " \\[rows, inputs]"]
    pub x: DevicePtr,
    #[doc = " \\[rows], or null: 1"]
    pub steps: DevicePtr,
    #[doc = " \\[outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " act \\[rows, outputs], gated \\[rows, outputs / 2]; logits f32 \\[rows, outputs]"]
    pub y: DevicePtr,
    #[doc = " Of experts alone: choices by expert, tiles of them and how many, as in MultiplyExperts. W are\n all experts' matrices one below the other, x has a row for each row, or choice (top_k 1)."]
    pub order: DevicePtr,
    pub expert_tiles: DevicePtr,
    pub expert_tile_count: DevicePtr,
    pub rows: u32,
    #[doc = " Of coded_small_e4m3_bytes: where `steps` is null it rounds x itself, by the step of all rows or\n with 0 by each row's own; else x are bytes, \\[rows, blocks of W * CODE_BLOCK_BYTES]."]
    pub step: f32,
    #[doc = " Of W, or of one expert."]
    pub outputs: u32,
    pub top_k: u32,
    pub end: CodedEnd,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CodedProduct"][::std::mem::size_of::<CodedProduct>() - 192usize];
    ["Alignment of CodedProduct"][::std::mem::align_of::<CodedProduct>() - 8usize];
    ["Offset of field: CodedProduct::w"][::std::mem::offset_of!(CodedProduct, w) - 0usize];
    ["Offset of field: CodedProduct::x"][::std::mem::offset_of!(CodedProduct, x) - 112usize];
    ["Offset of field: CodedProduct::steps"]
        [::std::mem::offset_of!(CodedProduct, steps) - 120usize];
    ["Offset of field: CodedProduct::bias"][::std::mem::offset_of!(CodedProduct, bias) - 128usize];
    ["Offset of field: CodedProduct::y"][::std::mem::offset_of!(CodedProduct, y) - 136usize];
    ["Offset of field: CodedProduct::order"]
        [::std::mem::offset_of!(CodedProduct, order) - 144usize];
    ["Offset of field: CodedProduct::expert_tiles"]
        [::std::mem::offset_of!(CodedProduct, expert_tiles) - 152usize];
    ["Offset of field: CodedProduct::expert_tile_count"]
        [::std::mem::offset_of!(CodedProduct, expert_tile_count) - 160usize];
    ["Offset of field: CodedProduct::rows"][::std::mem::offset_of!(CodedProduct, rows) - 168usize];
    ["Offset of field: CodedProduct::step"][::std::mem::offset_of!(CodedProduct, step) - 172usize];
    ["Offset of field: CodedProduct::outputs"]
        [::std::mem::offset_of!(CodedProduct, outputs) - 176usize];
    ["Offset of field: CodedProduct::top_k"]
        [::std::mem::offset_of!(CodedProduct, top_k) - 180usize];
    ["Offset of field: CodedProduct::end"][::std::mem::offset_of!(CodedProduct, end) - 184usize];
    ["Offset of field: CodedProduct::kind"][::std::mem::offset_of!(CodedProduct, kind) - 188usize];
};
#[doc = " A product of coded_small_m, and what it does besides. A single row may be normed on its way, and y\n may be added to the residual, as SmallGemm has both."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CodedSmall {
    pub product: CodedProduct,
    #[doc = " \\[outputs], or null. Of CODED_END_ACT."]
    pub residual: DevicePtr,
    #[doc = " \\[inputs], or null. Not of x that are bytes."]
    pub norm_weight: DevicePtr,
    #[doc = " \\[inputs]"]
    pub normed: DevicePtr,
    pub eps: f32,
    pub norm_kind: NormKind,
    #[doc = " of kernels that push, in place of y"]
    pub push: RowPush,
    #[doc = " As in RouteRows."]
    pub routes: DevicePtr,
    #[doc = " Of a row."]
    pub choices: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CodedSmall"][::std::mem::size_of::<CodedSmall>() - 320usize];
    ["Alignment of CodedSmall"][::std::mem::align_of::<CodedSmall>() - 8usize];
    ["Offset of field: CodedSmall::product"][::std::mem::offset_of!(CodedSmall, product) - 0usize];
    ["Offset of field: CodedSmall::residual"]
        [::std::mem::offset_of!(CodedSmall, residual) - 192usize];
    ["Offset of field: CodedSmall::norm_weight"]
        [::std::mem::offset_of!(CodedSmall, norm_weight) - 200usize];
    ["Offset of field: CodedSmall::normed"][::std::mem::offset_of!(CodedSmall, normed) - 208usize];
    ["Offset of field: CodedSmall::eps"][::std::mem::offset_of!(CodedSmall, eps) - 216usize];
    ["Offset of field: CodedSmall::norm_kind"]
        [::std::mem::offset_of!(CodedSmall, norm_kind) - 220usize];
    ["Offset of field: CodedSmall::push"][::std::mem::offset_of!(CodedSmall, push) - 224usize];
    ["Offset of field: CodedSmall::routes"][::std::mem::offset_of!(CodedSmall, routes) - 304usize];
    ["Offset of field: CodedSmall::choices"]
        [::std::mem::offset_of!(CodedSmall, choices) - 312usize];
    ["Offset of field: CodedSmall::unused"][::std::mem::offset_of!(CodedSmall, unused) - 316usize];
};
#[doc = " As FewExperts, of codes: sums are multiplied by the steps of rows (choices, where x has a row for\n each) and by factors."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CodedFewExperts {
    pub few: FewExperts,
    pub w: CodedMatrix,
    #[doc = " Null: 1"]
    pub steps: DevicePtr,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CodedFewExperts"][::std::mem::size_of::<CodedFewExperts>() - 232usize];
    ["Alignment of CodedFewExperts"][::std::mem::align_of::<CodedFewExperts>() - 8usize];
    ["Offset of field: CodedFewExperts::few"]
        [::std::mem::offset_of!(CodedFewExperts, few) - 0usize];
    ["Offset of field: CodedFewExperts::w"][::std::mem::offset_of!(CodedFewExperts, w) - 112usize];
    ["Offset of field: CodedFewExperts::steps"]
        [::std::mem::offset_of!(CodedFewExperts, steps) - 224usize];
};
#[doc = " A product by coded_wgmma or coded_experts: boxes of CODED_TILE / 2 rows of one block of codes,\n and (not of experts) of a tile's rows of x and 64 inputs, in swizzled panels (warpgroup.cuh)."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct CodedTiles {
    pub codes: TensorMap,
    pub inputs: TensorMap,
    pub product: CodedProduct,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CodedTiles"][::std::mem::size_of::<CodedTiles>() - 448usize];
    ["Alignment of CodedTiles"][::std::mem::align_of::<CodedTiles>() - 64usize];
    ["Offset of field: CodedTiles::codes"][::std::mem::offset_of!(CodedTiles, codes) - 0usize];
    ["Offset of field: CodedTiles::inputs"][::std::mem::offset_of!(CodedTiles, inputs) - 128usize];
    ["Offset of field: CodedTiles::product"]
        [::std::mem::offset_of!(CodedTiles, product) - 256usize];
};
#[doc = " Rows at most, of codes and of half types; bytes of each row of W and x in a stage."]
pub const TILED_ROWS: u32 = 32;
pub const TILED_HALF_ROWS: u32 = 16;
pub const TILED_UNIT_BYTES: u32 = 128;
#[doc = " Outputs of a tile and threads of a block (those that multiply and the warp that copies), two\n blocks on a multiprocessor."]
pub const TILED_OUTPUTS: u32 = 128;
pub const TILED_THREADS: u32 = 288;
#[doc = " Shared memory: stages, what lies behind them, and room to align them."]
pub const TILED_RING_BYTES: u32 = 110592;
pub const TILED_REST_BYTES: u32 = 1536;
pub const TILED_SHARED_BYTES: u32 = 112128;
#[doc = " y = act(steps\\[row] * factor\\[output] * (x W^T) + bias), W and x in swizzled boxes of\n TILED_UNIT_BYTES (warpgroup.cuh): of x of as many rows as the kernel has, of W of a tile's\n rows, and gated of eights, \\[eights, gate or up, 8]."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct TiledGemm {
    pub w: TensorMap,
    pub x: TensorMap,
    #[doc = " \\[outputs], or null: 1"]
    pub factor: DevicePtr,
    #[doc = " \\[rows], or null: 1"]
    pub steps: DevicePtr,
    #[doc = " \\[outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " act \\[rows, outputs], gated \\[rows, outputs / 2]; logits f32 \\[rows, outputs]"]
    pub y: DevicePtr,
    pub rows: u32,
    pub outputs: u32,
    #[doc = " Of TILED_UNIT_BYTES, of a row."]
    pub units: u32,
    pub end: CodedEnd,
    pub kind: Activation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TiledGemm"][::std::mem::size_of::<TiledGemm>() - 320usize];
    ["Alignment of TiledGemm"][::std::mem::align_of::<TiledGemm>() - 64usize];
    ["Offset of field: TiledGemm::w"][::std::mem::offset_of!(TiledGemm, w) - 0usize];
    ["Offset of field: TiledGemm::x"][::std::mem::offset_of!(TiledGemm, x) - 128usize];
    ["Offset of field: TiledGemm::factor"][::std::mem::offset_of!(TiledGemm, factor) - 256usize];
    ["Offset of field: TiledGemm::steps"][::std::mem::offset_of!(TiledGemm, steps) - 264usize];
    ["Offset of field: TiledGemm::bias"][::std::mem::offset_of!(TiledGemm, bias) - 272usize];
    ["Offset of field: TiledGemm::y"][::std::mem::offset_of!(TiledGemm, y) - 280usize];
    ["Offset of field: TiledGemm::rows"][::std::mem::offset_of!(TiledGemm, rows) - 288usize];
    ["Offset of field: TiledGemm::outputs"][::std::mem::offset_of!(TiledGemm, outputs) - 292usize];
    ["Offset of field: TiledGemm::units"][::std::mem::offset_of!(TiledGemm, units) - 296usize];
    ["Offset of field: TiledGemm::end"][::std::mem::offset_of!(TiledGemm, end) - 300usize];
    ["Offset of field: TiledGemm::kind"][::std::mem::offset_of!(TiledGemm, kind) - 304usize];
};
#[doc = " Rows at most; shared memory of the stages and of what lies behind them, with room to align them.\n Beside a block there is room for one of a norm, or of what rounds inputs."]
pub const ROWS_MOST: u32 = 64;
pub const ROWS_STAGES_MOST: u32 = 32;
pub const ROWS_RING_BYTES: u32 = 196608;
pub const ROWS_REST_BYTES: u32 = 16896;
pub const ROWS_SHARED_BYTES: u32 = 213504;
#[doc = " Two warpgroups that multiply and a warp that copies."]
pub const ROWS_THREADS: u32 = 288;
#[doc = " Blocks that leave sums of squares of their part of each row, at most."]
pub const ROWS_PARTS_MOST: u32 = 144;
#[doc = " Warps that add those up."]
pub const ROWS_DIVIDING: u32 = 4;
#[doc = " As TiledGemm; each tile's inputs are cut into so many shares, one for each block of a cluster.\n Of a half type the product may be added to a residual of as many outputs, of which y gets each\n element times its norm's weight; and x may be such a y, which is still to be divided by the root\n of the row's mean square."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct RowsGemm {
    pub w: TensorMap,
    pub x: TensorMap,
    #[doc = " \\[outputs], or null: 1"]
    pub factor: DevicePtr,
    #[doc = " \\[rows], or null: 1"]
    pub steps: DevicePtr,
    #[doc = " \\[outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " act \\[rows, outputs], gated \\[rows, outputs / 2]; logits f32 \\[rows, outputs]"]
    pub y: DevicePtr,
    pub rows: u32,
    pub outputs: u32,
    #[doc = " Of TILED_UNIT_BYTES, of a row."]
    pub units: u32,
    pub shares: u32,
    #[doc = " A stage: a box of x, one of W."]
    pub stages: u32,
    #[doc = " Multiples of 1024."]
    pub stage_bytes: u32,
    #[doc = " Multiples of 1024."]
    pub x_bytes: u32,
    pub end: CodedEnd,
    pub kind: Activation,
    #[doc = " \\[rows, outputs], or null; outputs are even then"]
    pub residual: DevicePtr,
    #[doc = " \\[outputs]"]
    pub norm_weight: DevicePtr,
    #[doc = " \\[blocks, ROWS_MOST], of the residual's elements that a block has"]
    pub squares: DevicePtr,
    #[doc = " \\[parts, ROWS_MOST], or null"]
    pub squares_of_x: DevicePtr,
    pub parts: u32,
    pub normed_inputs: u32,
    pub eps: f32,
    pub norm_kind: NormKind,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowsGemm"][::std::mem::size_of::<RowsGemm>() - 384usize];
    ["Alignment of RowsGemm"][::std::mem::align_of::<RowsGemm>() - 64usize];
    ["Offset of field: RowsGemm::w"][::std::mem::offset_of!(RowsGemm, w) - 0usize];
    ["Offset of field: RowsGemm::x"][::std::mem::offset_of!(RowsGemm, x) - 128usize];
    ["Offset of field: RowsGemm::factor"][::std::mem::offset_of!(RowsGemm, factor) - 256usize];
    ["Offset of field: RowsGemm::steps"][::std::mem::offset_of!(RowsGemm, steps) - 264usize];
    ["Offset of field: RowsGemm::bias"][::std::mem::offset_of!(RowsGemm, bias) - 272usize];
    ["Offset of field: RowsGemm::y"][::std::mem::offset_of!(RowsGemm, y) - 280usize];
    ["Offset of field: RowsGemm::rows"][::std::mem::offset_of!(RowsGemm, rows) - 288usize];
    ["Offset of field: RowsGemm::outputs"][::std::mem::offset_of!(RowsGemm, outputs) - 292usize];
    ["Offset of field: RowsGemm::units"][::std::mem::offset_of!(RowsGemm, units) - 296usize];
    ["Offset of field: RowsGemm::shares"][::std::mem::offset_of!(RowsGemm, shares) - 300usize];
    ["Offset of field: RowsGemm::stages"][::std::mem::offset_of!(RowsGemm, stages) - 304usize];
    ["Offset of field: RowsGemm::stage_bytes"]
        [::std::mem::offset_of!(RowsGemm, stage_bytes) - 308usize];
    ["Offset of field: RowsGemm::x_bytes"][::std::mem::offset_of!(RowsGemm, x_bytes) - 312usize];
    ["Offset of field: RowsGemm::end"][::std::mem::offset_of!(RowsGemm, end) - 316usize];
    ["Offset of field: RowsGemm::kind"][::std::mem::offset_of!(RowsGemm, kind) - 320usize];
    ["Offset of field: RowsGemm::residual"][::std::mem::offset_of!(RowsGemm, residual) - 328usize];
    ["Offset of field: RowsGemm::norm_weight"]
        [::std::mem::offset_of!(RowsGemm, norm_weight) - 336usize];
    ["Offset of field: RowsGemm::squares"][::std::mem::offset_of!(RowsGemm, squares) - 344usize];
    ["Offset of field: RowsGemm::squares_of_x"]
        [::std::mem::offset_of!(RowsGemm, squares_of_x) - 352usize];
    ["Offset of field: RowsGemm::parts"][::std::mem::offset_of!(RowsGemm, parts) - 360usize];
    ["Offset of field: RowsGemm::normed_inputs"]
        [::std::mem::offset_of!(RowsGemm, normed_inputs) - 364usize];
    ["Offset of field: RowsGemm::eps"][::std::mem::offset_of!(RowsGemm, eps) - 368usize];
    ["Offset of field: RowsGemm::norm_kind"]
        [::std::mem::offset_of!(RowsGemm, norm_kind) - 372usize];
};
#[doc = " Rows of a block at most; shared memory of the stages and of what lies behind them, with room to\n align them."]
pub const MORE_ROWS_OF_BLOCK: u32 = 128;
pub const MORE_ROWS_RING_BYTES: u32 = 225280;
pub const MORE_ROWS_REST_BYTES: u32 = 4096;
pub const MORE_ROWS_SHARED_BYTES: u32 = 229376;
#[doc = " Two warpgroups that multiply and a warp that copies."]
pub const MORE_ROWS_THREADS: u32 = 288;
#[doc = " y = x W^T + bias, or gated silu(gates) * ups. W in boxes of a tile's outputs, gated of eights\n (TiledGemm), x in boxes of `block_rows`, a multiple of 8: each block has as many."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct MoreRowsGemm {
    pub w: TensorMap,
    pub x: TensorMap,
    #[doc = " \\[outputs], or null"]
    pub bias: DevicePtr,
    #[doc = " \\[rows, outputs], gated \\[rows, outputs / 2]; both even"]
    pub y: DevicePtr,
    pub rows: u32,
    pub outputs: u32,
    #[doc = " Of TILED_UNIT_BYTES, of a row."]
    pub units: u32,
    #[doc = " Of each tile's inputs, one for each block of a cluster."]
    pub shares: u32,
    pub block_rows: u32,
    pub gated: u32,
    #[doc = " Blocks that have other rows of the same tiles."]
    pub below: u32,
    #[doc = " Clusters of two blocks of the same tiles share W: its boxes are of half a tile."]
    pub pairs: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoreRowsGemm"][::std::mem::size_of::<MoreRowsGemm>() - 320usize];
    ["Alignment of MoreRowsGemm"][::std::mem::align_of::<MoreRowsGemm>() - 64usize];
    ["Offset of field: MoreRowsGemm::w"][::std::mem::offset_of!(MoreRowsGemm, w) - 0usize];
    ["Offset of field: MoreRowsGemm::x"][::std::mem::offset_of!(MoreRowsGemm, x) - 128usize];
    ["Offset of field: MoreRowsGemm::bias"][::std::mem::offset_of!(MoreRowsGemm, bias) - 256usize];
    ["Offset of field: MoreRowsGemm::y"][::std::mem::offset_of!(MoreRowsGemm, y) - 264usize];
    ["Offset of field: MoreRowsGemm::rows"][::std::mem::offset_of!(MoreRowsGemm, rows) - 272usize];
    ["Offset of field: MoreRowsGemm::outputs"]
        [::std::mem::offset_of!(MoreRowsGemm, outputs) - 276usize];
    ["Offset of field: MoreRowsGemm::units"]
        [::std::mem::offset_of!(MoreRowsGemm, units) - 280usize];
    ["Offset of field: MoreRowsGemm::shares"]
        [::std::mem::offset_of!(MoreRowsGemm, shares) - 284usize];
    ["Offset of field: MoreRowsGemm::block_rows"]
        [::std::mem::offset_of!(MoreRowsGemm, block_rows) - 288usize];
    ["Offset of field: MoreRowsGemm::gated"]
        [::std::mem::offset_of!(MoreRowsGemm, gated) - 292usize];
    ["Offset of field: MoreRowsGemm::below"]
        [::std::mem::offset_of!(MoreRowsGemm, below) - 296usize];
    ["Offset of field: MoreRowsGemm::pairs"]
        [::std::mem::offset_of!(MoreRowsGemm, pairs) - 300usize];
    ["Offset of field: MoreRowsGemm::unused"]
        [::std::mem::offset_of!(MoreRowsGemm, unused) - 304usize];
};
#[doc = " Warpgroups of a block that multiply, each 64 packed rows of an item, up to head size 256 and at\n 64; one more feeds them."]
pub const MAPPED_GROUPS: u32 = 2;
pub const MAPPED_GROUPS_OF_64: u32 = 3;
pub const MAPPED_ROWS_OF_GROUP: u32 = 64;
pub const MAPPED_THREADS_OF_GROUP: u32 = 128;
#[doc = " Keys of a tile, up to head size 128 and at 256."]
pub const MAPPED_KEYS: u32 = 128;
pub const MAPPED_KEYS_OF_256: u32 = 80;
#[doc = " Stages of K, and of V; at head size 64."]
pub const MAPPED_STAGES: u32 = 2;
pub const MAPPED_STAGES_OF_64: u32 = 4;
#[doc = " Items whose Q is there at once, up to head size 128 and at 256."]
pub const MAPPED_QUERIES: u32 = 2;
pub const MAPPED_QUERIES_OF_256: u32 = 1;
#[doc = " Items of all KV heads, dealt to blocks, or to clusters of two blocks."]
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone)]
pub struct PromptAttention {
    #[doc = " Of the pool: eights of rows of a head, boxes of `piece` rows, swizzled panels."]
    pub map: TensorMap,
    pub pages: PagedAttention,
    pub items: u32,
    #[doc = " Keys that lie one behind the other in a page and in a tile: divides both."]
    pub piece: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PromptAttention"][::std::mem::size_of::<PromptAttention>() - 320usize];
    ["Alignment of PromptAttention"][::std::mem::align_of::<PromptAttention>() - 64usize];
    ["Offset of field: PromptAttention::map"]
        [::std::mem::offset_of!(PromptAttention, map) - 0usize];
    ["Offset of field: PromptAttention::pages"]
        [::std::mem::offset_of!(PromptAttention, pages) - 128usize];
    ["Offset of field: PromptAttention::items"]
        [::std::mem::offset_of!(PromptAttention, items) - 288usize];
    ["Offset of field: PromptAttention::piece"]
        [::std::mem::offset_of!(PromptAttention, piece) - 292usize];
};
