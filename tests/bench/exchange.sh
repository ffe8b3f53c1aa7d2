#!/bin/sh
# Autoencoders exchanged with diffusers in both directions, compared number by number. Builds ours, keeps PyTorch and diffusers in a
# virtual environment outside the repository. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv).
set -eu
cd "$(dirname "$0")/../.."
venv=${STRATA_BENCH_VENV:-$HOME/.cache/strata/bench-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy diffusers
fi
cargo build --release --quiet -p strata-autoencoder --example run_autoencoder
binary=${CARGO_TARGET_DIR:-target}/release/examples/run_autoencoder
exec "$venv/bin/python" tests/bench/exchange.py --binary "$binary" "$@"
