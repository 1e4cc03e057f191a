"""`mom env`: what is active here, and why the rest is not."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Show versions, devices, threads, the backend of each op that is active here and why the "
    "others are not, the compiler, and the caches."
)


def configure(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    from .environment import environment

    facts = environment()
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def _text(facts: dict[str, Any]) -> str:
    lines = [f"mixture-of-mamba {facts['version']}, Python {facts['python']}"]
    packages = {k: v or "not installed" for k, v in facts["packages"].items()}
    sections = {
        "packages": packages,
        "machine": facts["machine"],
        "devices": facts["devices"],
        "threads": facts["threads"],
        "kernels": facts["kernels"],
        "caches": facts["caches"],
        "bfloat16 (what precision auto and weights auto take)": facts["bfloat16"],
    }
    for title, section in sections.items():
        lines += ["", title, *(f"  {k:<16}{v}" for k, v in section.items())]
    lines += ["", "process", *(f"  {setting}" for setting in facts["process"])]
    for device, ops in facts["backends"].items():
        lines += ["", f"backends on {device}"]
        for op, backend in ops.items():
            lines.append(f"  {op:<16}{backend['active']}")
            lines += [f"    not {name}: {why}" for name, why in backend["others"].items()]
        if device == "cpu":
            lines.append(f"  whole block as one op: {facts['fused_block_on_cpu']}")
    return "\n".join(lines)
