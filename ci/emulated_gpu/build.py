"""Makes an emulated GPU: libraries in the place of libcuda and libcublasLt, and one per file of
kernels and element type, compiled for this machine by its C++ compiler. `ci/emulate` calls it.

A kernel is the CUDA device's own source. What a host compiler does not know is written over:
`asm` becomes the call of a function of device.h, and the array of dynamic shared memory goes."""
import concurrent.futures
import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "src" / "device" / "cuda" / "kernels"
TYPES = ["f32", "f16", "bf16"]
FLAGS = ["-std=c++17", "-O2", "-march=native", "-ffp-contract=fast", "-fno-strict-aliasing", "-fPIC", "-shared", "-w"]

# Functions of device.h by how the text of an instruction begins; the longest of them counts.
INSTRUCTIONS = {
    "": "unknown",
    "cvt.f32.f16": "cvt_f32_f16",
    "cvt.rn.f16.f32": "cvt_rn_f16_f32",
    "cvt.rn.bf16.f32": "cvt_rn_bf16_f32",
    "cvt.rn.f16x2.f32": "cvt_rn_f16x2_f32",
    "cvt.rn.bf16x2.f32": "cvt_rn_bf16x2_f32",
    "cp.async.ca.shared.global": "cp_async_cg_shared_global",
    "cp.async.cg.shared.global": "cp_async_cg_shared_global",
    "cp.async.commit_group": "cp_async_commit_group",
    "cp.async.wait_group": "cp_async_wait_group",
    "ld.shared.u32": "ld_shared_u32",
    "ld.shared.v4.u32": "ld_shared_v4_u32",
    "st.shared.v4.u32": "st_shared_v4_u32",
    "ld.global.cg.f32": "ld_global_cg_f32",
    "ld.global.cg.v2.f32": "ld_global_cg_v2_f32",
    "ld.global.cg.v4.f32": "ld_global_cg_v4_f32",
    "ld.volatile.global.v4.u32": "ld_volatile_global_v4_u32",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16": "ldmatrix",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": "ldmatrix_trans",
    "fma.rn.f16x2": "fma_rn_f16x2",
    "fma.rn.bf16x2": "fma_rn_bf16x2",
    "lop3.b32": "lop3_b32",
    "ex2.approx.ftz.f32": "ex2_approx_ftz_f32",
    "rcp.approx.ftz.f32": "rcp_approx_ftz_f32",
}


def outside(text, wanted, begin=0):
    """Places of a character outside of strings and brackets, up to the bracket that closes before `begin`."""
    places, depth, quoted, i = [], 0, False, begin
    while i < len(text):
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == wanted and depth == 0:
            places.append(i)
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth < 0:
                break
        i += 1
    return places, i


def split(text, at):
    places, _ = outside(text, at)
    begins, ends = [0] + [place + 1 for place in places], places + [len(text)]
    return [text[begin:end].strip() for begin, end in zip(begins, ends)]


def call(statement):
    """What stands for the contents of an `asm` statement."""
    template, *lists = split(statement.replace("::", ": :"), ":")
    text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', template)).strip()
    operands = [item for operands in lists[:2] for item in split(operands, ",") if item]
    # A macro of operands, of what is for Hopper alone, stays as it is.
    arguments = ", ".join(re.sub(r'^"[^"]*"\s*\((.*)\)$', r"\1", item, flags=re.S) for item in operands)
    if not text:
        return "ptx_nothing()"
    # Macros within a template: the type of operands is known when it is compiled.
    if re.match(r"\w*MMA\b|mma\.sync\.aligned\.m16n8k16", template.strip('"')) and "e4m3" not in text:
        return f"ptx_mma<OPERAND[0] == 'f'>({arguments})"
    if "OPERAND" in template:
        return (f"(OPERAND[0] == 'f' ? ptx_cvt_rn_f16x2_f32({arguments})"
                f" : ptx_cvt_rn_bf16x2_f32({arguments}))")
    known = max((start for start in INSTRUCTIONS if text.startswith(start)), key=len)
    return f"ptx_{INSTRUCTIONS[known]}({arguments})"


def for_host(source):
    source = re.sub(r"extern __shared__[^;]*dynamic_shared\[\];", "", source)
    parts, done = [], 0
    for found in re.finditer(r"\basm\b\s*(?:volatile)?\s*\(", source):
        _, end = outside(source, "", found.end())
        statement = source[found.end():end].replace("\\\n", " ")
        parts += [source[done:found.start()], call(statement)]
        done = end + 1
    return "".join(parts) + source[done:]


def kernels():
    """(name, struct of its parameters) of each file's kernels: the table in module.rs."""
    text = (ROOT / "src" / "device" / "cuda" / "module.rs").read_text()
    table = re.search(r"^kernels! \{(.*?)^\}", text, re.S | re.M)[1]
    return {file: re.findall(r"(\w+)\((\w+)\)", body) for file, body in re.findall(r'"(\w+)":\s*([^;]*);', table)}


def unit(file, element, of_file):
    """The source of a file's library."""
    lines = ['#include "device.h"', "#define __CUDACC_RTC__", "#define ARCH 80",
             f"#define ACT {TYPES.index(element)}", f'#include "{file}.cu"']
    for name, struct in of_file:
        symbol = f"_Z{len(name)}{name}{len(struct)}{struct}"
        lines.append(f'extern "C" void call{symbol}(const void* p) {{ {name}(*(const {struct}*)p); }}')
        lines.append(f'extern "C" const size_t bytes{symbol} = sizeof({struct});')
    return "\n".join(lines) + "\n"


def hash_of(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return value


def write(path, text):
    """Only what changed: its time is what is compared."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def compile_all(jobs, compiler):
    def run(job):
        sources, library, flags = job
        result = subprocess.run([compiler, *FLAGS, *map(str, sources), "-o", str(library), *flags],
                                capture_output=True, text=True)
        return f"{sources[0]}: {result.stderr[:2000]}" if result.returncode else None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = [error for error in pool.map(run, jobs) if error]
    if errors:
        raise SystemExit("\n".join(errors))


def build(cubins, out, compiler):
    """`cubins`: the kernels as the build script left them, those for 8.0 among them."""
    sources = out / "src"
    sources.mkdir(parents=True, exist_ok=True)
    for path in KERNELS.iterdir():
        write(sources / path.name, for_host(path.read_text()))

    driver, own = out / "libcuda.so.1", [HERE / name for name in ("fibers.cpp", "driver.cpp", "cublaslt.cpp")]
    if not driver.exists() or driver.stat().st_mtime < max(path.stat().st_mtime for path in HERE.iterdir()):
        compile_all([(own, driver, ["-Wl,-soname,libcuda.so.1", "-ldl"])], compiler)
    for name in ("libcuda.so", "libcublasLt.so.12", "libcublasLt.so"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to("libcuda.so.1")

    newest = max(path.stat().st_mtime for path in [*sources.iterdir(), HERE / "device.h"])
    table, jobs, index = kernels(), [], []
    for cubin in sorted(cubins.glob("*.sm_80.bin")):
        file, element = cubin.name.split(".")[:2]
        library = out / f"{file}.{element}.so"
        index.append(f"{hash_of(cubin.read_bytes()):x} {library.name}\n")
        text = out / f"{file}.{element}.cpp"
        write(text, unit(file, element, table[file]))
        if not library.exists() or library.stat().st_mtime < max(newest, text.stat().st_mtime):
            places = [f"-I{HERE}", f"-I{sources}", f"-L{out}", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN"]
            jobs.append(([text], library, places))
    compile_all(jobs, compiler)
    write(out / "index", "".join(index))
