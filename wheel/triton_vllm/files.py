"""Puts the library into a backends folder of a tritonserver and takes it out again. Touches nothing else there."""
import hashlib
import os
import shutil
import tempfile

from . import LIBRARY, NAME


class Failed(Exception):
    """What could not be done, and what to change."""


def sha256(path):
    """Hexadecimal SHA-256 of a file; None if there is none, empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def installed(backends):
    return backends / "vllm" / NAME


def _refused(error, path):
    return Failed(f"{path}: {error.strerror}. Run the command as a user who may write there (in an image: as root).")


def install(backends):
    """Copy the library into <backends>/vllm. The file appears whole or not at all, so that a running server is
    not disturbed. Returns what happened: "installed", "replaced" or "unchanged"."""
    if not backends.is_dir():
        raise Failed(f"{backends} is no folder: is a tritonserver installed here? Name its backends folder with "
                     "--backends (the server's option of the same meaning is --backend-directory)")
    target = installed(backends)
    before = sha256(target)
    if before == sha256(LIBRARY):
        return "unchanged"

    try:
        target.parent.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".libtriton_vllm-", dir=target.parent)
    except OSError as error:
        raise _refused(error, target.parent) from error
    try:
        with os.fdopen(handle, "wb") as out, open(LIBRARY, "rb") as library:
            shutil.copyfileobj(library, out)
            os.fchmod(out.fileno(), 0o644)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)
    except OSError as error:
        os.unlink(temporary)
        raise _refused(error, target) from error
    return "installed" if before is None else "replaced"


def uninstall(backends):
    """Delete the library from <backends>/vllm; the folder goes too if nothing else is in it."""
    target = installed(backends)
    try:
        target.unlink()
    except FileNotFoundError:
        raise Failed(f"{target} does not exist: nothing to uninstall") from None
    except OSError as error:
        raise _refused(error, target) from error
    if not any(target.parent.iterdir()):
        target.parent.rmdir()
