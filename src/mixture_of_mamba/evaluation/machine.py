"""Which machine and which versions figures come from."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from .._version import __version__
from ..extras import package_versions

__all__ = ["machine", "versions"]


def machine() -> dict[str, str]:
    """Operating system, processor and number of cores; the GPU where torch is loaded."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
    }
    torch = sys.modules.get("torch")  # a report is made without
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def versions() -> dict[str, str]:
    """Of this package, Python and the packages that decide figures."""
    packages = package_versions(("torch", "numpy", "lightning"))
    return {
        "mixture-of-mamba": __version__,
        "python": sys.version.split()[0],
        **{name: found for name, found in packages.items() if found is not None},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
