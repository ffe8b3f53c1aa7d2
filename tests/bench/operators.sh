#!/bin/sh
# Operators against PyTorch, on the CPU or (`--device cuda`) on a card: builds ours, keeps PyTorch in a virtual environment outside the repository, compares.
# STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv); it is created if it does not exist.
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy"
. tests/bench/venv.sh
features=
case " $* " in *" cuda"* | *=cuda*) features="--features cuda,cudnn" ;; esac
# shellcheck disable=SC2086
cargo build --release --quiet -p strata-nn $features --example bench_operators
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_operators
exec "$python" tests/bench/operators.py --binary "$binary" "$@"
