#!/bin/sh
# Reading pictures against PyTorch's DataLoader with torchvision and Pillow: JPEG files of CelebA's size, 178-crop, resize to 64.
# STRATA_BENCH_VENV names a virtual environment (default: ~/.cache/strata/bench-venv); it is created if it does not exist.
# STRATA_BENCH_DATA names a folder for the pictures (default: a temporary one).
set -eu
cd "$(dirname "$0")/../.."
packages="torch torchvision pillow numpy"
. tests/bench/venv.sh
cargo build --release --quiet -p strata-datasets --example bench_loading
binary=${CARGO_TARGET_DIR:-target}/release/examples/bench_loading
data=${STRATA_BENCH_DATA:-$(mktemp -d)}
[ -d "$data/zip" ] || "$binary" make "$data" 6400
exec "$python" tests/bench/loading.py --binary "$binary" --data "$data" "$@"
