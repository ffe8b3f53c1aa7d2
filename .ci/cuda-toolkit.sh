#!/usr/bin/env bash
# Lays out a CUDA 13.0 toolkit with cuDNN and NCCL from wheels that pip fetches, for building `--features cuda,cudnn` on a machine that
# has no CUDA installed; neither a card nor a driver is needed to build.
#
#   .ci/cuda-toolkit.sh DIR      installs into DIR (about 2 GB), or does nothing if it is there
#   source DIR/env.sh            sets CUDA_HOME, PATH, LIBRARY_PATH and CUDA_COMPUTE_CAP for cargo
#
# Running the result needs the card's driver (libcuda.so.1) and DIR/lib64 on LD_LIBRARY_PATH.
set -euo pipefail
dir=${1:?usage: cuda-toolkit.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ ! -e "$dir/.complete" ]; then
  python3 -m pip install -q --no-deps --upgrade --target "$dir/wheels" \
    'nvidia-cuda-nvcc==13.0.88' 'nvidia-nvvm==13.0.88' 'nvidia-cuda-crt==13.0.88' \
    'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.88' \
    'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.0.*' \
    'nvidia-cudnn-cu13==9.15.1.9' 'nvidia-nccl-cu13==2.28.*'
  wheels="$dir/wheels/nvidia"
  mkdir -p "$dir/include" "$dir/lib64/stubs"
  ln -sfn "$wheels/cu13/bin" "$dir/bin"
  ln -sfn "$wheels/cu13/nvvm" "$dir/nvvm"
  chmod +x "$wheels"/cu13/bin/* "$wheels"/cu13/nvvm/bin/* 2>/dev/null || true
  for part in cu13 cudnn nccl; do
    cp -rsf "$wheels/$part/include/." "$dir/include/"
    for lib in "$wheels/$part"/lib/*.so* "$wheels/$part"/lib/*.a; do
      [ -e "$lib" ] || continue
      ln -sf "$lib" "$dir/lib64/$(basename "$lib")"
      plain=$(basename "$lib" | sed 's/\.so.*/.so/')
      [ -e "$dir/lib64/$plain" ] || ln -s "$lib" "$dir/lib64/$plain"
    done
  done
  # A link-time stand-in for the driver: every cu* name that cuda.h mentions, and its _v2 form.
  grep -oE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?\b' "$dir/include/cuda.h" | sort -u \
    | awk '{print; if (!/_v[0-9]+$/) print $1 "_v2"}' | sort -u | sed 's/.*/void &(void){}/' > "$dir/stub.c"
  gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$dir/lib64/stubs/libcuda.so" "$dir/stub.c"
  cat > "$dir/env.sh" <<ENV
export CUDA_HOME="$dir" CUDA_PATH="$dir" CUDA_ROOT="$dir" CUDA_TOOLKIT_ROOT_DIR="$dir"
export PATH="$dir/bin:\$PATH"
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-90}"
export LIBRARY_PATH="$dir/lib64:$dir/lib64/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
ENV
  touch "$dir/.complete"
fi
"$dir/bin/nvcc" --version | tail -2
