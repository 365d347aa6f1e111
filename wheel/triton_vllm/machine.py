"""What the library needs of this machine, and what of it is missing. Reads and asks; changes nothing."""
import ctypes
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from . import LIBRARY, facts
from .files import installed, sha256

OK, NOTE, MISSING = "ok", "note", "missing"
SERVER_MIN = (2, 36)
# cuDriverGetVersion of driver 525.
CUDA_MIN = 12000
CAPABILITY_MIN = (8, 0)
CUBLASLT = ("libcublasLt.so.13", "libcublasLt.so.12")
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


def numbers(text):
    return tuple(int(n) for n in re.findall(r"\d+", text))


def architecture():
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return OK, "Linux on x86-64"
    return MISSING, f"this is {sys.platform} on {platform.machine()}; the library is for Linux on x86-64"


def glibc():
    needed = facts()["glibc"]
    try:
        found = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        found = ""
    if not found.startswith("glibc"):
        return MISSING, f"no glibc (musl?); the library needs glibc {needed} or newer"
    good = numbers(found) >= numbers(needed)
    return (OK if good else MISSING), f"{found}, the library needs {needed} or newer"


def loads():
    """In a process of its own: the true test of what the dynamic linker must find."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(LIBRARY)], capture_output=True, text=True)
    if result.returncode == 0:
        return OK, "the library loads"
    lines = result.stderr.strip().splitlines()
    return MISSING, f"the library does not load: {lines[-1] if lines else f'exit code {result.returncode}'}"


def server(backends):
    """By the file and the variables of NVIDIA's images."""
    home = backends.parent
    version = ""
    try:
        version = (home / "TRITON_VERSION").read_text().strip()
    except OSError:
        if home == Path("/opt/tritonserver"):
            version = os.environ.get("TRITON_SERVER_VERSION", "")
    if version:
        good = numbers(version)[:2] >= SERVER_MIN
        return (OK if good else MISSING), f"tritonserver {version}, oldest that is served: 2.36 (23.07)"
    if (home / "bin" / "tritonserver").exists():
        return NOTE, f"a tritonserver of unknown version in {home}; oldest that is served: 2.36 (23.07)"
    return MISSING, f"no tritonserver in {home}: name its backends folder with --backends"


def placed(backends):
    target = installed(backends)
    found = sha256(target)
    if found is None:
        return NOTE, f"{target} is not there yet: triton-vllm install"
    if found != facts()["sha256"]:
        return NOTE, f"{target} is another build than this package's: triton-vllm install replaces it"
    return OK, f"{target} is this package's"


class Driver:
    """libcuda.so.1, as far as the questions below need it."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")

    def number(self, name, *arguments):
        """The integer that a function writes to its first argument; raises OSError with CUDA's code."""
        out = ctypes.c_int(0)
        code = getattr(self.library, name)(ctypes.byref(out), *arguments)
        if code != 0:
            raise OSError(f"{name} answers CUDA error {code}")
        return out.value

    def gpus(self):
        """Compute capabilities of the visible GPUs."""
        code = self.library.cuInit(0)
        if code == 100:  # CUDA_ERROR_NO_DEVICE
            return []
        if code != 0:
            raise OSError(f"cuInit answers CUDA error {code}")
        return [tuple(self.number("cuDeviceGetAttribute", attribute, device)
                      for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR))
                for device in range(self.number("cuDeviceGetCount"))]


def gpu():
    """(level, text, whether there is a GPU that the library uses)"""
    try:
        driver = Driver()
    except OSError:
        hint = "(in a container: --gpus all and the NVIDIA container runtime)"
        return NOTE, f"no NVIDIA driver: libcuda.so.1 is not found {hint}. The CPU serves", False
    try:
        version = driver.number("cuDriverGetVersion")
        cuda = f"{version // 1000}.{version % 1000 // 10}"
        if version < CUDA_MIN:
            return MISSING, f"the NVIDIA driver is too old: it knows CUDA {cuda}. Install driver 525 or newer", False
        found = driver.gpus()
    except (OSError, AttributeError) as error:
        return MISSING, f"the NVIDIA driver does not work: {error}", False
    if not found:
        return NOTE, "an NVIDIA driver, but no visible GPU (CUDA_VISIBLE_DEVICES?). The CPU serves", False
    names = ", ".join(f"{major}.{minor}" for major, minor in found)
    if found[0] < CAPABILITY_MIN:
        return MISSING, f"the first GPU has compute capability {names}; 8.0 (Ampere) or newer is needed", False
    return OK, f"driver for CUDA {cuda}, GPUs of compute capability {names}", True


def cublaslt():
    for name in CUBLASLT:
        try:
            ctypes.CDLL(name)
            return OK, name
        except OSError:
            continue
    wheels = [str(Path(p) / "nvidia" / folder / "lib") for p in sys.path for folder in ("cublas", "cu13")]
    found = next((w for w in wheels if any((Path(w) / name).exists() for name in CUBLASLT)), None)
    if found:
        return MISSING, f"cuBLASLt is in {found}, where the server does not look: put that into LD_LIBRARY_PATH"
    return MISSING, ("cuBLASLt is not found (libcublasLt.so.13 or .12): use a `-py3` image, or "
                     "pip install nvidia-cublas-cu12 and put its folder into LD_LIBRARY_PATH")


def check(backends):
    """[(subject, level, text)], in the order of what rests on what."""
    findings = [("architecture", *architecture()), ("glibc", *glibc()), ("library", *loads()),
                ("server", *server(backends)), ("backend", *placed(backends))]
    level, text, usable = gpu()
    findings.append(("driver", level, text))
    if usable:
        findings.append(("cuBLASLt", *cublaslt()))
    return findings
