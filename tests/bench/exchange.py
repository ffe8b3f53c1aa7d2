#!/usr/bin/env python3
"""Exchanges networks with diffusers: the same images, latents and noise through both, in both directions.

    tests/bench/exchange.sh [RUN ...]

Without arguments: networks of diffusers (AutoencoderKL, VQModel, AutoencoderTiny, UNet2DModel, UNet2DConditionModel) with random
weights, saved by diffusers, run here, exported from here, and loaded by diffusers again. With arguments: autoencoders trained here (runs, or weight files), exported, and
loaded by diffusers. Prints the largest difference of each; fails above 1e-4, or if a weight comes back other than it went.
"""

import argparse, json, subprocess, sys, tempfile
from pathlib import Path

import torch
import diffusers
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel, UNet2DModel, VQModel
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4


def networks():
    """Small ones, each with parts that the others lack."""
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    coder = dict(block_out_channels=(16, 32, 32), layers_per_block=2, norm_num_groups=8, **blocks)
    yield "AutoencoderKL", AutoencoderKL(latent_channels=4, **coder)
    yield "AutoencoderKL, plain", AutoencoderKL(
        latent_channels=8, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False, **coder
    )
    vq = VQModel(latent_channels=3, num_vq_embeddings=64, vq_embed_dim=4, **coder)
    # As diffusers begins them, the codes are too close together for a nearest one that is the same on both sides.
    torch.nn.init.normal_(vq.quantize.embedding.weight)
    yield "VQModel", vq
    tiny = dict(encoder_block_out_channels=(16, 16, 16), decoder_block_out_channels=(16, 16, 16))
    yield "AutoencoderTiny", AutoencoderTiny(num_encoder_blocks=(1, 2, 1), num_decoder_blocks=(2, 1, 1), **tiny)


def theirs(model, x, z):
    """What ours calls `stored` and `y`."""
    with torch.no_grad():
        encoded = model.encode(x)
        if isinstance(model, AutoencoderKL):
            stored = encoded.latent_dist.parameters
        else:
            stored = encoded.latents
        return stored, model.decode(z).sample


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def ours(binary, autoencoder, x, z, scratch):
    save_file({"x": x, "z": z}, scratch / "given.safetensors")
    run(binary, autoencoder, scratch / "given.safetensors", scratch / "computed.safetensors")
    computed = load_file(scratch / "computed.safetensors")
    return computed["stored"], computed["y"]


def load(folder):
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder).eval()


def inputs(model):
    """Images and latents; nothing is square, so that axes cannot be mixed up."""
    torch.manual_seed(1)
    if isinstance(model, AutoencoderTiny):
        channels, factor = model.config.latent_channels, 2 ** (len(model.config.encoder_block_out_channels) - 1)
    else:
        channels, factor = model.config.latent_channels, 2 ** (len(model.config.block_out_channels) - 1)
    if isinstance(model, VQModel):
        channels = model.config.vq_embed_dim or channels
    return torch.rand(2, 3, 48, 64) * 2 - 1, torch.randn(2, channels, 48 // factor, 64 // factor)


def difference(a, b):
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


def row(name, here, there, unchanged):
    encode, decode = (difference(a, b) for a, b in zip(here, there))
    good = encode <= TOLERANCE and decode <= TOLERANCE and unchanged is not False
    weights = {True: "weights the same", False: "WEIGHTS DIFFER", None: ""}[unchanged]
    print(f"{name:40} encode {encode:.1e}  decode {decode:.1e}  {weights}", flush=True)
    return good


def from_diffusers(binary, scratch):
    for name, model in networks():
        saved, export = scratch / f"{name} saved", scratch / f"{name} exported"
        model.eval().save_pretrained(saved)
        x, z = inputs(model)
        here = ours(binary, saved, x, z, scratch)
        yield row(name, here, theirs(model, x, z), None)
        run(binary, saved, export)
        back = load(export)
        before, after = model.state_dict(), back.state_dict()
        unchanged = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        yield row(f"{name}, exported", here, theirs(back, x, z), unchanged)


def from_here(binary, trained, scratch):
    for i, autoencoder in enumerate(trained):
        export = scratch / f"{i}"
        run(binary, autoencoder, export)
        model = load(export)
        x, z = inputs(model)
        yield row(str(autoencoder), ours(binary, autoencoder, x, z, scratch), theirs(model, x, z), None)


def unets():
    """Small ones, each with parts that the others lack; inputs beside them, nothing square."""
    torch.manual_seed(2)
    sample, timestep = torch.randn(2, 4, 16, 24), torch.tensor([7, 801])
    given = dict(sample=sample, timestep=timestep)
    small = dict(in_channels=4, out_channels=4, norm_num_groups=4, layers_per_block=2, sample_size=16)
    yield "UNet2DModel", given, UNet2DModel(
        block_out_channels=(16, 24, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        **small,
    )
    yield "UNet2DModel, as DDPM", given, UNet2DModel(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-6, attention_head_dim=None, **small,
    )
    yield "UNet2DModel, as ADM", dict(given, class_labels=torch.tensor([2, 0])), UNet2DModel(
        block_out_channels=(16, 32),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift", num_class_embeds=3, upsample_type="resnet", downsample_type="resnet", **small,
    )
    told = dict(given, encoder_hidden_states=torch.randn(2, 5, 12))
    crossing = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32), cross_attention_dim=12, **small,
    )
    yield "UNet2DConditionModel", told, UNet2DConditionModel(attention_head_dim=2, **crossing)
    yield "UNet2DConditionModel, as 2.x", told, UNet2DConditionModel(
        attention_head_dim=(2, 8), use_linear_projection=True, transformer_layers_per_block=2, **crossing
    )


def unets_of_diffusers(binary, scratch):
    for name, given, model in unets():
        saved, export = scratch / f"{name} saved", scratch / f"{name} exported"
        model.eval().save_pretrained(saved)
        save_file(given, scratch / "given.safetensors")
        run(binary, saved, scratch / "given.safetensors", scratch / "computed.safetensors")
        y = load_file(scratch / "computed.safetensors")["y"]
        with torch.no_grad():
            here = difference(y, model(**given).sample)
        run(binary, saved, export)
        back = type(model).from_pretrained(export).eval()
        with torch.no_grad():
            exported = difference(model(**given).sample, back(**given).sample)
        before, after = model.state_dict(), back.state_dict()
        unchanged = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        print(f"{name:40} here {here:.1e}  exported {exported:.1e}  {'weights the same' if unchanged else 'WEIGHTS DIFFER'}", flush=True)
        yield here <= TOLERANCE and exported <= TOLERANCE and unchanged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the built example run_autoencoder")
    parser.add_argument("--unet", type=Path, required=True, help="the built example run_unet")
    parser.add_argument("runs", type=Path, nargs="*", help="autoencoders trained here")
    options = parser.parse_args()
    print(f"PyTorch {torch.__version__}, diffusers {diffusers.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        binary, scratch = options.binary.resolve(), Path(scratch)
        if options.runs:
            good = [*from_here(binary, options.runs, scratch)]
        else:
            good = [*from_diffusers(binary, scratch), *unets_of_diffusers(options.unet.resolve(), scratch)]
    sys.exit(0 if all(good) else f"above {TOLERANCE}")


main()
