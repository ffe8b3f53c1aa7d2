#!/bin/sh
# FID against the pytorch-fid package, on the CPU: the same pictures and the same random weights on both sides, the distance and how
# many pictures a second. STRATA_BENCH_VENV names the virtual environment (default: ~/.cache/strata/bench-venv); it is created if
# it does not exist. Options: --images N (for the distance), --timed N (for the speed), --repeat N.
set -eu
cd "$(dirname "$0")/../.."
packages="torch torchvision numpy pillow pytorch-fid"
. tests/bench/venv.sh
cargo build --release --quiet -p strata-cli
binary=${CARGO_TARGET_DIR:-target}/release/strata
exec "$python" tests/bench/evaluation.py --binary "$binary" "$@"
