#!/bin/sh
# An autoencoder against diffusers' AutoencoderKL on the CPU: builds ours, keeps PyTorch and diffusers in a virtual environment
# outside the repository, compares. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv).
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy diffusers"
. tests/bench/venv.sh
cargo build --release --quiet -p strata-autoencoder --example bench_autoencoder
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_autoencoder
exec "$python" tests/bench/autoencoder.py --binary "$binary" "$@"
