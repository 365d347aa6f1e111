//! y = x W^T through cuBLASLt, with an own plan cache. `Cuda`'s linear ops call it; it knows no
//! weight's name and no step.
//!
//! Descriptors are made once per exact shape; the algorithm is chosen once per (shape, bucket of
//! rows): the library names its best few, each is timed on the real operands, with the weights out
//! of L2 as a step finds them, and the fastest stays. Rows of the same bucket reuse it after a
//! check, and so does the next start (`gemm_choices`). Row-major y[R, N] = x[R, K] W[N, K]^T is
//! column-major y^T = (W^T)^T x^T, so W is operand A, transposed, and nothing is copied. f32 is
//! computed in f32: cuBLASLt takes tf32 only where it is asked for.
//!
//! A shape that the library has no algorithm for goes to a plain kernel of ours.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::size_of_val;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self as lt, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference,
};
use cudarc::driver::sys::CUstream;

use super::abi;
use super::context::{Context, Event};
use super::device_ptr::DevicePtr;
use super::gemm_choices::{bucket, GemmChoices, Key};
use super::gemm_product::{Operands, Product};
use super::memory::Memory;
use super::module::Kernels;
use crate::device::DType;
use crate::error::{Error, Result};
use crate::internal;

/// What cuBLASLt may use for split sums; NVIDIA's advice for Hopper.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Candidates that are timed per bucket, and timed runs of each after one to warm up; of many rows,
/// where a run takes milliseconds and the library's own order is better, fewer.
const CANDIDATES: usize = 8;
const RUNS: usize = 3;
const MANY_ROWS: usize = 256;
const CANDIDATES_OF_MANY: usize = 6;
const RUNS_OF_MANY: usize = 2;
/// Elements of the weights or of the results; a product of fewer takes a launch's time whatever
/// multiplies it.
const WORTH_TIMING: usize = 1 << 19;
/// Read between timed runs, so that L2 (50-60 MB on Hopper, 126 MB on Blackwell) keeps no weight.
const FLUSH_BYTES: usize = 160 << 20;

/// Every function of cuBLASLt that is used here (build/symbols.rs).
const SYMBOLS: &[&str] = include!(concat!(env!("OUT_DIR"), "/cublaslt_symbols.rs"));

fn check(status: lt::cublasStatus_t, what: &str) -> Result<()> {
    if status == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    Err(internal!("cuBLASLt: {what} failed: {status:?}"))
}

struct Layout(lt::cublasLtMatrixLayout_t);

