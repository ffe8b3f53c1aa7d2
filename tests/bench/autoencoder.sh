#!/bin/sh
# An autoencoder against diffusers' AutoencoderKL on the CPU: builds ours, keeps PyTorch and diffusers in a virtual environment
# outside the repository, compares. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv).
set -eu
cd "$(dirname "$0")/../.."
venv=${STRATA_BENCH_VENV:-$HOME/.cache/strata/bench-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy diffusers
fi
cargo build --release --quiet -p strata-autoencoder --example bench_autoencoder
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_autoencoder
exec "$venv/bin/python" tests/bench/autoencoder.py --binary "$binary" "$@"
