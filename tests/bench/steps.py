#!/usr/bin/env python3
"""Times whole training steps and network evaluations against the same networks written plainly in PyTorch, on the CPU.

    tests/bench/steps.sh [--repeat 7] [--threads N] [--rows stage1,autoencoder]

Each side of a row is a process of its own, so that its peak memory is its own (counted from the moment before the network
exists); the two take turns, step by step. A training step is forward, backward, clip to norm 1, AdamW and the average of the
weights. Ratio = PyTorch's median / ours: above 1 we are faster. PyTorch gets what makes it fastest and smallest: channels_last,
fused attention, AdamW(fused=True), the average as one multi-tensor operation.

The row `routing` is ours alone: a step of a batch of all three stages, the same rows stage by stage in one step, and what the
routing itself does (the encoder's outputs split, their gradients put together).
"""

import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

ROWS = ["stage1", "stage2", "stage3", "single", "autoencoder", "eval1", "eval16"]
# ours, PyTorch's, the fraction that ours needs of the memory of PyTorch's plain step
RECOMPUTED = ["stage1+recompute", "autoencoder+recompute"]


def networks():
    """The modules, defined only in the process that runs them: the others need no torch."""
    import torch
    from torch import nn
    import torch.nn.functional as F

    class Residual(nn.Module):
        def __init__(self, c_in, c_out, embedding=None, eps=1e-5):
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(32, c_in, eps), nn.Conv2d(c_in, c_out, 3, padding=1)
            self.embedding = nn.Linear(embedding, c_out) if embedding else None
            self.norm2, self.conv2 = nn.GroupNorm(32, c_out, eps), nn.Conv2d(c_out, c_out, 3, padding=1)
            self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

        def forward(self, x, e=None):
            h = self.conv1(F.silu(self.norm1(x)))
            if e is not None:
                h = h + self.embedding(e)[:, :, None, None]
            return self.skip(x) + self.conv2(F.silu(self.norm2(h)))

    class Attention(nn.Module):
        def __init__(self, c, width, eps=1e-5):
            super().__init__()
            self.norm, self.qkv, self.out, self.heads = nn.GroupNorm(32, c, eps), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1), c // width

        def forward(self, x):
            b, c, h, w = x.shape
            qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, 3, self.heads, c // self.heads)
            q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
            return x + self.out(y)

    class Up(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.conv = nn.Conv2d(c, c, 3, padding=1)

        def forward(self, x):
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))

    class Block(nn.Module):
        def __init__(self, c_in, c_out, embedding, attends):
            super().__init__()
            self.residual, self.attention = Residual(c_in, c_out, embedding), Attention(c_out, 32) if attends else nn.Identity()

        def forward(self, x, e):
            return self.attention(self.residual(x, e))

    class Decoder(nn.Module):
        def __init__(self, width, attention, c, skips, embedding, multipliers, blocks):
            super().__init__()
            self.layers, skips = nn.ModuleList(), list(skips)
            for level in reversed(range(len(multipliers))):
                for _ in range(blocks + 1):
                    self.layers.append(Block(c + skips.pop(), width * multipliers[level], embedding, level in attention))
                    c = width * multipliers[level]
                if level > 0:
                    self.layers.append(Up(c))
            self.norm, self.conv = nn.GroupNorm(32, c), nn.Conv2d(c, 4, 3, padding=1)

        def forward(self, h, skips, e):
            skips = list(skips)
            for layer in self.layers:
                h = layer(h) if isinstance(layer, Up) else layer(torch.cat([h, skips.pop()], 1), e)
            return self.conv(F.silu(self.norm(h)))

    class UNet(nn.Module):
        def __init__(self, decoders, width=64, multipliers=(1, 2, 3, 4), blocks=2, attention=(1, 2, 3)):
            super().__init__()
            self.width, n, c, skips = width, 4 * width, width, [width]
            self.linear1, self.linear2, self.conv = nn.Linear(width, n), nn.Linear(n, n), nn.Conv2d(4, width, 3, padding=1)
            self.layers = nn.ModuleList()
            for level, multiplier in enumerate(multipliers):
                for _ in range(blocks):
                    self.layers.append(Block(c, width * multiplier, n, level in attention))
                    c = width * multiplier
                    skips.append(c)
                if level + 1 < len(multipliers):
                    self.layers.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                    skips.append(c)
            self.middle = nn.ModuleList([Block(c, c, n, True), Block(c, c, n, False)])
            self.decoders = nn.ModuleList(Decoder(w, a, c, skips, n, multipliers, blocks) for w, a in decoders)

        def forward(self, x, t, stage):
            f = torch.exp(-9.210340371976184 * torch.arange(self.width // 2) / (self.width // 2))
            e = t[:, None] * f
            e = F.silu(self.linear2(F.silu(self.linear1(torch.cat([e.cos(), e.sin()], 1)))))
            h = self.conv(x)
            skips = [h]
            for layer in self.layers:
                h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, e)
                skips.append(h)
            for layer in self.middle:
                h = layer(h, e)
            return self.decoders[stage](h, skips, e)

    class Down(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.conv = nn.Conv2d(c, c, 3, stride=2)

        def forward(self, x):
            return self.conv(F.pad(x, (0, 1, 0, 1)))

    class Single(nn.Module):
        """One head over all channels, with q, k and v apart."""

        def __init__(self, c):
            super().__init__()
            self.norm, self.q, self.k, self.v, self.out = nn.GroupNorm(32, c, 1e-6), *(nn.Conv2d(c, c, 1) for _ in range(4))

        def forward(self, x):
            b, c, h, w = x.shape
            n = self.norm(x)
            q, k, v = (t(n).permute(0, 2, 3, 1).reshape(b, 1, h * w, c) for t in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v).reshape(b, h, w, c).permute(0, 3, 1, 2)
            return x + self.out(y)

    def coder(c_in, c_out, levels, c, middle_first):
        r = lambda a, b: Residual(a, b, eps=1e-6)
        ends = lambda c, c_out: [nn.GroupNorm(32, c, 1e-6), nn.SiLU(), nn.Conv2d(c, c_out, 3, padding=1)]
        middle = lambda c: [r(c, c), Single(c), r(c, c)]
        layers = [nn.Conv2d(c_in, c, 3, padding=1)] + (middle(c) if middle_first else [])
        for i, (width, blocks, change) in enumerate(levels):
            for _ in range(blocks):
                layers.append(r(c, width))
                c = width
            if i + 1 < len(levels):
                layers.append(change(c))
        return nn.Sequential(*layers, *([] if middle_first else middle(c)), *ends(c, c_out))

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = coder(3, 6, [(c, 2, Down) for c in (64, 128, 256)], 64, False)
            self.decoder = coder(3, 3, [(c, 3, Up) for c in (256, 128, 64)], 256, True)
            self.quant, self.post_quant = nn.Conv2d(6, 6, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x, noise):
            mean, logvar = self.quant(self.encoder(x)).chunk(2, 1)
            logvar = logvar.clamp(-30, 20)
            y = self.decoder(self.post_quant(mean + torch.exp(0.5 * logvar) * noise))
            return y, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3))

    return torch, F, UNet, Autoencoder


