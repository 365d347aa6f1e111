"""The command `triton-vllm` of the wheel: install, uninstall, check, and what each says of a machine that lacks
something. Drivers are small C libraries with the names and answers of NVIDIA's."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ci"))

from server import built_library  # noqa: E402

NAME = "libtriton_vllm.so"
CUDA = """
#include <stdlib.h>
static int of(const char *name, int otherwise) { const char *text = getenv(name); return text ? atoi(text) : otherwise; }
int cuInit(unsigned flags) { return of("FAKE_INIT", 0); }
int cuDriverGetVersion(int *out) { *out = of("FAKE_CUDA", 13000); return 0; }
int cuDeviceGetCount(int *out) { *out = of("FAKE_GPUS", 1); return 0; }
int cuDeviceGetAttribute(int *out, int attribute, int device) {
    *out = attribute == 75 ? of("FAKE_MAJOR", 9) : 0;
    return attribute == 75 || attribute == 76 ? 0 : 1;
}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The wheel, installed by pip into an environment of its own; the path of its command."""
    folder = tmp_path_factory.mktemp("wheel")
    code = [sys.executable, ROOT / "ci/package.py", "--library", built_library(), "--out", folder / "artifacts"]
    subprocess.run(code, check=True, capture_output=True)
    [wheel] = (folder / "artifacts").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "--python", folder / "venv/bin/python", "install", "--quiet",
                    "--disable-pip-version-check", "--no-index", "--no-deps", wheel], check=True)
    return folder / "venv/bin/triton-vllm"


@pytest.fixture
def server(tmp_path):
    """A folder that looks like /opt/tritonserver; its backends folder."""
    (tmp_path / "tritonserver/backends/vllm").mkdir(parents=True)
    (tmp_path / "tritonserver/TRITON_VERSION").write_text("2.51.0\n")
    (tmp_path / "tritonserver/backends/vllm/model.py").write_text("# the Python backend\n")
    return tmp_path / "tritonserver/backends"


@pytest.fixture(scope="module")
def drivers(tmp_path_factory):
    """A folder with a driver and cuBLASLt, and one where the linker finds broken files in their place."""
    good, none = tmp_path_factory.mktemp("drivers"), tmp_path_factory.mktemp("none")
    (good / "cuda.c").write_text(CUDA)
    (good / "empty.c").write_text("int nothing;\n")
    for source, name in [("cuda.c", "libcuda.so.1"), ("empty.c", "libcublasLt.so.12")]:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", good / name, good / source], check=True)
    for name in ("libcuda.so.1", "libcublasLt.so.13", "libcublasLt.so.12"):
        (none / name).write_text("no library\n")
    # The real one, where there is one, must not answer for the fake one.
    (good / "libcublasLt.so.13").write_text("no library\n")
    return good, none


def ask(command, *arguments, libraries, **environment):
    """(exit code, lines by their first two words or the whole text)"""
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries), **environment}
    result = subprocess.run([command, *arguments], capture_output=True, text=True, env=env)
    return result.returncode, result.stdout + result.stderr


def line(text, subject):
    [found] = [l for l in text.splitlines() if l.split()[1:2] == [subject] and l.split()[0] != "missing:"]
    return found.split()[0], found


def test_install_check_uninstall(command, server, drivers):
    good, _ = drivers
    code, text = ask(command, "install", "--backends", server, libraries=good)
    assert code == 0 and text.startswith(f"installed: {server}/vllm/{NAME}") and "restart" in text, text
    placed = server / "vllm" / NAME
    assert placed.stat().st_mode & 0o777 == 0o644 and sorted(os.listdir(server / "vllm")) == [NAME, "model.py"]

    code, text = ask(command, "check", "--backends", server, libraries=good)
    assert code == 0 and text.endswith("nothing is missing\n"), text
    for subject in ("architecture", "glibc", "library", "server", "backend", "driver", "cuBLASLt"):
        assert line(text, subject)[0] == "ok", text

    assert ask(command, "install", "--backends", server, libraries=good)[1].startswith("unchanged: ")
    placed.write_bytes(b"another build")
    level, found = line(ask(command, "check", "--backends", server, libraries=good)[1], "backend")
    assert level == "note" and "another build" in found
    assert ask(command, "install", "--backends", server, libraries=good)[1].startswith("replaced: ")

    code, text = ask(command, "uninstall", "--backends", server, libraries=good)
    assert code == 0 and "the Python backend beside it serves again" in text
    assert os.listdir(server / "vllm") == ["model.py"]
    code, text = ask(command, "uninstall", "--backends", server, libraries=good)
    assert code == 1 and "nothing to uninstall" in text and "Traceback" not in text


def test_without_the_python_backend_the_folder_comes_and_goes(command, server, drivers):
    (server / "vllm/model.py").unlink()
    (server / "vllm").rmdir()
    assert ask(command, "install", "--backends", server, libraries=drivers[0])[0] == 0
    assert (server / "vllm" / NAME).exists()
    code, text = ask(command, "uninstall", "--backends", server, libraries=drivers[0])
    assert code == 0 and 'no backend "vllm"' in text and not (server / "vllm").exists()


def test_no_server_no_install(command, tmp_path, drivers):
    code, text = ask(command, "install", "--backends", tmp_path / "nowhere", libraries=drivers[0])
    assert code == 1 and "is no folder" in text and "--backends" in text and "Traceback" not in text
    code, text = ask(command, "check", "--backends", tmp_path / "nowhere/backends", libraries=drivers[0])
    assert code == 1 and line(text, "server")[0] == "missing" and "missing: server" in text


def test_a_folder_that_may_not_be_written_is_said(command, server, drivers):
    (server / "vllm" / NAME).mkdir()
    code, text = ask(command, "install", "--backends", server, libraries=drivers[0])
    assert code == 1 and f"{server}/vllm/{NAME}" in text and "Traceback" not in text, text
    assert sorted(os.listdir(server / "vllm")) == [NAME, "model.py"], "no half file stays"


@pytest.mark.parametrize("version, level", [("2.36.0", "ok"), ("2.35.0", "missing"), ("3.0.1", "ok"), ("2.73.0dev", "ok")])
def test_the_servers_version(command, server, drivers, version, level):
    (server.parent / "TRITON_VERSION").write_text(version)
    code, text = ask(command, "check", "--backends", server, libraries=drivers[0])
    assert line(text, "server")[0] == level and version in text and code == (level == "missing")


def test_a_server_of_unknown_version_is_only_noted(command, server, drivers):
    (server.parent / "TRITON_VERSION").unlink()
    (server.parent / "bin").mkdir()
    (server.parent / "bin/tritonserver").write_text("")
    code, text = ask(command, "check", "--backends", server, libraries=drivers[0])
    assert code == 0 and line(text, "server")[0] == "note"


@pytest.mark.parametrize("lack, level, words", [
    ({"FAKE_CUDA": "11080"}, "missing", "driver 525 or newer"),
    ({"FAKE_INIT": "100"}, "note", "The CPU serves"),
    ({"FAKE_INIT": "999"}, "missing", "CUDA error 999"),
    ({"FAKE_GPUS": "0"}, "note", "no visible GPU"),
    ({"FAKE_MAJOR": "7"}, "missing", "8.0 (Ampere)"),
], ids=["old driver", "no device", "broken driver", "no visible gpu", "old gpu"])
def test_what_a_driver_lacks(command, server, drivers, lack, level, words):
    code, text = ask(command, "check", "--backends", server, libraries=drivers[0], **lack)
    assert line(text, "driver")[0] == level and words in text and code == (level == "missing"), text
    assert "cuBLASLt" not in text, "nobody needs it then"


def test_no_driver_is_the_cpu(command, server, drivers):
    code, text = ask(command, "check", "--backends", server, libraries=drivers[1])
    level, found = line(text, "driver")
    assert code == 0 and level == "note" and "libcuda.so.1" in found and "--gpus all" in found


def test_no_cublaslt(command, server, drivers, tmp_path):
    (tmp_path / "libcuda.so.1").symlink_to(drivers[0] / "libcuda.so.1")
    for name in ("libcublasLt.so.12", "libcublasLt.so.13"):
        (tmp_path / name).write_text("no library\n")
    code, text = ask(command, "check", "--backends", server, libraries=tmp_path)
    assert code == 1 and line(text, "cuBLASLt")[0] == "missing" and "nvidia-cublas" in text

    wheels = tmp_path / "site/nvidia/cublas/lib"
    wheels.mkdir(parents=True)
    (wheels / "libcublasLt.so.12").write_text("")
    code, text = ask(command, "check", "--backends", server, libraries=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert code == 1 and f"{wheels}" in text and "LD_LIBRARY_PATH" in text


@pytest.mark.parametrize("patch, words", [
    ('platform.machine = lambda: "aarch64"', "missing  architecture"),
    ('os.confstr = lambda name: "glibc 2.31"', "missing  glibc"),
    ('os.confstr = lambda name: None', "no glibc (musl?)"),
    ('machine.LIBRARY = "/nowhere/lib.so"', "missing  library"),
], ids=["aarch64", "old glibc", "musl", "does not load"])
def test_another_machine(command, server, drivers, patch, words):
    code = f"import os, platform, sys\nfrom triton_vllm import __main__, machine\n{patch}\n" \
           "sys.exit(__main__.main(['check', '--backends', sys.argv[1]]))"
    python = command.with_name("python")
    status, text = ask(python, "-c", code, server, libraries=drivers[0])
    assert status == 1 and words in text and "Traceback" not in text, text


def test_the_package_needs_nothing_but_python(command):
    for path in (ROOT / "wheel/triton_vllm").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert all(n.split(".")[0] in sys.stdlib_module_names for n in names), (path, names)
    for arguments in (["--help"], ["install", "--help"], ["--version"]):
        assert subprocess.run([command, *arguments], capture_output=True).returncode == 0
