//! The kernels' half of the build script: every `src/device/cuda/kernels/*.cu` through NVRTC to one
//! cubin per architecture (and PTX for cards that came later), written to OUT_DIR with an index
//! that `device/cuda/module.rs` includes. Called by `build.rs` with the feature `cuda`; it never
//! needs a GPU, a CUDA toolkit or a host compiler.
//!
//! NVRTC comes from a wheel, in the virtual environment `target/venv` or wherever
//! `TRITON_VLLM_NVRTC` says. `TRITON_VLLM_CUDA_ARCHS` (e.g. `90a`) narrows the architectures for
//! quick builds. Results are kept in OUT_DIR by a hash of everything that goes in, and found there
//! by other builds of this package, so only what changed is compiled.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, CStr, CString};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

const FOLDER: &str = "src/device/cuda/kernels";
const WHEEL: &str = "nvidia-cuda-nvrtc-cu12==12.9.86";
/// Compute capabilities with machine code. 9.0 has `a`: wgmma and TMA exist in no compatible form.
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// The virtual architecture for everything else.
const PTX: &str = "80";
/// Kernels over f32, integers or bytes alone: one compilation. All others: one per element type.
const UNTYPED: [&str; 3] = ["step", "sampler", "logprobs"];
const TYPES: [&str; 3] = ["f32", "f16", "bf16"];

/// What tells one NVRTC from another, wherever it lies: major and minor version, size of the
/// library.
type Compiler = (c_int, c_int, u64);

/// Headers by name.
type Headers = BTreeMap<String, String>;

/// One compilation.
struct Job {
    /// Name of the file without `.cu`.
    file: String,
    /// Index into [`TYPES`]; 0 for [`UNTYPED`] files.
    act: usize,
    /// e.g. `sm_90a` or `compute_80`.
    target: String,
    source: String,
    hash: u64,
}

impl Job {
    fn output(&self, out: &Path) -> PathBuf {
        out.join(format!("{}.{}.{}.bin", self.file, TYPES[self.act], self.target))
    }
}

/// Compile what changed and write `kernels.rs`.
///
/// # Errors
/// A text for the user: no NVRTC, or a kernel that does not compile, with the compiler's log.
pub fn build() -> Result<(), String> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?);
    let out = PathBuf::from(std::env::var("OUT_DIR").map_err(|e| e.to_string())?);
    println!("cargo:rerun-if-changed={FOLDER}");
    println!("cargo:rerun-if-env-changed=TRITON_VLLM_NVRTC");
    println!("cargo:rerun-if-env-changed=TRITON_VLLM_CUDA_ARCHS");
    let library = find_nvrtc(&root)?;
    let nvrtc = Nvrtc::open(&library)?;
    let jobs = jobs(&root.join(FOLDER), &targets(), &nvrtc.identity(&library)?)?;
    compile_all(&nvrtc, &jobs, &root.join(FOLDER), &out)?;
    let index = jobs.iter().map(|job| index_line(job, &out)).collect::<String>();
    let text = format!(
        "/// Files that are compiled for no element type in particular.\n\
         const UNTYPED: &[&str] = &{UNTYPED:?};\n\
         static BINARIES: &[Binary] = &[\n{index}];\n"
    );
    fs::write(out.join("kernels.rs"), text).map_err(|e| format!("kernels.rs: {e}"))
}

fn index_line(job: &Job, out: &Path) -> String {
    let digits: String = job.target.chars().filter(char::is_ascii_digit).collect();
    format!(
        "    Binary {{ file: {:?}, act: {:?}, capability: {digits}, exact: {}, ptx: {}, \
         image: include_bytes!({:?}) }},\n",
        job.file,
        TYPES[job.act],
        job.target.ends_with('a'),
        job.target.starts_with("compute"),
        job.output(out)
    )
}

