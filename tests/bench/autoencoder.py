#!/usr/bin/env python3
"""Times encoding and decoding against diffusers' AutoencoderKL of the same configuration on the CPU, in turn.

    tests/bench/autoencoder.sh [--repeat 5] [--threads N] [--rows encode] [--only times|memory]

The network is that of the preset kl-f8, the first stage of Stable Diffusion (84 million parameters), float32, without a graph. A time
is one call, after one of the same row that warms up; ratio = PyTorch's median / ours: above 1 we are faster. Memory is what a process that does
nothing but the row holds at its highest beyond what it held with the model loaded.
"""

import argparse, json, os, resource, statistics, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

PRESET = "kl-f8"
CONFIG = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)
ROWS = ["encode 8,64,64", "decode 8,64,64", "encode 1,256,256", "decode 1,256,256"]


class Theirs:
    """diffusers' model, laid out as PyTorch likes it best: channels_last memory."""

    def __init__(self, threads):
        import torch
        from diffusers import AutoencoderKL

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.torch = torch
        self.warm = None
        self.model = AutoencoderKL(**CONFIG).eval().to(memory_format=torch.channels_last)

    def run(self, row):
        what, dims = row.split()
        b, h, w = (int(v) for v in dims.split(","))
        torch = self.torch
        shape = (b, 3, h, w) if what == "encode" else (b, 4, h // 8, w // 8)
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        call = (lambda: self.model.encode(x).latent_dist.parameters) if what == "encode" else (lambda: self.model.decode(x).sample)
        with torch.no_grad():
            if self.warm != row:
                call()
            self.warm = row
            start = time.perf_counter()
            call()
        return (time.perf_counter() - start) * 1e3


class Ours:
    def __init__(self, binary, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([binary, PRESET], env=environment, **pipes)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, row):
        return self.ask(row)["ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def resident():
    """MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def child(row, threads):
    """What `--memory-of` prints: the memory of PyTorch's side beyond the loaded model, in MiB."""
    theirs = Theirs(threads)
    before = resident()
    theirs.run(row)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before))


def memory(row, options):
    ours = Ours(options.binary, options.threads)
    before = ours.ask("memory")["now"]
    ours.run(row)
    mine = ours.ask("memory")["highest"] - before
    ours.close()
    command = [sys.executable, __file__, "--memory-of", row, "--binary", options.binary, "--threads", str(options.threads)]
    return mine, json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the built example bench_autoencoder")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", default="", help="only rows that contain one of these words")
    parser.add_argument("--only", choices=["times", "memory"], help="leave the other out")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return child(options.memory_of, options.threads)
    words = [w for w in options.rows.split(",") if w]
    rows = [r for r in ROWS if not words or any(w in r for w in words)]
    print(f"{PRESET}, threads {options.threads}, repetitions {options.repeat}, PyTorch {version('torch')}")
    print(f"{'row (batch, height, width)':28} {'ours ms':>9} {'torch ms':>9} {'ratio':>6} {'ours MiB':>9} {'torch MiB':>9}", flush=True)
    sides = None if options.only == "memory" else (Ours(options.binary, options.threads), Theirs(options.threads))
    for row in rows:
        times = held = f"{'-':>9} {'-':>9}"
        ratio = "-"
        if sides:
            pairs = [[side.run(row) for side in sides] for _ in range(options.repeat)]
            mine, other = (statistics.median(side) for side in zip(*pairs))
            times, ratio = f"{mine:9.1f} {other:9.1f}", f"{other / mine:.2f}"
        if options.only != "times":
            held = "{:9.0f} {:9.0f}".format(*memory(row, options))
        print(f"{row:28} {times} {ratio:>6} {held}", flush=True)
    if sides:
        sides[0].close()


main()
