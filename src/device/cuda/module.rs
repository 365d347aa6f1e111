//! The kernels in this library, and which of their binaries fits a card. `Cuda::open` loads them
//! once; it knows no op.
//!
//! The build script leaves one binary per source file, element type and architecture
//! (build/kernels.rs). Machine code runs on its own major version from its own minor on, except `a`
//! targets, which run on exactly theirs; for a card without machine code the driver compiles the
//! PTX when the model loads (0.4 s). Models of one element type on one GPU share what is loaded.

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys;

use super::abi;
use super::context::{check, Context};
use super::launch::Kernel;
use crate::device::DType;
use crate::error::{Error, Result};

/// One compiled source file.
pub struct Binary {
    file: &'static str,
    /// Element type of the activations; kernels without any are stored as f32.
    act: &'static str,
    /// Compute capability, e.g. 90.
    capability: u32,
    /// Runs on exactly this capability.
    exact: bool,
    ptx: bool,
    image: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

impl Binary {
    /// How well it fits a card: machine code before PTX, the nearest before the farther. None: not
    /// at all.
    fn fit(&self, capability: u32) -> Option<u32> {
        let same_major = self.capability / 10 == capability / 10;
        match (self.ptx, self.exact) {
            (true, _) => (self.capability <= capability).then_some(0),
            (false, true) => (self.capability == capability).then_some(self.capability),
            (false, false) => {
                (same_major && self.capability <= capability).then_some(self.capability)
            }
        }
    }
}

/// Loaded machine code; unloaded when dropped.
struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
    /// Of its machine code; of PTX 0.
    capability: u32,
}

// SAFETY: the driver's handle may be used from any thread; shared, it is only kept.
unsafe impl Send for Module {}
unsafe impl Sync for Module {}

