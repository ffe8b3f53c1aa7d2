"""One epoch of a CelebA-layout folder and zip through both loaders, in turn; prints medians. See loading.sh."""

import argparse
import statistics
import subprocess
import time
import zipfile
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

BATCH = 64
TRANSFORM = transforms.Compose([transforms.CenterCrop(178), transforms.Resize(64), transforms.ToTensor()])


class Folder(Dataset):
    def __init__(self, root):
        self.files = sorted((root / "img_align_celeba").iterdir())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return TRANSFORM(Image.open(self.files[i]).convert("RGB"))


class Zip(Dataset):
    """Opened in each worker: an open archive cannot be shared."""

    def __init__(self, root):
        self.path, self.archive = root / "img_align_celeba.zip", None
        with zipfile.ZipFile(self.path) as archive:
            self.names = sorted(archive.namelist())

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        if self.archive is None:
            self.archive = zipfile.ZipFile(self.path)
        with self.archive.open(self.names[i]) as file:
            return TRANSFORM(Image.open(file).convert("RGB"))


def archive(folder, path):
    """The published archive: the folder, stored."""
    if not path.exists():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
            for file in sorted(folder.iterdir()):
                out.write(file, f"img_align_celeba/{file.name}")


def theirs(data, workers):
    """Images per second of an epoch, from the first batch asked for: processes are started before."""
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    iterator, total, count = iter(loader), 0.0, 0
    began = time.perf_counter()
    for batch in iterator:
        total += batch.flatten()[::97].sum().item()
        count += len(batch)
    rate = count / (time.perf_counter() - began)
    return rate, 255 * total / (count // BATCH * len(batch.flatten()[::97]))


def ours(binary, root, workers):
    out = subprocess.run([binary, "load", root, str(workers)], check=True, capture_output=True, text=True).stdout
    return float(out.split()[0]), float(out.split()[-1].rstrip(")\n"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--layout", choices=["folder", "zip"], action="append", help="only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    archive(args.data / "folder/img_align_celeba", args.data / "zip/img_align_celeba.zip")
    print("| layout | ours images/s | PyTorch images/s | ratio | mean pixel, ours and theirs |")
    print("|---|---|---|---|---|")
    datasets = {"folder": Folder, "zip": Zip}
    for kind in args.layout or datasets:
        dataset = datasets[kind]
        root = args.data / kind
        rounds = [(ours(args.binary, root, args.workers), theirs(dataset(root), args.workers)) for _ in range(args.repeat)]
        a, b = (statistics.median(r[side][0] for r in rounds) for side in (0, 1))
        print(f"| {kind} | {a:.0f} | {b:.0f} | {a / b:.2f} | {rounds[0][0][1]:.1f}, {rounds[0][1][1]:.1f} |")


if __name__ == "__main__":
    main()
