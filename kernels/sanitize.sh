#!/usr/bin/env bash
# Runs the tests of this crate under AddressSanitizer: every read and write of the `unsafe` code is checked.
# The compiler is the stable one; RUSTC_BOOTSTRAP lets it take the flag. Takes some minutes, most of them compiling candle.
set -euo pipefail
cd "$(dirname "$0")"

target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address ${RUSTFLAGS:-}"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
cargo test --release --target "$target" --target-dir ../target/sanitize --lib -- "$@"
