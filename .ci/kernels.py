#!/usr/bin/env python3
"""Compiles every kernel source of nn/ with NVRTC, as Strata does at first use: python3 .ci/kernels.py FOLDER_OF_LIBNVRTC

Needs no card, no driver and no toolkit beside NVRTC's two libraries.
"""

import ctypes
import sys
from pathlib import Path

ARCHITECTURES = ["compute_80", "compute_90"]
SOURCES = Path(__file__).resolve().parent.parent / "nn/src/ops/cuda/kernels"


def compiled(nvrtc, name, text, architecture):
    """NVRTC's log, and whether the text compiles."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None):
        return "no program", False
    option = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
    failed = nvrtc.nvrtcCompileProgram(program, 1, option)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode().strip(), not failed


def main(folder):
    # NVRTC looks for its second library by name: loading it first is enough.
    ctypes.CDLL(str(next(Path(folder).glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(next(p for p in Path(folder).glob("libnvrtc.so.*") if "alt" not in p.name)))
    prelude = (SOURCES / "prelude.cu").read_text()
    count, bad = 0, 0
    for source in sorted(SOURCES.glob("*.cu")):
        if source.stem == "prelude":
            continue
        for element in ["float"] if source.stem == "optimizer" else ["float", "bf16"]:
            for architecture in ARCHITECTURES:
                text = f"{prelude}\ntypedef {element} T;\n{source.read_text()}"
                log, good = compiled(nvrtc, source.name, text, architecture)
                count, bad = count + 1, bad + (not good)
                if log:
                    print(f"{source.name}, {element}, {architecture}:\n{log}")
    print(f"{count - bad} of {count} compiled")
    sys.exit(1 if bad or not count else 0)


main(sys.argv[1])
