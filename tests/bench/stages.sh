#!/bin/sh
# The optimal denoiser's sweep against a plain loop in PyTorch on the CPU: builds ours, keeps PyTorch in a virtual environment
# outside the repository, compares. STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv); it is
# created if it does not exist.
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy"
. tests/bench/venv.sh
cargo build --release --quiet -p strata-diffusion --example bench_stages
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_stages
exec "$python" tests/bench/stages.py --binary "$binary" "$@"
