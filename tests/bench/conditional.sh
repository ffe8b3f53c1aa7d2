#!/bin/sh
# How often samples of conditional models show what they were asked for, at several strengths of guidance, judged by a small classifier
# of real pictures. STRATA_BENCH_VENV names the virtual environment (default: ~/.cache/strata/bench-venv); it is created if it does not
# exist. Options: --run RUN (several), --guidance 1,3,5, --per-class N, --data DATA, --size PIXELS.
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy pillow"
. tests/bench/venv.sh
cargo build --release --quiet -p strata-cli
binary=${CARGO_TARGET_DIR:-target}/release/strata
exec "$python" tests/bench/conditional.py --binary "$binary" "$@"
