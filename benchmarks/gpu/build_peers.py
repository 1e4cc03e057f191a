"""Builds what the benchmark `gpu` compares with, in minutes: mamba-ssm's CUDA scan, causal-conv1d.

    pip download --no-deps --no-binary :all: --no-build-isolation mamba-ssm causal-conv1d
    python -m benchmarks build-peers FOLDER_WITH_SDISTS --out peers
    PYTHONPATH=peers python -m benchmarks gpu --out bench.json

A full build compiles every dtype for nine architectures. Here: the scan in bf16 with real A, for
this device alone; calls in other dtypes raise. The Python packages are copied as they are, but for
mamba_ssm's `__init__`, which would import everything that is not built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# As the packages' own builds compile.
NVCC = [
    *("-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda"),
    *(f"-U__CUDA_NO_{t}_OPERATORS__" for t in ("HALF", "BFLOAT16", "BFLOAT162")),
    *(f"-U__CUDA_NO_{t}_CONVERSIONS__" for t in ("HALF", "BFLOAT16", "BFLOAT162")),
]
# Instances that the dispatcher of the scan names and that are not compiled.
ABSENT = """
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>
#include <torch/extension.h>
#include "selective_scan.h"
using complex_t = c10::complex<float>;
template <typename I, typename W> void selective_scan_fwd_cuda(SSMParamsBase&, cudaStream_t) {
    TORCH_CHECK(false, "this build has the bf16 scan only");
}
template <typename I, typename W> void selective_scan_bwd_cuda(SSMParamsBwd&, cudaStream_t) {
    TORCH_CHECK(false, "this build has the bf16 scan with real A only");
}
#define ABSENT(I, W) \\
    template void selective_scan_fwd_cuda<I, W>(SSMParamsBase&, cudaStream_t); \\
    template void selective_scan_bwd_cuda<I, W>(SSMParamsBwd&, cudaStream_t);
ABSENT(float, float) ABSENT(float, complex_t) ABSENT(at::Half, float) ABSENT(at::Half, complex_t)
template void selective_scan_bwd_cuda<at::BFloat16, complex_t>(SSMParamsBwd&, cudaStream_t);
"""


def unpack(folder: Path, pattern: str, into: Path) -> Path:
    """The folder of an unpacked source distribution."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"there is no {pattern} in {folder}; pip download it, see --help")
    with tarfile.open(found[-1]) as archive:
        archive.extractall(into, filter="data")
    return into / found[-1].name.removesuffix(".tar.gz")


def build(name: str, sources: list[Path], include: Path, out: Path) -> None:
    from torch.utils import cpp_extension

    work = Path(tempfile.mkdtemp(prefix=name))
    cpp_extension.load(
        name=name,
        sources=[str(s) for s in sources],
        extra_include_paths=[str(include)],
        extra_cuda_cflags=NVCC,
        extra_cflags=["-O3"],
        build_directory=str(work),
        verbose=True,
    )
    shutil.copy(work / f"{name}.so", out)


def build_scan(folder: Path, out: Path, work: Path) -> None:
    source = unpack(folder, "mamba_ssm-*.tar.gz", work)
    csrc = source / "csrc" / "selective_scan"
    absent = csrc / "absent.cpp"
    absent.write_text(ABSENT)
    names = ("selective_scan.cpp", "selective_scan_fwd_bf16.cu", "selective_scan_bwd_bf16_real.cu")
    build("selective_scan_cuda", [*(csrc / n for n in names), absent], csrc, out)
    shutil.copytree(source / "mamba_ssm", out / "mamba_ssm", dirs_exist_ok=True)
    (out / "mamba_ssm" / "__init__.py").write_text("")


def build_conv(folder: Path, out: Path, work: Path) -> None:
    source = unpack(folder, "causal_conv1d-*.tar.gz", work)
    csrc = source / "csrc"
    sources = sorted([*csrc.glob("*.cpp"), *csrc.glob("*.cu")])
    build("causal_conv1d_cuda", sources, csrc, out)
    shutil.copytree(source / "causal_conv1d", out / "causal_conv1d", dirs_exist_ok=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks build-peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="with the two .tar.gz")
    parser.add_argument("--out", type=Path, default=Path("peers"), help="goes on PYTHONPATH")
    arguments = parser.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device to build for", file=sys.stderr)
        return 1
    os.environ["TORCH_CUDA_ARCH_LIST"] = ".".join(map(str, torch.cuda.get_device_capability()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="peers"))
    jobs = {"scan": build_scan, "conv": build_conv}
    failed = 0
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = {
            name: pool.submit(job, arguments.folder.resolve(), arguments.out.resolve(), work)
            for name, job in jobs.items()
        }
        for name, future in waiting.items():
            if error := future.exception():
                failed += 1
                traceback.print_exception(error)
            print(f"{name}: {'failed' if error else 'built'}", flush=True)
    return 1 if failed else 0
