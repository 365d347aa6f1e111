"""libtriton_vllm.so as a Python package: the library, and the command `triton-vllm` that puts it into a server."""
import json
from pathlib import Path

NAME = "libtriton_vllm.so"
LIBRARY = Path(__file__).with_name(NAME)


def facts():
    """What was written when the package was made: version, commit, sha256 of the library, the glibc it needs."""
    return json.loads(Path(__file__).with_name("build.json").read_text())
