#!/bin/sh
# How fast a pickled checkpoint of 4 GiB becomes safetensors, beside the disk's sequential read rate, and the memory that takes.
# Caches are dropped before each reading where that is allowed (root). Needs 9 GB in the folder STRATA_BENCH_DIR (default: /tmp);
# STRATA_BENCH_VENV names the environment with PyTorch, as in exchange.sh.
set -eu
cd "$(dirname "$0")/../.."
packages="torch numpy"
. tests/bench/venv.sh
strata=${STRATA_BINARY:-}
if [ -z "$strata" ]; then
    cargo build --release --quiet
    strata=${CARGO_TARGET_DIR:-target}/release/strata
fi
dir=$(mktemp -d "${STRATA_BENCH_DIR:-/tmp}/strata-convert.XXXXXX")
trap 'rm -rf "$dir"' EXIT
"$python" - "$dir/big.ckpt" <<'PY'
import sys, torch
base = torch.randn(64, 1024, 1024)
torch.save({"state_dict": {f"block{i}.weight": base * (i + 1) for i in range(16)}, "global_step": 7}, sys.argv[1])
PY
forget() {
    sync
    sh -c 'echo 3 > /proc/sys/vm/drop_caches' 2>/dev/null || echo "caches are kept: not root"
}
seconds() { # of a command
    begin=$(date +%s.%N)
    "$@" > /dev/null 2>&1
    echo "$(date +%s.%N) - $begin" | bc
}
bytes=$(stat -c %s "$dir/big.ckpt")
forget
read=$(seconds dd if="$dir/big.ckpt" of=/dev/null bs=8M)
forget
copy=$(seconds sh -c "cp '$dir/big.ckpt' '$dir/copy' && sync '$dir/copy'")
rm "$dir/copy"
forget
begin=$(date +%s.%N)
"$strata" convert --plain "$dir/big.ckpt" "$dir/big.safetensors" > /dev/null &
pid=$!
peak=0
while kill -0 $pid 2>/dev/null; do
    now=$(awk '/RssAnon/ { print $2 }' /proc/$pid/status 2>/dev/null || true)
    [ "${now:-0}" -le $peak ] || peak=$now
    sleep 0.05
done
wait $pid
convert=$(echo "$(date +%s.%N) - $begin" | bc)
echo "$bytes bytes: read $read s, copied and synced $copy s, converted $convert s ($(echo "100 * $read / $convert" | bc) % of the read rate)"
echo "memory beside the mapped file: $((peak / 1024)) MiB"