def memory(key):
    line = next(l for l in open("/proc/self/status") if l.startswith(key))
    return int(line.split()[1]) / 1024


def worker(row, threads):
    """PyTorch's side of a row: as the example bench_steps."""
    torch, F, UNet, Autoencoder = networks()
    torch.set_num_threads(threads)
    idle = memory("VmRSS")
    last = torch.channels_last
    image = lambda *d: torch.randn(d).contiguous(memory_format=last)
    three = [(96, (1, 2, 3)), (64, ()), (32, ())]
    if row == "autoencoder":
        model, x, noise = Autoencoder(), image(8, 3, 64, 64), image(8, 3, 16, 16)

        def loss():
            y, kl = model(x, noise)
            return F.l1_loss(y, x) + 1e-6 * kl.mean()
    else:
        single = row == "single" or row.startswith("eval")
        model, batch = UNet([(64, (1, 2, 3))] if single else three), int(row[4:]) if row.startswith("eval") else 16
        x, eps, t, stage = image(batch, 4, 16, 16), image(batch, 4, 16, 16), torch.full((batch,), 500.0), 0 if single else int(row[5:]) - 1
        loss = lambda: F.mse_loss(model(x, t, stage), eps)
    model = model.to(memory_format=last)
    print(sum(p.numel() for p in model.parameters()), flush=True)
    parameters = list(model.parameters())
    if row.startswith("eval"):
        def step():
            with torch.inference_mode():
                model(x, t, 0)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        average = [p.detach().clone() for p in parameters]

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
            optimizer.step()
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1e-4)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        step()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps({"wall": wall * 1e3, "cpu": cpu * 1e3, "peak": memory("VmHWM") - idle}), flush=True)


class Side:
    def __init__(self, command, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.parameters = int(self.process.stdout.readline())

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        # The other side's threads, which wait by spinning, go to sleep.
        time.sleep(0.02)
        return answer

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def routing(options):
    sides = [Side([options.binary, row], options.threads) for row in ("mixed", "apart", "moves")]
    for side in sides * 2:
        side.step()
    turns = [[side.step()[options.clock] for side in sides] for _ in range(options.repeat)]
    mixed, apart, moves = (statistics.median(times) for times in zip(*turns))
    print(f"routing: mixed {mixed:.1f} ms, stage by stage {apart:.1f} ms, moves {moves:.1f} ms = {100 * moves / mixed:.1f} % of the step")
    for side in sides:
        side.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the built example bench_steps")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", default="", help="only rows that contain one of these words")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.threads)
    words = [w for w in options.rows.split(",") if w]
    print(f"threads {options.threads}, {options.clock} time, repetitions {options.repeat}")
    print(f"{'row':24} {'ours ms':>9} {'torch ms':>9} {'ratio':>6} {'ours MiB':>9} {'torch MiB':>9}")
    for row in [r for r in ROWS + RECOMPUTED if not words or any(w in r for w in words)]:
        plain = row.split("+")[0]
        ours = Side([options.binary, row], options.threads)
        theirs = Side([sys.executable, __file__, "--binary", options.binary, "--threads", str(options.threads), "--worker", plain], options.threads)
        assert ours.parameters == theirs.parameters, f"{row}: {ours.parameters} parameters, PyTorch {theirs.parameters}"
        for side in (ours, theirs) * 2:
            side.step()
        pairs = [(ours.step(), theirs.step()) for _ in range(options.repeat)]
        mine, other = ([answer[options.clock] for answer in side] for side in zip(*pairs))
        mine, other, (a, b) = statistics.median(mine), statistics.median(other), pairs[-1]
        print(f"{row:24} {mine:9.1f} {other:9.1f} {other / mine:6.2f} {a['peak']:9.0f} {b['peak']:9.0f}", flush=True)
        ours.end()
        theirs.end()
    if not words or any(w in "routing" for w in words):
        routing(options)


main()