fn targets() -> Vec<String> {
    let wanted = std::env::var("TRITON_VLLM_CUDA_ARCHS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split([',', ' ']).filter(|a| !a.is_empty()).collect();
    if wanted.is_empty() {
        let cubins = ARCHITECTURES.iter().map(|a| format!("sm_{a}"));
        return cubins.chain([format!("compute_{PTX}")]).collect();
    }
    wanted.iter().map(|a| format!("sm_{a}")).collect()
}

fn find_nvrtc(root: &Path) -> Result<PathBuf, String> {
    const NAME: &str = "libnvrtc.so.12";
    let mut places = Vec::new();
    if let Some(given) = std::env::var_os("TRITON_VLLM_NVRTC") {
        places.push(PathBuf::from(&given));
        places.push(PathBuf::from(&given).join(NAME));
    }
    let mut targets = vec![root.join("target")];
    targets.extend(std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    for target in targets {
        let pythons = fs::read_dir(target.join("venv/lib")).into_iter().flatten().flatten();
        let wheel = Path::new("site-packages/nvidia/cuda_nvrtc/lib").join(NAME);
        places.extend(pythons.map(|python| python.path().join(&wheel)));
    }
    places.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        format!(
            "The feature `cuda` compiles its kernels with NVRTC, and {NAME} was found neither in \
             target/venv nor at TRITON_VLLM_NVRTC. Either: python3 -m venv target/venv && \
             target/venv/bin/pip install {WHEEL}   or build without GPUs: --no-default-features."
        )
    })
}

fn jobs(folder: &Path, targets: &[String], compiler: &Compiler) -> Result<Vec<Job>, String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let read = |p: &PathBuf| fs::read_to_string(p).map_err(|e| format!("{}: {e}", p.display()));
    let mut headers = Headers::new();
    let mut sources = Vec::new();
    for path in &files {
        match path.extension().and_then(|e| e.to_str()) {
            Some("h" | "cuh") => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                headers.insert(name, read(path)?);
            }
            Some("cu") => sources.push((path, read(path)?)),
            _ => {}
        }
    }
    let mut jobs = Vec::new();
    for (path, source) in sources {
        let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut included = BTreeSet::new();
        include(&source, &headers, &mut included);
        let headers: Vec<&String> = included.iter().filter_map(|name| headers.get(name)).collect();

        let types = if UNTYPED.contains(&file.as_str()) { 1 } else { TYPES.len() };
        for act in 0..types {
            for target in targets {
                let mut hasher = DefaultHasher::new();
                (&source, &headers, act, target, compiler, include_str!("kernels.rs"))
                    .hash(&mut hasher);
                jobs.push(Job {
                    file: file.clone(),
                    act,
                    target: target.clone(),
                    source: source.clone(),
                    hash: hasher.finish(),
                });
            }
        }
    }
    Ok(jobs)
}

/// The names of the headers that `source` includes, directly or by another one.
fn include(source: &str, headers: &Headers, into: &mut BTreeSet<String>) {
    let names =
        source.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next());
    for name in names {
        if let Some(header) = headers.get(name).filter(|_| into.insert(name.to_owned())) {
            include(header, headers, into);
        }
    }
}

fn compile_all(nvrtc: &Nvrtc, jobs: &[Job], folder: &Path, out: &Path) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = compile(nvrtc, job, folder, out) {
                        errors.lock().unwrap_or_else(|e| e.into_inner()).push(e);
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap_or_else(|e| e.into_inner());
    errors.into_iter().next().map_or(Ok(()), Err)
}

fn compile(nvrtc: &Nvrtc, job: &Job, folder: &Path, out: &Path) -> Result<(), String> {
    let output = job.output(out);
    let stamp = output.with_extension("hash");
    let hash = job.hash.to_string();
    if is_made(&output, &hash) {
        return Ok(());
    }

    let write = |image: &[u8]| {
        // In this order: a stamp never stands beside what it does not describe.
        let _ = fs::remove_file(&stamp);
        fs::write(&output, image)?;
        fs::write(&stamp, &hash)
    };
    if let Some(image) = made_elsewhere(&output, &hash) {
        return write(&image).map_err(|e| e.to_string());
    }

    let options = [
        format!("--gpu-architecture={}", job.target),
        format!("--include-path={}", folder.display()),
        format!("-DACT={}", job.act),
        format!("-DARCH={}", job.target.chars().filter(char::is_ascii_digit).collect::<String>()),
        "--std=c++17".to_string(),
    ];
    let image = nvrtc
        .compile(&job.source, &format!("{}.cu", job.file), &options)
        .map_err(|e| format!("{}.cu for {} ({}): {e}", job.file, job.target, TYPES[job.act]))?;
    write(&image).map_err(|e| e.to_string())
}

