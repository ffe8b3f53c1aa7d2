#!/bin/sh
# Training steps and evaluations against PyTorch on the CPU: builds ours, keeps PyTorch in a virtual environment outside the
# repository, compares. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv); it is created if it does
# not exist.
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy"
. tests/bench/venv.sh
cargo build --release --quiet --workspace --example bench_steps
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_steps
exec "$python" tests/bench/steps.py --binary "$binary" "$@"
