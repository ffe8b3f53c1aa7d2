#!/bin/sh
# Operators against PyTorch, on the CPU or (`--device cuda`) on a card: builds ours, keeps PyTorch in a virtual environment outside the repository, compares.
# STRATA_BENCH_VENV names that environment (default: ~/.cache/strata/bench-venv); it is created if it does not exist.
set -eu
cd "$(dirname "$0")/../.."
venv=${STRATA_BENCH_VENV:-$HOME/.cache/strata/bench-venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch numpy
fi
features=
case " $* " in *" cuda"* | *=cuda*) features="--features cuda,cudnn" ;; esac
# shellcheck disable=SC2086
cargo build --release --quiet -p strata-nn $features --example bench_operators
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_operators
exec "$venv/bin/python" tests/bench/operators.py --binary "$binary" "$@"
