"""FID and the speed of its features against pytorch-fid: equal pictures, equal random weights."""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from pytorch_fid import fid_score, inception


def weights():
    """Random weights that keep the size of activations, with statistics that are not trivial."""
    inception.load_state_dict_from_url = lambda *args, **kwargs: None
    torch.manual_seed(0)
    net = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight") or name == "fc.weight":
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dtype == torch.float32:
            value.normal_(1.0 if name.endswith("bn.weight") else 0.0, 0.1)
    return state


def pictures(folder, count, seed):
    """Discs of random colours on gradients, 64 x 64; the seed moves their distribution as well."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64] / 63.0
    for i in range(count):
        a, b, c = rng.uniform(0, 255, (3, 3))
        picture = a + (b - a) * (x if i % 2 else y)[..., None]
        for _ in range(rng.integers(1, 4 + 2 * seed)):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.3)
            picture[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = c * rng.uniform(0.3, 1)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.png")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--timed", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", help="keep pictures, weights and statistics in this folder")
    args = parser.parse_args()
    work = pathlib.Path(args.work or tempfile.mkdtemp())
    work.mkdir(exist_ok=True)
    state, file = weights(), work / "inception.pth"
    torch.save(state, file)
    inception.load_state_dict_from_url = lambda *args, **kwargs: state
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    model = inception.InceptionV3([3]).eval()

    def ours(*arguments):
        environment = dict(os.environ, XDG_CACHE_HOME=str(work / "cache"))
        command = [args.binary, "eval", *arguments, "--weights", str(file), "--quiet"]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    if args.images:
        folders = [work / "a", work / "b"]
        for seed, folder in enumerate(folders):
            if not folder.exists():
                folder.mkdir()
                pictures(folder, args.images, seed)
        theirs = fid_score.calculate_fid_given_paths([str(f) for f in folders], 50, "cpu", 2048, num_workers=threads)
        answer = json.loads(ours("fid", "--samples", str(folders[0]), "--reference", str(folders[1]), "--json"))
        value = answer["fid"]["value"]
        print(f"FID of {args.images} pictures: pytorch-fid {theirs:.8f}, ours {value:.8f}, relative {abs(value / theirs - 1):.2e}")

    timed = work / "timed"
    if args.timed and not timed.exists():
        timed.mkdir()
        pictures(timed, args.timed, 0)
    rates = []
    for _ in range(args.repeat if args.timed else 0):
        start = time.perf_counter()
        fid_score.get_activations(sorted(timed.glob("*.png")), model, 32, 2048, "cpu", threads)
        middle = time.perf_counter()
        ours("statistics", "--data", str(timed), "--out", str(work / "timed.npz"))
        rates.append((args.timed / (time.perf_counter() - middle), args.timed / (middle - start)))
    for we, they in rates:
        print(f"features, pictures a second: ours {we:.2f}, pytorch-fid {they:.2f}, ratio {we / they:.2f}")


if __name__ == "__main__":
    main()
