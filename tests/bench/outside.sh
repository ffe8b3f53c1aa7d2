#!/bin/sh
# What of a training step passes outside forward and backward passes, for the benchmark's U-Net (52.3M parameters, latents of
# 4x16x16, all three stages): waiting for data, clipping, optimizer, average, log. Prints a line for each number of images a step.
#
#   tests/bench/outside.sh [BATCH ...]      16 and 64 by default; STRATA names another binary
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${STRATA:-}" ]; then
    (cd "$root" && cargo build --release --quiet)
    STRATA=$(cd "$root" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/release/strata
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$STRATA" train autoencoder --data emoji --preset emoji-kl-f4-64 --images 320 --out autoencoder --quiet >/dev/null
"$STRATA" encode --autoencoder autoencoder --data emoji --out latents --quiet >/dev/null
cat > settings.toml <<'TOML'
conditioning = "none"
save_every_images = 1000000
boundaries = [1.0, 5.0]
stage_policy = "uniform"
grid = { count = 0 }

[unet]
width = 64
heads = { width = 32 }

[[unet.decoders]]
width = 96
attention = [1, 2, 3]

[[unet.decoders]]
width = 64
attention = []

[[unet.decoders]]
width = 32
attention = []
TOML
[ $# -gt 0 ] || set -- 16 64
for batch in "$@"; do
    "$STRATA" train diffusion --latents latents --config settings.toml --batch "$batch" --images $((41 * batch)) \
        --set log_every_images="$batch" --out "run-$batch" --quiet >/dev/null
    tail -n 1 "run-$batch/stats.jsonl" | sed -E "s/.*\"seconds_per_step\":([0-9.e-]+).*\"share_outside_network\":([0-9.e-]+).*/batch $batch: \1 s a step, share outside the network \2/"
done
