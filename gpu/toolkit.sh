#!/usr/bin/env bash
# Puts what `cargo build --features cuda` needs into a folder, from Python wheels and a Rust crate alone.
# No GPU, driver or root is needed. About 100 MB are downloaded and 280 MB written.
#
#   gpu/toolkit.sh DIR            # prints the exports; also written to DIR/env.sh
#   LINK=shared gpu/toolkit.sh DIR   # link against libcuda.so.1 etc. the usual way (default: lazy)
#
# LINK=lazy   the program has no CUDA library among its needs, starts everywhere and opens the libraries at
#             the first CUDA call (x86-64 only);
# LINK=shared the loader wants libcuda.so.1, libcublas.so.13, libcurand.so.10, libcudart.so.13 at start.
set -euo pipefail

DIR=${1:?usage: gpu/toolkit.sh DIR}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LINK=${LINK:-lazy}
CUDARC=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' "$HERE/../Cargo.lock")
CAP=${CUDA_COMPUTE_CAP:-90}            # 90 = H100, H200
PYTHON=${PYTHON:-python3}
case $LINK in lazy|shared) ;; *) echo "LINK is lazy or shared" >&2; exit 2 ;; esac
for t in "$PYTHON" cargo gcc g++ ar; do
    command -v "$t" >/dev/null || { echo "gpu/toolkit.sh: $t is missing" >&2; exit 1; }
done
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "gpu/toolkit.sh: Linux x86-64 only" >&2; exit 1; }

mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)

# 1. The compiler and the headers. CUDA 13.0 Update 2, as in cuda-toolkit 13.0.2 and PyTorch's cu130 wheels:
#    PTX from a newer nvcc is refused by a 580 driver, so these are pinned, by hash too.
if [ ! -x "$DIR/cuda/bin/nvcc" ]; then
    cat >"$DIR/requirements.txt" <<'REQ'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
REQ
    rm -rf "$DIR/py"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --no-warn-script-location \
        --only-binary=:all: --require-hashes --target "$DIR/py" -r "$DIR/requirements.txt" >&2
    ln -sfn py/nvidia/cu13 "$DIR/cuda"
    ln -sfn lib "$DIR/cuda/lib64"
    chmod +x "$DIR"/cuda/bin/* "$DIR"/cuda/nvvm/bin/* 2>/dev/null || true
fi
case $("$DIR/cuda/bin/nvcc" --version) in
    *'release 13.0'*) ;;
    *) echo "gpu/toolkit.sh: nvcc does not run, or is not 13.0" >&2; exit 1 ;;
esac

# 2. Stand-ins to link against, made from the declarations in cudarc: the real cuBLAS alone is a 420 MB download.
MADE=.cudarc-$CUDARC-$(cksum <"$HERE/link_stubs.py" | cut -d' ' -f1)
if [ ! -e "$DIR/link/$MADE" ]; then
    mkdir -p "$DIR/fetch/src"
    cat >"$DIR/fetch/Cargo.toml" <<EOF
[package]
name = "fetch-cudarc"
version = "0.0.0"
edition = "2021"
[workspace]
[dependencies]
cudarc = { version = "=$CUDARC", default-features = false }
EOF
    : >"$DIR/fetch/src/lib.rs"
    SRC=$(cd "$DIR/fetch" && cargo metadata --quiet --format-version 1 | "$PYTHON" -c '
import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
    rm -rf "$DIR/link"
    "$PYTHON" "$HERE/link_stubs.py" "$SRC" "$DIR/link" >&2
    # The CUDA runtime itself is small and real: static for lazy, shared for shared.
    ln -s ../../../cuda/lib/libcudart_static.a "$DIR/link/lazy/lib/libcudart.a"
    ln -s ../../../cuda/lib/libcudart.so.13 "$DIR/link/shared/lib/libcudart.so"
    ln -s ../../../cuda/lib/libcudart.so.13 "$DIR/link/shared/lib/libcudart.so.13"
    : >"$DIR/link/$MADE"
fi

# 3. What the build needs in its environment. (cudaforge uses half the cores unless told otherwise.)
cat >"$DIR/env.sh" <<EOF
export CUDA_HOME='$DIR/cuda' CUDA_PATH='$DIR/cuda'
export CUDA_ROOT='$DIR/link/$LINK'
export NVCC='$DIR/cuda/bin/nvcc'
export PATH='$DIR/cuda/bin':"\$PATH"
export CUDARC_CUDA_VERSION=13000
export CUDA_COMPUTE_CAP=$CAP
export CUDAFORGE_THREADS=$(nproc)
EOF
cat "$DIR/env.sh"
