#!/bin/sh
# Autoencoders and U-Nets exchanged with diffusers in both directions, compared number by number. Builds ours, keeps PyTorch and diffusers in a
# virtual environment outside the repository. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv).
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy diffusers"
. tests/bench/venv.sh
cargo build --release --quiet --workspace --example run_autoencoder --example run_unet
examples=${CARGO_TARGET_DIR:-target}/release/examples
exec "$python" tests/bench/exchange.py --binary "$examples/run_autoencoder" --unet "$examples/run_unet" "$@"
