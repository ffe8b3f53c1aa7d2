#!/bin/sh
# Autoencoders and U-Nets exchanged with diffusers in both directions, compared number by number. Builds ours, keeps PyTorch and diffusers in a
# virtual environment outside the repository. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv).
set -eu
cd "$(dirname "$0")/../.."
venv=${STRATA_BENCH_VENV:-$HOME/.cache/strata/bench-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy diffusers
fi
cargo build --release --quiet --workspace --example run_autoencoder --example run_unet
examples=${CARGO_TARGET_DIR:-target}/release/examples
exec "$venv/bin/python" tests/bench/exchange.py --binary "$examples/run_autoencoder" --unet "$examples/run_unet" "$@"