impl Layout {
    /// Column-major: `rows` is the fast dimension, `distance` that between columns.
    fn new(kind: lt::cudaDataType, rows: usize, columns: usize, distance: usize) -> Result<Layout> {
        let mut layout = ptr::null_mut();
        // SAFETY: a live handle to write to.
        let status = unsafe {
            lt::cublasLtMatrixLayoutCreate(
                &mut layout,
                kind,
                rows as u64,
                columns as u64,
                distance as i64,
            )
        };
        check(status, "cublasLtMatrixLayoutCreate").map(|()| Layout(layout))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        unsafe { lt::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// Everything that a product of one exact shape needs. No algorithm: the plain kernel.
struct TunedGemm {
    w: Layout,
    x: Layout,
    y: Layout,
    algorithm: Option<lt::cublasLtMatmulAlgo_t>,
}

pub struct Gemm {
    context: Arc<Context>,
    handle: lt::cublasLtHandle_t,
    descriptor: lt::cublasLtMatmulDesc_t,
    /// Of products of E4M3.
    descriptor_e4m3: lt::cublasLtMatmulDesc_t,
    /// Of those that the library scales; null where it is too old for that.
    descriptor_scaled: lt::cublasLtMatmulDesc_t,
    preference: lt::cublasLtMatmulPreference_t,
    workspace: Memory,
    kind: lt::cudaDataType,
    plans: HashMap<Key, TunedGemm>,
    choices: GemmChoices,
}

// SAFETY: cuBLASLt's handles may be used from any thread, one at a time; `Gemm` has one owner.
unsafe impl Send for Gemm {}

/// # Errors
/// Unavailable: the library is missing or too old, with what to install.
fn probe() -> Result<()> {
    let hint = "Install libcublasLt.so.12 or .13 (CUDA's libcublas, part of the tritonserver \
                container) and put its folder in LD_LIBRARY_PATH.";
    // SAFETY: opens the library; its initialisers are NVIDIA's.
    if !unsafe { lt::is_culib_present() } {
        return Err(Error::Unavailable(format!("cuBLASLt was not found. {hint}")));
    }
    // SAFETY: the library is there, so `culib` does not panic; symbols are only looked up.
    let missing = SYMBOLS
        .iter()
        .find(|name| unsafe { lt::culib().get::<*const c_void>(name.as_bytes()).is_err() });
    match missing {
        Some(name) => {
            Err(Error::Unavailable(format!("cuBLASLt is too old: it has no {name}. {hint}")))
        }
        None => Ok(()),
    }
}

impl Gemm {
    /// # Errors
    /// Unavailable: no cuBLASLt, or no room for its workspace.
    pub fn new(context: &Arc<Context>, dtype: DType) -> Result<Gemm> {
        probe()?;
        context.bind()?;
        let kind = match dtype {
            DType::F32 => lt::cudaDataType_t::CUDA_R_32F,
            DType::F16 => lt::cudaDataType_t::CUDA_R_16F,
            DType::BF16 => lt::cudaDataType_t::CUDA_R_16BF,
        };
        let mut gemm = Gemm {
            context: context.clone(),
            handle: ptr::null_mut(),
            descriptor: ptr::null_mut(),
            descriptor_e4m3: ptr::null_mut(),
            descriptor_scaled: ptr::null_mut(),
            preference: ptr::null_mut(),
            workspace: Memory::new(context, WORKSPACE_BYTES, "cuBLASLt's workspace")?,
            kind,
            plans: HashMap::new(),
            choices: GemmChoices::new(dtype),
        };
        gemm.create()?;
        gemm.scale_by_vectors();
        Ok(gemm)
    }

    /// Sums of E4M3 are to be scaled by a vector for each side; libraries before 12.9 know no such
    /// mode.
    fn scale_by_vectors(&mut self) {
        let mode = lt::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        let sides = [
            Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
            Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
        ];
        // SAFETY: a live descriptor; the mode is read from a live value of the size that is given.
        let known = sides.iter().all(|side| unsafe {
            lt::cublasLtMatmulDescSetAttribute(
                self.descriptor_scaled,
                *side,
                ptr::from_ref(&mode).cast(),
                size_of_val(&mode),
            ) == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS
        });
        if !known {
            // SAFETY: made in `create`, destroyed once: Drop passes over null.
            unsafe { lt::cublasLtMatmulDescDestroy(self.descriptor_scaled) };
            self.descriptor_scaled = ptr::null_mut();
        }
    }

    fn create(&mut self) -> Result<()> {
        // CUBLAS_OP_T; cudarc's cublaslt has no name for it.
        let transposed: i32 = 1;
        let fast: i8 = 1;
        let bytes = WORKSPACE_BYTES;
        // SAFETY: handles are written to live fields, attributes are read from live values of the
        // size that is given; what was made is destroyed in Drop, also when a later call fails.
        unsafe {
            check(lt::cublasLtCreate(&mut self.handle), "cublasLtCreate")?;
            for descriptor in
                [&mut self.descriptor, &mut self.descriptor_e4m3, &mut self.descriptor_scaled]
            {
                check(
                    lt::cublasLtMatmulDescCreate(
                        descriptor,
                        lt::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                        lt::cudaDataType_t::CUDA_R_32F,
                    ),
                    "cublasLtMatmulDescCreate",
                )?;
                check(
                    lt::cublasLtMatmulDescSetAttribute(
                        *descriptor,
                        Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                        ptr::from_ref(&transposed).cast(),
                        size_of_val(&transposed),
                    ),
                    "setting TRANSA",
                )?;
            }
            for descriptor in [self.descriptor_e4m3, self.descriptor_scaled] {
                check(
                    lt::cublasLtMatmulDescSetAttribute(
                        descriptor,
                        Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                        ptr::from_ref(&fast).cast(),
                        size_of_val(&fast),
                    ),
                    "setting FAST_ACCUM",
                )?;
            }
            check(
                lt::cublasLtMatmulPreferenceCreate(&mut self.preference),
                "cublasLtMatmulPreferenceCreate",
            )?;
            check(
                lt::cublasLtMatmulPreferenceSetAttribute(
                    self.preference,
                    Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                    ptr::from_ref(&bytes).cast(),
                    size_of_val(&bytes),
                ),
                "setting the workspace's size",
            )
        }
    }

    /// Take algorithms that an earlier start left in this folder, and keep new ones there.
    pub fn remember(&mut self, folder: &Path) {
        // SAFETY: `probe` found the function; it takes nothing.
        let library = unsafe { lt::cublasLtGetVersion() };
        self.choices.remember(folder, &self.context, library);
    }

    /// What was chosen so far is there for the next start.
    pub fn keep_choices(&mut self) {
        self.choices.keep();
    }

    /// Enqueue a product. The first one of a bucket also chooses its algorithm, which waits for the
    /// GPU.
    pub fn run(&mut self, kernels: &Kernels, product: &Product) -> Result<()> {
        if product.rows == 0 {
            return Ok(());
        }
        let key = Key::of(product, product.rows);
        if !self.plans.contains_key(&key) {
            let plan = self.plan(kernels, product)?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        match &plan.algorithm {
            Some(algorithm) => {
                let (y, beta) =
                    product.added_to.map_or((product.y, 0.0), |added_to| (added_to, 1.0));
                let product = Product { y, ..*product };
                let operands = product.w.address() ^ y.address();
                self.context.launch(operands, product.rows as u64, |stream| {
                    check(self.multiply(plan, algorithm, &product, beta, stream), "cublasLtMatmul")
                        .map_err(|e| e.context(&format!("{}: ", key.shape())))
                })
            }
            None => self.plain(kernels, product),
        }
    }

    /// The same with E4M3 operands whose sums are multiplied by a factor of each output and one of
    /// each row, f32 both. False: the library does not do that, nothing was enqueued.
    pub fn run_scaled(
        &mut self,
        kernels: &Kernels,
        product: &Product,
        outputs: DevicePtr,
        rows: DevicePtr,
    ) -> Result<bool> {
        if self.descriptor_scaled.is_null() {
            return Ok(false);
        }
        let pointers = [
            (Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, outputs.address()),
            (Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, rows.address()),
        ];
        for (attribute, pointer) in pointers {
            // SAFETY: a live descriptor, an address that is read as one before this returns.
            let status = unsafe {
                lt::cublasLtMatmulDescSetAttribute(
                    self.descriptor_scaled,
                    attribute,
                    ptr::from_ref(&pointer).cast(),
                    size_of_val(&pointer),
                )
            };
            check(status, "setting a scale's address")?;
        }

        let product = Product { operands: Operands::ScaledE4m3, ..*product };
        let key = Key::of(&product, product.rows);
        if !self.plans.contains_key(&key) {
            let plan = self.plan(kernels, &product)?;
            self.plans.insert(key, plan);
        }
        if self.plans[&key].algorithm.is_none() {
            return Ok(false);
        }
        self.run(kernels, &product)?;
        Ok(true)
    }

    /// y = x W^T + beta y.
    fn multiply(
        &self,
        plan: &TunedGemm,
        algorithm: &lt::cublasLtMatmulAlgo_t,
        product: &Product,
        beta: f32,
        stream: CUstream,
    ) -> lt::cublasStatus_t {
        let one = 1f32;
        // SAFETY: all handles live; the operands are live device memory of at least the layouts'
        // sizes (the ops check rows and widths); scalars are on the host, as the descriptor says
        // by default.
        unsafe {
            lt::cublasLtMatmul(
                self.handle,
                self.descriptor_of(product.operands),
                ptr::from_ref(&one).cast(),
                product.w.as_ptr(),
                plan.w.0,
                product.x.as_ptr(),
                plan.x.0,
                ptr::from_ref(&beta).cast(),
                product.y.as_ptr(),
                plan.y.0,
                product.y.as_ptr(),
                plan.y.0,
                algorithm,
                self.workspace.address.as_ptr(),
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
    }

    fn descriptor_of(&self, operands: Operands) -> lt::cublasLtMatmulDesc_t {
        match operands {
            Operands::Activations => self.descriptor,
            Operands::E4m3 => self.descriptor_e4m3,
            Operands::ScaledE4m3 => self.descriptor_scaled,
        }
    }

    fn plain(&self, kernels: &Kernels, p: &Product) -> Result<()> {
        const TILE: usize = abi::GEMM_TILE as usize;
        if p.operands != Operands::Activations {
            return Err(internal!("cuBLASLt multiplies no E4M3 of {} x {}", p.outputs, p.inputs));
        }
        let kernel = if p.logits { &kernels.gemm_logits } else { &kernels.gemm_plain };
        let blocks = [p.outputs.div_ceil(TILE), p.rows.div_ceil(TILE)];
        let threads = (TILE * TILE) as u32;
        kernel.launch(
            &self.context,
            blocks,
            threads,
            &abi::PlainGemm {
                x: p.x,
                w: p.w,
                y: p.y,
                rows: p.rows as u32,
                outputs: p.outputs as u32,
                inputs: p.inputs as u32,
                stride: p.stride as u32,
            },
        )?;

        let Some(residual) = p.added_to else { return Ok(()) };
        let sum = abi::AddRows { delta: p.y, residual, width: p.outputs as u32 };
        kernels.add_rows.launch(&self.context, [p.rows, 1], threads, &sum)
    }

    fn plan(&mut self, kernels: &Kernels, product: &Product) -> Result<TunedGemm> {
        let Product { rows, outputs, inputs, stride, logits, operands, .. } = *product;
        let result = if logits { lt::cudaDataType_t::CUDA_R_32F } else { self.kind };
        let kind = match operands {
            Operands::Activations => self.kind,
            Operands::E4m3 | Operands::ScaledE4m3 => lt::cudaDataType_t::CUDA_R_8F_E4M3,
        };
        let mut plan = TunedGemm {
            w: Layout::new(kind, inputs, outputs, inputs)?,
            x: Layout::new(kind, inputs, rows, inputs)?,
            y: Layout::new(result, outputs, rows, stride)?,
            algorithm: None,
        };
        let key = Key::of(product, bucket(rows));
        let known = self.choices.get(&key).filter(|known| self.fits(&plan, operands, known));
        plan.algorithm = match known {
            Some(known) => Some(known),
            None => self.choose(kernels, &plan, product)?,
        };
        if let Some(algorithm) = plan.algorithm {
            self.choices.note(key, algorithm);
        }
        Ok(plan)
    }

    fn fits(
        &self,
        plan: &TunedGemm,
        operands: Operands,
        algorithm: &lt::cublasLtMatmulAlgo_t,
    ) -> bool {
        let mut result = no_result();
        // SAFETY: live handles, layouts and result.
        let status = unsafe {
            lt::cublasLtMatmulAlgoCheck(
                self.handle,
                self.descriptor_of(operands),
                plan.w.0,
                plan.x.0,
                plan.y.0,
                plan.y.0,
                algorithm,
                &mut result,
            )
        };
        status == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && result.workspaceSize <= WORKSPACE_BYTES
    }

    /// The least milliseconds of a few runs, each from device memory.
    fn time(
        &self,
        kernels: &Kernels,
        flush: Option<&Memory>,
        runs: usize,
        run: &dyn Fn() -> lt::cublasStatus_t,
    ) -> Result<f32> {
        let (start, end) = (Event::new(&self.context, true)?, Event::new(&self.context, true)?);
        let mut least = f32::INFINITY;
        for _ in 0..runs {
            if let Some(Memory { address, .. }) = flush {
                let count = FLUSH_BYTES / 4 - 1;
                let never = address.offset_words(count);
                let parameters = abi::Flush { words: *address, count: count as u64, never };
                kernels.flush.launch(&self.context, [1024, 1], 256, &parameters)?;
            }
            start.record()?;
            check(run(), "cublasLtMatmul")?;
            end.record()?;
            end.wait()?;
            least = least.min(end.since_ms(&start)?);
        }
        Ok(least)
    }

    /// The fastest of the library's first few, on the real operands. None: it has none.
    fn choose(
        &self,
        kernels: &Kernels,
        plan: &TunedGemm,
        product: &Product,
    ) -> Result<Option<lt::cublasLtMatmulAlgo_t>> {
        let mut found = [no_result(); CANDIDATES];
        let mut count = 0;
        // SAFETY: live handles and layouts; `found` has room for CANDIDATES results.
        let status = unsafe {
            lt::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.descriptor_of(product.operands),
                plan.w.0,
                plan.x.0,
                plan.y.0,
                plan.y.0,
                self.preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        if status != lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(None);
        }
        let candidates = &found[..count as usize];
        let Product { rows, outputs, inputs, .. } = *product;
        if candidates.len() <= 1 || outputs * inputs.max(rows) < WORTH_TIMING {
            return Ok(candidates.first().map(|first| first.algo));
        }
        // Without room for it the weights are timed from wherever they are.
        let flush = Memory::new(&self.context, FLUSH_BYTES, "timing").ok();
        let many = rows > MANY_ROWS;
        let (most, runs) =
            if many { (CANDIDATES_OF_MANY, RUNS_OF_MANY) } else { (CANDIDATES, RUNS) };
        let mut best = None;
        for candidate in candidates.iter().take(most) {
            let run = || self.multiply(plan, &candidate.algo, product, 0.0, self.context.stream());
            if run() != lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
                continue;
            }
            let ms = self.time(kernels, flush.as_ref(), runs, &run)?;
            if best.is_none_or(|(least, _)| ms < least) {
                best = Some((ms, candidate.algo));
            }
        }
        if let Some((ms, _)) = best {
            tracing::debug!("GEMM {rows} x {outputs} x {inputs}: {:.1} us", ms * 1e3);
        }
        Ok(best.map(|(_, algorithm)| algorithm))
    }
}

fn no_result() -> lt::cublasLtMatmulHeuristicResult_t {
    lt::cublasLtMatmulHeuristicResult_t {
        algo: lt::cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: lt::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

impl Drop for Gemm {
    fn drop(&mut self) {
        // Those of sizes that requests had and the rehearsal had not.
        self.choices.keep();
        self.plans.clear();
        // SAFETY: made in `create` or null; destroyed once, after the stream that may still use
        // them.
        unsafe {
            if self.context.bind().is_ok() {
                let _ = self.context.synchronise();
            }
            if !self.preference.is_null() {
                lt::cublasLtMatmulPreferenceDestroy(self.preference);
            }
            for descriptor in [self.descriptor, self.descriptor_e4m3, self.descriptor_scaled] {
                if !descriptor.is_null() {
                    lt::cublasLtMatmulDescDestroy(descriptor);
                }
            }
            if !self.handle.is_null() {
                lt::cublasLtDestroy(self.handle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SYMBOLS;

    #[test]
    fn symbols_are_those_that_are_used() {
        assert!(SYMBOLS.contains(&"cublasLtMatmulAlgoGetHeuristic"), "{SYMBOLS:?}");
        assert!(!SYMBOLS.iter().any(|name| name.ends_with("_t")), "{SYMBOLS:?}");
        assert!(SYMBOLS.iter().all(|name| name.starts_with("cublasLt")), "{SYMBOLS:?}");
    }
}
