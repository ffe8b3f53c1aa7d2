#!/usr/bin/env python3
"""Times the sweep of the optimal denoiser against a plain per-sample loop in PyTorch float64, and compares the results.

    tests/bench/stages.sh [--data fashion|normal] [--pairs 500] [--levels 1] [--evaluations 12] [--threads N]

The points: Fashion-MNIST's 60,000 training images padded to 32x32 (Debian: apt-get install dataset-fashion-mnist), in [-1, 1]; or
60,000 generated points of 3,072 numbers around 100 centres. A sweep is what Algorithm 1 needs: eps* at each pair's own levels
and at both ends, then the similarities. PyTorch's loop makes one evaluation at a time from the definition (distances to all
points, softmax, weighted sum); only `--evaluations` of them run, spread evenly over the levels, and the whole is their mean
times the number of evaluations. Their eps* and the similarities made of them must equal ours.
"""

import argparse, gzip, json, os, resource, statistics, subprocess, tempfile, time
from pathlib import Path

import numpy as np
import torch

ETA = 2 / 256


def fashion(folder):
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8).reshape(-1, 28, 28)
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    return padded.reshape(-1, 1024).float() / 127.5 - 1


def normal(count=60_000, dim=3072):
    generator = torch.Generator().manual_seed(0)
    centres = 0.4 * torch.randn(100, dim, generator=generator)
    points = centres[torch.randint(100, (count,), generator=generator)]
    return points.add_(torch.randn(count, dim, generator=generator), alpha=0.3)


def optimal_eps(points, y, eps, sigma):
    """eps* at x = y + sigma eps (Zhang et al. 2024, Eq. 4); the schedule's scale cancels."""
    x = y + sigma * eps
    exponents = -((x - points) ** 2).sum(1) / (2 * sigma**2)
    weights = torch.softmax(exponents, 0)
    return (x - weights @ points) / sigma


def compare(points, out, evaluations):
    """Seconds of each evaluation; asserts equal results."""
    load = lambda name: torch.from_numpy(np.load(out / f"{name}.npy"))
    idx, noise, sigmas, shifts, similarities = (load(n) for n in ["idx", "noise", "sigmas", "shifts", "similarities"])
    points, levels, seconds, worst = points.double(), sigmas.shape[1], [], 0.0
    optimal_eps(points, points[0], noise[0].double(), 1.0)  # warm up
    for pair in range(max(1, min(len(shifts), evaluations // levels))):
        eps, answers = noise[pair].double(), []
        for level in range(levels):
            start = time.perf_counter()
            answers.append(optimal_eps(points, points[idx[pair]], eps, sigmas[pair, level].item()))
            seconds.append(time.perf_counter() - start)
            worst = max(worst, (answers[-1] - eps - shifts[pair, level]).abs().max().item())
        for level in range(levels - 2):
            for end in range(2):
                share = ((answers[level] - answers[levels - 2 + end]).abs() <= ETA).double().mean().item()
                assert abs(share - similarities[pair, level, end].item()) < 1e-12, (pair, level, end)
    assert worst < 1e-9, worst
    return seconds, worst, sigmas.numel()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the built example bench_stages")
    parser.add_argument("--data", choices=["fashion", "normal"], default="fashion")
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--levels", type=int, default=1, help="of each pair, beside the two ends")
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    points = fashion(options.fashion) if options.data == "fashion" else normal()
    with tempfile.TemporaryDirectory() as out:
        out = Path(out)
        (out / "points.f32").write_bytes(points.numpy().tobytes())
        command = [options.binary, out / "points.f32", points.shape[1], options.pairs, options.levels, out]
        environment = dict(os.environ, RAYON_NUM_THREADS=str(options.threads))
        answer = subprocess.run([str(c) for c in command], env=environment, stdout=subprocess.PIPE, check=True)
        ours = json.loads(answer.stdout)["seconds"]
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        (out / "points.f32").unlink()
        seconds, worst, total = compare(points, out, options.evaluations)
    theirs = statistics.mean(seconds) * total
    print(f"{options.data} {points.shape[0]} x {points.shape[1]}, {options.pairs} pairs at {options.levels} + 2 levels,", end=" ")
    print(f"threads {options.threads}, PyTorch {torch.__version__}")
    print(f"ours    {ours:8.1f} s, {memory:.2f} GiB")
    print(f"PyTorch {theirs:8.1f} s: {total} evaluations of {statistics.mean(seconds):.3f} s (mean of {len(seconds)})")
    print(f"ratio   {theirs / ours:8.1f}; largest difference of eps* {worst:.1e}, similarities equal")


main()
