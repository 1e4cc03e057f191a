"""Does what a page prints, in its order, in the present folder; Python blocks share their names.

    python tests/docs/session.py < STEPS    # [{"kind": "python" | "shell", "line", "text"}, …]

Goes on after a step that fails; the exit code is 1 where one did.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from typing import Any

SECONDS = 900
"""That one command may take."""


def main() -> int:
    page, failed = sys.argv[1], 0
    names: dict[str, Any] = {"__name__": "__main__"}
    for step in json.load(sys.stdin):
        began = time.monotonic()
        wrong = (python if step["kind"] == "python" else shell)(page, step, names)
        failed += bool(wrong)
        title = step["text"] if step["kind"] == "shell" else "(Python)"
        took = f"{time.monotonic() - began:.1f} s"
        print(f"{page}:{step['line']}: {wrong or 'done'}, {took}: {title}", flush=True)
    return 1 if failed else 0


def python(page: str, step: dict[str, Any], names: dict[str, Any]) -> str:
    """Run a block; what went wrong, with the page's own line numbers, or ""."""
    try:
        exec(compile("\n" * (step["line"] - 1) + step["text"], page, "exec"), names)
    except Exception:
        return f"FAILED\n{traceback.format_exc()}\n"
    return ""


def shell(page: str, step: dict[str, Any], names: dict[str, Any]) -> str:
    """Run a command; what went wrong, with the end of what it said, or ""."""
    try:
        done = subprocess.run(
            ["bash", "-c", step["text"]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"FAILED: not done after {SECONDS} s"
    if done.returncode:
        return f"FAILED with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n"
    return ""


if __name__ == "__main__":
    sys.exit(main())