/// Whether `output` is there and came of what has this hash.
fn is_made(output: &Path, hash: &str) -> bool {
    let stamp = fs::read_to_string(output.with_extension("hash"));
    output.is_file() && stamp.is_ok_and(|made_of| made_of == hash)
}

/// The same output in the folder of another build of this package: lints and tests have one each.
fn made_elsewhere(output: &Path, hash: &str) -> Option<Vec<u8>> {
    let name = output.file_name()?;
    let builds = output.parent()?.parent()?.parent()?;
    let others =
        fs::read_dir(builds).ok()?.flatten().map(|build| build.path().join("out").join(name));
    let same = others.filter(|other| is_made(other, hash)).find_map(|other| fs::read(other).ok());
    same.filter(|image| !image.is_empty())
}

type Program = *mut std::ffi::c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The few functions of NVRTC that we call.
struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    error_text: unsafe extern "C" fn(c_int) -> *const c_char,
    log: (Size, Bytes),
    cubin: (Size, Bytes),
    ptx: (Size, Bytes),
    _library: libloading::Library,
}

impl Nvrtc {
    fn open(path: &Path) -> Result<Nvrtc, String> {
        let fail = |e: libloading::Error| format!("{}: {e}", path.display());
        // SAFETY: a library of NVIDIA's without initialisers that would disturb us; the types of
        // its functions are those of nvrtc.h, and the pointers live no longer than `_library`.
        unsafe {
            let lib = libloading::Library::new(path).map_err(fail)?;
            macro_rules! symbol {
                ($name:literal) => {
                    *lib.get(concat!($name, "\0").as_bytes()).map_err(fail)?
                };
            }
            Ok(Nvrtc {
                version: symbol!("nvrtcVersion"),
                create: symbol!("nvrtcCreateProgram"),
                destroy: symbol!("nvrtcDestroyProgram"),
                compile: symbol!("nvrtcCompileProgram"),
                error_text: symbol!("nvrtcGetErrorString"),
                log: (symbol!("nvrtcGetProgramLogSize"), symbol!("nvrtcGetProgramLog")),
                cubin: (symbol!("nvrtcGetCUBINSize"), symbol!("nvrtcGetCUBIN")),
                ptx: (symbol!("nvrtcGetPTXSize"), symbol!("nvrtcGetPTX")),
                _library: lib,
            })
        }
    }

    fn identity(&self, path: &Path) -> Result<Compiler, String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two integers.
        self.check(unsafe { (self.version)(&mut major, &mut minor) }, "")?;
        let file = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok((major, minor, file.len()))
    }

    fn check(&self, code: c_int, log: &str) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a static text for any code.
        let text = unsafe { CStr::from_ptr((self.error_text)(code)) };
        Err(format!("{}\n{log}", text.to_string_lossy()))
    }

    /// PTX for a virtual architecture, a cubin otherwise.
    fn compile(&self, source: &str, name: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|e| e.to_string());
        let source = text(source)?;
        let name = text(name)?;
        let virtual_target = options.iter().any(|o| o.contains("=compute_"));
        let options = options.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: all pointers are to live, terminated strings; `program` is made, used and
        // destroyed by this thread alone.
        unsafe {
            let made = (self.create)(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            );
            self.check(made, "")?;
            let code = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
            let log = String::from_utf8_lossy(&fetch(program, self.log)).into_owned();
            let result = self
                .check(code, &log)
                .map(|()| fetch(program, if virtual_target { self.ptx } else { self.cubin }));
            (self.destroy)(&mut program);
            if result.is_ok() && log.contains("warning") {
                println!("cargo:warning={}", log.replace('\n', " "));
            }
            result
        }
    }
}

/// SAFETY: `program` is live and the two functions belong together.
unsafe fn fetch(program: Program, (size, bytes): (Size, Bytes)) -> Vec<u8> {
    let mut length = 0;
    if size(program, &mut length) != 0 {
        return Vec::new();
    }
    let mut buffer = vec![0u8; length];
    if bytes(program, buffer.as_mut_ptr().cast()) != 0 {
        return Vec::new();
    }
    buffer
}