impl Module {
    fn load(context: &Arc<Context>, file: &str, act: &str) -> Result<Module> {
        let fits = BINARIES
            .iter()
            .filter(|b| b.file == file && (b.act == act || UNTYPED.contains(&file)))
            .filter_map(|b| Some((b.fit(context.capability)?, b)));
        let Some((_, binary)) = fits.max_by_key(|(fit, _)| *fit) else {
            return Err(Error::Unsupported(format!(
                "{} has compute capability {}.{}: this build has no kernels for it \
                 (TRITON_VLLM_CUDA_ARCHS narrowed the build).",
                context.name,
                context.capability / 10,
                context.capability % 10
            )));
        };
        // PTX must be terminated; machine code does not mind.
        let image = [binary.image, &[0]].concat();
        let mut module = ptr::null_mut();
        // SAFETY: a whole, terminated image in memory; the context is current.
        let code = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) };
        check(code, &format!("loading the kernels of {file}.cu"))?;
        let capability = if binary.ptx { 0 } else { binary.capability };
        Ok(Module { context: context.clone(), module, capability })
    }

    /// # Safety
    /// `parameters` is the name of `P`, a struct of [`super::abi`].
    unsafe fn kernel<P: Copy>(&self, name: &'static str, parameters: &str) -> Result<Kernel<P>> {
        let text = CString::new(symbol(name, parameters)).unwrap_or_default();
        let mut function = ptr::null_mut();
        let get = |f: &mut sys::CUfunction, text: &CStr| {
            // SAFETY: a loaded module and a terminated name.
            unsafe { sys::cuModuleGetFunction(f, self.module, text.as_ptr()) }
        };
        check(get(&mut function, &text), &format!("finding kernel {name}"))?;
        // SAFETY: a function of this name takes one struct of that name (`symbol`), which the
        // compiler read from kernels/abi.h, as bindgen did for `P`; `Kernels` keeps the module.
        Ok(unsafe { Kernel::new(function, name, self.capability) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded in `load`, unloaded once; its kernels live in the same struct.
            unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

/// The symbol of `__global__ void name(const parameters)`: C++ writes the types of parameters into
/// a function's name, so a kernel that takes another struct is not found.
fn symbol(name: &str, parameters: &str) -> String {
    format!("_Z{}{name}{}{parameters}", name.len(), parameters.len())
}

macro_rules! kernels {
    ($($file:literal: $($name:ident($parameters:ident))*;)*) => {
        /// Every kernel, for one element type.
        pub struct Kernels {
            $($(
                #[doc = concat!("Of kernels/", $file, ".cu.")]
                pub $name: Kernel<abi::$parameters>,
            )*)*
            _modules: Vec<Module>,
        }

        /// File, name, struct and the struct's size of every kernel.
        #[cfg(test)]
        const TABLE: &[(&str, &str, &str, usize)] = &[
            $($((
                $file,
                stringify!($name),
                stringify!($parameters),
                size_of::<abi::$parameters>(),
            ),)*)*
        ];

        impl Kernels {
            fn load(context: &Arc<Context>, act: DType) -> Result<Kernels> {
                context.bind()?;
                let act = match act {
                    DType::F32 => "f32",
                    DType::F16 => "f16",
                    DType::BF16 => "bf16",
                };
                let mut modules = Vec::new();
                $(
                    let module = Module::load(context, $file, act)?;
                    $(
                        // SAFETY: both are written from `$parameters`.
                        let $name: Kernel<abi::$parameters> =
                            unsafe { module.kernel(stringify!($name), stringify!($parameters))? };
                    )*
                    modules.push(module);
                )*
                Ok(Kernels { $($($name,)*)* _modules: modules })
            }
        }
    };
}

/// Loaded kernels that some device of this process still uses.
static LOADED: Mutex<Vec<(sys::CUdevice, DType, Weak<Kernels>)>> = Mutex::new(Vec::new());

impl Kernels {
    /// The kernels for activations of a type on a context's GPU, loaded unless they are there.
    ///
    /// # Errors
    /// No binary for this card; the driver refuses one.
    pub fn of(context: &Arc<Context>, act: DType) -> Result<Arc<Kernels>> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|(_, _, kernels)| kernels.strong_count() > 0);
        let same = loaded.iter().find(|(gpu, of, _)| (*gpu, *of) == (context.device, act));
        if let Some(kernels) = same.and_then(|(_, _, kernels)| kernels.upgrade()) {
            return Ok(kernels);
        }
        let kernels = Arc::new(Kernels::load(context, act)?);
        loaded.push((context.device, act, Arc::downgrade(&kernels)));
        Ok(kernels)
    }
}

kernels! {
    "step": fetch_input(FetchInput) prepare(PrepareStep);
    "gather": embed(Embed) add_positions(AddPositions) gather(Gather) pool(Pool);
    "norm":
        norm_rows(NormRows) norm_rows_many(NormRows) add_norm(AddNorm) add_norm_many(AddNorm)
        add_norm_ahead(AddNorm)
        add_rows(AddRows) norm_parts(NormParts)
        square_parts(SquareParts);
    "ranks":
        sum_ranks(SumRanks) sum_ranks_f32(SumRanks) sum_ranks_direct(SumRanks)
        gather_ranks(GatherRanks) gather_ranks_direct(GatherRanks);
    "ranks_norm": sum_add_norm(SumAddNorm);
    "ranks_pushed": sum_pushed_row(SumPushedRow);
    "ranks_rows": sum_add_norm_rows(SumAddNormRows);
    "activation":
        bias_act(BiasAct) gated_act(GatedAct) clamp(Clamp) xielu(Xielu) softcap(Softcap)
        bias_logits(BiasLogits);
    "rope":
        rope_store(RopeStore) rope_store_fp8(RopeStore) rotate(RopeStore)
        rope_store_rows(RopeStore) rope_store_rows_fp8(RopeStore);
    "attention":
        attend_rows(AttendRows) attend_rows_fp8(AttendRows) attend_rows_wide(AttendRows)
        attend_rows_fp8_wide(AttendRows) attend_all(AttendAll);
    "attention_mma":
        chunk_64(PagedAttention) chunk_80(PagedAttention) chunk_96(PagedAttention)
        chunk_128(PagedAttention) chunk_256(PagedAttention)
        split_64(PagedAttention) split_80(PagedAttention) split_96(PagedAttention)
        split_128(PagedAttention) split_256(PagedAttention);
    "attention_prefill_sm90":
        prompt_64(PromptAttention) prompt_128(PromptAttention) prompt_256(PromptAttention);
    "attention_ring_sm90":
        ring_64(RingAttention) ring_128(RingAttention) ring_256(RingAttention)
        ring_turn_64(RingTurn) ring_turn_128(RingTurn) ring_turn_256(RingTurn);
    "attention_shared_sm90":
        shared_64(RingAttention) shared_128(RingAttention);
    "attention_fp8":
        chunk_fp8_64(PagedAttention) chunk_fp8_80(PagedAttention) chunk_fp8_96(PagedAttention)
        chunk_fp8_128(PagedAttention) chunk_fp8_256(PagedAttention)
        split_e4m3_64(PagedAttention) split_e4m3_80(PagedAttention) split_e4m3_96(PagedAttention)
        split_e4m3_128(PagedAttention) split_e4m3_256(PagedAttention)
        split_e5m2_64(PagedAttention) split_e5m2_128(PagedAttention);
    "latent":
        heads_plain(MultiplyHeads) heads_few(MultiplyHeads) heads_many(MultiplyHeads)
        store_latent(StoreLatent) attend_latent_rows(AttendLatent);
    "attention_latent":
        latent_chunk_16(PagedLatent) latent_chunk_64(PagedLatent)
        latent_split_16(PagedLatent) latent_split_64(PagedLatent);
    "attention_prefill_fp8_sm90":
        prompt_fp8_64(PagedAttention) prompt_fp8_128(PagedAttention)
        prompt_fp8_256(PagedAttention);
    "state":
        short_convolution(ShortConvolution) convolution_tails(ShortConvolution)
        delta_rule_1(DeltaRule) delta_rule_2(DeltaRule) delta_rule_4(DeltaRule)
        delta_rule_8(DeltaRule) norm_gated(NormGated) gate_rows(GateRows) multiply(Multiply);
    "scan":
        selective_scan_1(SelectiveScan) selective_scan_2(SelectiveScan)
        selective_scan_4(SelectiveScan) selective_scan_8(SelectiveScan);
    "chunks":
        delta_chunks_64(DeltaRule) delta_chunks_128(DeltaRule)
        scan_chunks_64(SelectiveScan) scan_chunks_128(SelectiveScan);
    "channel_scan":
        channel_scan_16(ChannelScan) channel_scan_64(ChannelScan);
    "layers":
        values_of_keys(ValuesOfKeys) scale_rows(ScaleRows) scale_routes(ScaleRoutes)
        weigh_inputs(WeighInputs);
    "vision":
        put_patches(PutPatches) add_places(AddPlaces) turn_rows(TurnRows)
        mean_rows(MeanRows) standardise(Standardise) copy_rows(CopyRows)
        add_row_pairs(CopyRows) blend_rows(BlendRows)
        attend_spans(AttendSpans);
    "drafts":
        put_columns(PutColumns) store_hidden(HiddenRows) load_hidden(HiddenRows)
        begin_unread(BeginUnread) put_unread(PutUnread) keep_unread(KeepUnread)
        spread_logits(SpreadLogits);
    "attention_spans":
        spans_short_64(AttendSpans) spans_short_80(AttendSpans) spans_short_96(AttendSpans)
        spans_short_128(AttendSpans)
        spans_long_64(AttendSpans) spans_long_80(AttendSpans) spans_long_96(AttendSpans)
        spans_long_128(AttendSpans);
    "experts":
        route_rows(RouteRows) group_rows(GroupRows)
        experts_up_narrow(MultiplyExperts) experts_up_wide(MultiplyExperts)
        experts_up_plain(MultiplyExperts)
        experts_down_narrow(MultiplyExperts) experts_down_wide(MultiplyExperts)
        experts_down_plain(MultiplyExperts)
        combine_experts(CombineExperts) add_gated(AddGated);
    "experts_few":
        experts_few_8(FewExperts) route_few_8(RouteFew);
    "experts_small":
        experts_small_up(SmallGemm) experts_small_up_gated(SmallGemm)
        experts_small_down(SmallGemm) experts_small_down_eights(SmallGemm)
        route_small(RouteSmall);
    "coded_experts_small":
        coded_up_e4m3(CodedSmall) coded_up_int8(CodedSmall)
        coded_up_int4(CodedSmall) coded_up_e2m1(CodedSmall)
        coded_down_e4m3(CodedSmall) coded_down_int8(CodedSmall)
        coded_down_int4(CodedSmall) coded_down_e2m1(CodedSmall);
    "coded_experts_few":
        coded_few_8_e4m3(CodedFewExperts) coded_few_8_int8(CodedFewExperts)
        coded_few_8_int4(CodedFewExperts) coded_few_8_e2m1(CodedFewExperts)
        coded_few_16_e4m3(CodedFewExperts) coded_few_16_int8(CodedFewExperts)
        coded_few_16_int4(CodedFewExperts) coded_few_16_e2m1(CodedFewExperts);
    "adapters":
        adapter_shrink(AdapterShrink) adapter_expand(AdapterExpand)
        adapter_expand_logits(AdapterExpand) embed_adapted(EmbedAdapted);
    "gemm": gemm_plain(PlainGemm) gemm_logits(PlainGemm) flush(Flush);
    "gemm_small_m":
        gemm_small_m(SmallGemm) gemm_small_m_eights(SmallGemm)
        gemm_small_m_gated(SmallGemm) gemm_small_m_logits(SmallGemm)
        gemm_small_m_pushed(SmallGemm) gemm_small_m_pushed_eights(SmallGemm);
    "gemm_tiles":
        gemm_tiles_16(TiledGemm) gemm_tiles_e4m3_16(TiledGemm)
        gemm_tiles_e4m3_32(TiledGemm);
    "gemm_rows":
        gemm_rows_64(RowsGemm) gemm_rows_e4m3_64(RowsGemm)
        gemm_rows_plain_64(RowsGemm) gemm_rows_gated_64(RowsGemm)
        gemm_rows_80(RowsGemm) gemm_rows_e4m3_80(RowsGemm)
        gemm_rows_plain_80(RowsGemm) gemm_rows_gated_80(RowsGemm)
        gemm_rows_96(RowsGemm) gemm_rows_e4m3_96(RowsGemm)
        gemm_rows_plain_96(RowsGemm) gemm_rows_gated_96(RowsGemm)
        gemm_rows_128(RowsGemm) gemm_rows_e4m3_128(RowsGemm)
        gemm_rows_plain_128(RowsGemm) gemm_rows_gated_128(RowsGemm)
        gemm_rows_160(RowsGemm) gemm_rows_e4m3_160(RowsGemm)
        gemm_rows_plain_160(RowsGemm) gemm_rows_gated_160(RowsGemm)
        gemm_rows_192(RowsGemm) gemm_rows_e4m3_192(RowsGemm)
        gemm_rows_plain_192(RowsGemm) gemm_rows_gated_192(RowsGemm)
        gemm_rows_224(RowsGemm) gemm_rows_e4m3_224(RowsGemm)
        gemm_rows_plain_224(RowsGemm) gemm_rows_gated_224(RowsGemm)
        gemm_rows_256(RowsGemm) gemm_rows_e4m3_256(RowsGemm)
        gemm_rows_plain_256(RowsGemm) gemm_rows_gated_256(RowsGemm)
        gemm_rows_residual_64(RowsGemm) gemm_rows_residual_80(RowsGemm)
        gemm_rows_residual_96(RowsGemm);
    "gemm_rows_more":
        gemm_rows_more_64(MoreRowsGemm) gemm_rows_more_80(MoreRowsGemm)
        gemm_rows_more_96(MoreRowsGemm) gemm_rows_more_112(MoreRowsGemm)
        gemm_rows_more_128(MoreRowsGemm) gemm_rows_more_160(MoreRowsGemm)
        gemm_rows_more_192(MoreRowsGemm) gemm_rows_more_224(MoreRowsGemm)
        gemm_rows_more_256(MoreRowsGemm);
    "codes":
        place_codes(PlaceCodes) place_scales(PlaceScales) dummy_codes(DummyCodes)
        largest_weights(LargestWeights) encode_weights(EncodeWeights) unpack_codes(UnpackCodes)
        round_inputs(RoundInputs) gated_round(GatedRound)
        scale_act(ScaleAct) scale_gated(ScaleGated) scale_logits(ScaleLogits);
    "coded_small_m":
        coded_small_e4m3(CodedSmall) coded_small_e4m3_bytes(CodedSmall)
        coded_small_e4m3_bytes_pushed(CodedSmall) coded_small_e4m3_row(CodedSmall)
        coded_small_e4m3_row_pushed(CodedSmall) coded_small_e4m3_normed(CodedSmall)
        coded_small_int8(CodedSmall)
        coded_small_int4(CodedSmall) coded_small_e2m1(CodedSmall)
        coded_small_table(CodedSmall);
    "coded_wgmma":
        coded_few_e4m3(CodedTiles) coded_few_int8(CodedTiles)
        coded_few_int4(CodedTiles) coded_few_e2m1(CodedTiles)
        coded_many_e4m3(CodedTiles) coded_many_int8(CodedTiles)
        coded_many_int4(CodedTiles) coded_many_e2m1(CodedTiles);
    "coded_experts":
        coded_experts_few_e4m3(CodedTiles) coded_experts_few_int8(CodedTiles)
        coded_experts_few_int4(CodedTiles) coded_experts_few_e2m1(CodedTiles)
        coded_experts_many_e4m3(CodedTiles) coded_experts_many_int8(CodedTiles)
        coded_experts_many_int4(CodedTiles) coded_experts_many_e2m1(CodedTiles);
    "sampler":
        mask_rows(MaskRows) adjust_rows(AdjustRows) scan_rows(ScanRows) draw_rows(DrawRows)
        accept_drafts(AcceptDrafts);
    "logprobs": keep_rows(KeepRows) report_parts(ReportParts) report_rows(ReportRows);
    "weights":
        convert_matrix(ConvertWeight) convert_vector(ConvertWeight)
        turn_matrix(TurnWeight) turn_vector(TurnWeight)
        dummy_matrix(DummyWeight) dummy_vector(DummyWeight)
        constant_matrix(ConstantWeight) constant_vector(ConstantWeight);
}

#[cfg(test)]
mod cubins;

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(capability: u32, exact: bool, ptx: bool) -> Binary {
        Binary { file: "x", act: "f32", capability, exact, ptx, image: &[] }
    }

    #[test]
    fn machine_code_fits_its_own_generation() {
        assert_eq!(binary(80, false, false).fit(86), Some(80));
        assert_eq!(binary(86, false, false).fit(80), None);
        assert_eq!(binary(89, false, false).fit(90), None);
        assert_eq!(binary(90, true, false).fit(90), Some(90));
        assert_eq!(binary(90, true, false).fit(100), None);
        assert_eq!(binary(100, false, false).fit(103), Some(100));
        // PTX fits whatever came later, and yields to any machine code.
        assert_eq!(binary(80, false, true).fit(110), Some(0));
    }
}
