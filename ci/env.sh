# Sourced by the scripts in ci/: where things are. LIBCLANG_PATH is for bindgen in build.rs; a libclang
# that the caller names wins over the one of the virtual environment.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/target/venv/bin/python"
if [ -z "${LIBCLANG_PATH:-}" ] && [ -x "$python" ]; then
    LIBCLANG_PATH="$("$python" -c 'import clang, os; print(os.path.join(clang.__path__[0], "native"))')"
    export LIBCLANG_PATH
fi
