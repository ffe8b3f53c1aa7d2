#!/usr/bin/env python3
"""How often samples show what they were asked for: a small classifier, trained on the real pictures' categories, judges them.

    tests/bench/conditional.sh --run RUN [--run RUN ...] --guidance 1,3,5 --per-class 16

A run that is told classes is asked for each class equally often; one that is told texts, for captions of real pictures, equally many
of each category. Prints the share of samples that the classifier assigns to the category asked for, for each guidance; chance is one
in the number of categories. Before, the classifier's own accuracy on real pictures that it was not trained on.
"""

import argparse, io, json, random, subprocess, tempfile, zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--binary", required=True)
parser.add_argument("--run", action="append", required=True)
parser.add_argument("--data", default="emoji")
parser.add_argument("--size", type=int, default=32)
parser.add_argument("--guidance", default="1,3,5")
parser.add_argument("--per-class", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--keep", help="folder for the samples; a temporary one without")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(args.threads)


def strata(*command):
    subprocess.run([args.binary, *map(str, command), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def pixels(image):
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def real(scratch):
    """Pictures, categories, captions and names of the categories."""
    archive = scratch / "data.zip"
    strata("data", "convert", args.data, archive, "--size", args.size)
    with zipfile.ZipFile(archive) as files:
        listing = json.loads(files.read("dataset.json"))
        images = torch.stack([pixels(Image.open(io.BytesIO(files.read(name)))) for name, _ in listing["labels"]])
    return images, torch.tensor([label for _, label in listing["labels"]]), listing["captions"], listing["class_names"]


def block(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def train(images, labels, classes):
    """A network of four blocks on shifted, mirrored pictures; the categories weigh the same."""
    layers = block(3, 32) + block(32, 64) + block(64, 128) + [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3)]
    network = nn.Sequential(*layers, nn.Linear(512, classes))
    weight = len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1).float())
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for _ in range(args.epochs):
        network.train()
        for rows in torch.randperm(len(images)).split(64):
            x = images[rows]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            dx, dy = (int(v) for v in torch.randint(-2, 3, (2,)))
            x = torch.roll(x, (dy, dx), (2, 3)) + 0.05 * torch.randn_like(x)
            loss = nn.functional.cross_entropy(network(x), labels[rows], weight, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return network.eval()


def assigned(network, images):
    with torch.no_grad():
        return network(images).argmax(1)


def draw(run, guidance, out, labels, captions, names):
    """Samples of a run in turn of the categories, and the category asked for of each."""
    seeds = args.per_class * len(names)
    more = ["--class", "all"]
    if 'conditioning = "text"' in run_config(run):
        chosen = random.Random(0)
        rows = [[i for i in range(len(labels)) if labels[i] == c] for c in range(len(names))]
        prompts = [captions[chosen.choice(rows[seed % len(names)])] for seed in range(seeds)]
        (out.parent / "prompts.txt").write_text("\n".join(prompts) + "\n")
        more = ["--prompts", out.parent / "prompts.txt"]
    strata("sample", run, "--out", out, "--seeds", f"0-{seeds - 1}", "--guidance", guidance, "--steps", args.steps, *more)
    images = torch.stack([pixels(Image.open(out / f"{seed:06}.png")) for seed in range(seeds)])
    return images, torch.arange(seeds) % len(names)


def run_config(run):
    return (Path(run) / "config.toml").read_text()


def main(scratch):
    images, labels, captions, names = real(scratch)
    held_out = torch.arange(len(images)) % 5 == 0
    network = train(images[~held_out], labels[~held_out], len(names))
    right = (assigned(network, images[held_out]) == labels[held_out]).float()
    each = [right[labels[held_out] == c].mean().item() for c in range(len(names))]
    print(f"classifier: {len(names)} categories, {100 * right.mean():.1f} % right on {len(right)} held-out pictures, "
          f"{100 * np.mean(each):.1f} % over categories; chance {100 / len(names):.1f} %")
    for run in args.run:
        for guidance in args.guidance.split(","):
            out = scratch / f"{Path(run).name}-{guidance}"
            drawn, asked = draw(run, guidance, out, labels, captions, names)
            hits = (assigned(network, drawn) == asked).float()
            each = ", ".join(f"{name} {100 * hits[asked == c].mean():.0f}" for c, name in enumerate(names))
            share = hits.mean().item()
            print(f"{run}, guidance {guidance}: {100 * share:.1f} % of {len(hits)} as asked, {share * len(names):.2f} x chance ({each})", flush=True)


if args.keep:
    Path(args.keep).mkdir(parents=True, exist_ok=True)
    main(Path(args.keep))
else:
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
