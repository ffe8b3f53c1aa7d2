#!/bin/sh
# Training steps of the published U-Nets on the CPU. Prints a JSON line for each. The full
# CelebA-HQ network needs about 9 GiB of memory: leave it out with --small.
set -eu
cd "$(dirname "$0")/../.."
cargo build --release --quiet -p strata-diffusion --example unet_step
binary=${CARGO_TARGET_DIR:-target}/release/examples/unet_step
for preset in small-multistage small-edm-multistage small-ddpmpp-multistage; do
    "$binary" $preset 16 8 9
done
[ "${1:-}" = --small ] && exit
for stage in 0 1 2; do
    "$binary" celebahq256-ldm-multistage 64 1 2 $stage
    "$binary" celebahq256-ldm-multistage 64 1 2 $stage recompute
done
