#!/usr/bin/env python3
"""Times the operators of nn/ against PyTorch, in turn, and prints a table with the ratios.

    tests/bench/operators.sh [--repeat 7] [--threads N] [--rows conv,attention]
    tests/bench/operators.sh --device cuda --dtype bf16 [--compile]

Both sides run in turn: for every repetition first ours, then PyTorch's, then the next row, so that a machine that
slows down slows both. A time is one forward and backward pass (`train`) or one forward pass (`infer`) after a warm-up.
Ratio = PyTorch's median / ours: above 1 we are faster. The row `infer linear:1024,1024,1024` is the roofline of the others.
`--clock cpu --threads 1` counts processor time instead of time: for machines that others use too, where the threads of a side
that waits by spinning (PyTorch's) lose more. On a card both sides compute float32 in float32 (no TF32), and in bfloat16 PyTorch runs
under autocast, as trainings do: parameters float32, activations bfloat16, images channels_last; `--compile` compiles its calls.
"""

import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

import torch
import torch.nn.functional as F

# kind:dims. conv: batch, height, width, c_in, c_out, kernel, stride; attention: batch, tokens, heads, width.
ROWS = [
    "train conv:8,32,32,128,128,3,1",
    "train conv:8,16,16,256,256,3,1",
    "train conv:8,16,16,256,256,1,1",
    "train conv:8,32,32,224,224,3,1",
    "train conv:1,32,32,224,224,3,1",
    "train conv:8,32,32,128,128,3,2",
    "train conv:8,64,64,3,64,3,1",
    "train conv:8,4,4,256,256,3,1",
    "infer conv:1,32,32,224,224,3,1",
    "infer conv:1,256,256,128,128,3,1",
    "infer conv:1,64,64,512,512,3,1",
    "train groupnorm:8,32,32,128",
    "train layernorm:8,256,512",
    "train silu:8,32,32,128",
    "train geglu:8,256,1024",
    "train upsample:8,16,16,256",
    "train attention:8,256,8,32",
    "train attention:1,4096,1,64",
    "train linear:1024,1024,1024",
    "infer linear:1024,1024,1024",
    "train linear:16,256,1024",
]


def flops(row):
    """Multiply-adds of the matrix products, times two; 0 where memory decides."""
    mode, rest = row.split()
    kind, dims = rest.split(":")
    d = [int(v) for v in dims.split(",")]
    times = 3 if mode == "train" else 1
    if kind == "conv":
        return times * 2 * d[0] * (d[1] // d[6]) * (d[2] // d[6]) * d[3] * d[4] * d[5] ** 2
    if kind == "linear":
        return times * 2 * d[0] * d[1] * d[2]
    if kind == "attention":
        return (7 if mode == "train" else 2) * 2 * d[0] * d[2] * d[1] ** 2 * d[3]
    return 0


def build(row, options):
    """The arguments and the call, laid out as PyTorch likes it best: images in channels_last memory."""
    mode, rest = row.split()
    kind, dims = rest.split(":")
    d = [int(v) for v in dims.split(",")]
    image = lambda b, h, w, c: torch.randn(b, c, h, w).contiguous(memory_format=torch.channels_last)
    if kind == "conv":
        args = [image(*d[:4]), torch.randn(d[4], d[3], d[5], d[5]), torch.randn(d[4])]
        call = lambda x, w, b: F.conv2d(x, w, b, stride=d[6], padding=(d[5] - 1) // 2)
    elif kind == "linear":
        args = [torch.randn(d[0], d[1]), torch.randn(d[2], d[1]), torch.randn(d[2])]
        call = F.linear
    elif kind == "groupnorm":
        args = [image(*d), torch.randn(d[3]), torch.randn(d[3])]
        call = lambda x, w, b: F.silu(F.group_norm(x, 32, w, b, 1e-5))
    elif kind == "layernorm":
        args = [torch.randn(d), torch.randn(d[2]), torch.randn(d[2])]
        call = lambda x, w, b: F.layer_norm(x, (d[2],), w, b)
    elif kind == "silu":
        args, call = [torch.randn(d)], F.silu
    elif kind == "geglu":
        args = [torch.randn(d)]
        call = lambda x: (lambda a, g: a * F.gelu(g))(*x.chunk(2, dim=-1))
    elif kind == "upsample":
        args = [image(*d)]
        call = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
    elif kind == "attention":
        args = [torch.randn(d[0], d[2], d[1], d[3]) for _ in range(3)]
        call = F.scaled_dot_product_attention
    else:
        sys.exit(f"unknown row {row}")
    activations = len(args) if kind == "attention" else 1
    half = options.dtype == "bf16"
    args = [a.to(options.device, torch.bfloat16 if half and i < activations else torch.float32) for i, a in enumerate(args)]
    plain = torch.compile(call) if options.compile else call
    if half:
        call = lambda *a: autocast(plain, a, options.device)
    else:
        call = plain
    if mode == "train":
        args = [a.requires_grad_() for a in args]
    return args, call, mode == "train"


def autocast(call, args, device):
    with torch.autocast(device, dtype=torch.bfloat16):
        return call(*args)


def once(args, call, train, clock):
    """Milliseconds of one call."""
    for a in args:
        a.grad = None
    finish(args)
    start = clock()
    if train:
        y = call(*args)
        y.backward(torch.ones_like(y))
    else:
        with torch.no_grad():
            call(*args)
    finish(args)
    return (clock() - start) * 1e3


def finish(args):
    """Waits for what a card still has to do."""
    if args[0].is_cuda:
        torch.cuda.synchronize()


def ours(process, row, clock):
    process.stdin.write(row + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())[clock]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the built example bench_operators")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", default="", help="only rows that contain one of these words")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true", help="torch.compile PyTorch's side")
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    torch.set_num_threads(options.threads)
    environment = dict(os.environ, RAYON_NUM_THREADS=str(options.threads), STRATA_BENCH_DTYPE=options.dtype)
    environment["STRATA_BENCH_DEVICE"] = "cuda:0" if options.device == "cuda" else "cpu"
    process = subprocess.Popen([options.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    words = [w for w in options.rows.split(",") if w]
    rows = [r for r in ROWS if not words or any(w in r for w in words)]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"threads {options.threads}"
    how = f"{options.dtype}, PyTorch {'compiled' if options.compile else 'eager'} {torch.__version__}"
    print(f"{where}, {how}, {options.clock} time, repetitions {options.repeat}")
    print(f"{'row':40} {'ours ms':>9} {'torch ms':>9} {'ratio':>6} {'GFLOP/s':>8}")
    for row in rows:
        built = build(row, options)
        once(*built, clock)
        pairs = [(ours(process, row, options.clock), once(*built, clock)) for _ in range(options.repeat)]
        mine, theirs = (statistics.median(side) for side in zip(*pairs))
        speed = f"{flops(row) / mine / 1e6:8.0f}" if flops(row) else ""
        print(f"{row:40} {mine:9.2f} {theirs:9.2f} {theirs / mine:6.2f} {speed}", flush=True)


main()
