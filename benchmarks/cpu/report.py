"""The numbers as a Markdown table with the targets beside them, and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["markdown", "plot", "put_between"]

MARKS = ("<!-- cpu benchmark: start -->", "<!-- cpu benchmark: end -->")


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, measured, target)."""
    table: list[tuple[str, str, str]] = []
    for kind, limits in (("forward", (45, 120)), ("forward+backward", (40, 1200))):
        runs = [r for r in found.get("scan", []) if r["what"] == kind]
        for key, target in (
            ("mamba.py", f">= {limits[0]}"),
            ("formula, channels first", f">= {limits[1]}"),
            ("formula, step by step", ""),
            ("torch", ""),
        ):
            values = [r["times faster than"].get(key) for r in runs]
            text = _join(["-" if v is None else f"{v:.0f}" for v in values])
            if values:
                table.append((f"scan, {kind}: times faster than {key}", text, target))
    if "memory" in found:
        value = found["memory"]["mamba.py over ours"]
        table.append(("scan: memory of mamba.py / ours", f"{value:.0f}", ">= 28"))
    for r in found.get("convolution", []):
        what = f"convolution, {r['what']} {_size(r['size'])}: times faster than F.conv1d"
        table.append((what, f"{r['times faster than F.conv1d']:.1f}", ""))
    runs = found.get("block", [])
    for key, target in (
        ("2 modalities", "<= 1.01"),
        ("3 modalities", "<= 1.03"),
        ("2 modalities, one of 3 %", ""),
    ):
        values = [_ratio(r["over dense"][key]) for r in runs]
        if values:
            table.append((f"block, {key} / dense", _join(values), target))
    if runs:
        values = [_ratio(r["bfloat16 over float32"]) for r in runs]
        table.append(("block, bfloat16 over float32", _join(values), "<= 0.6"))
    for key, target in (
        ("times faster than mamba.py", ">= 10"),
        ("limit over achieved", ">= 0.90"),
    ):
        if runs:
            table.append((f"block, {key}", _join([f"{r[key]:.2f}" for r in runs]), target))
    if "growth" in found:
        text = _ratio(found["growth"]["longest over 1,024"])
        table.append(("block, longest / 1,024 tokens", text, "<= 1.1"))
    if "training" in found:
        text = _ratio(found["training"]["mixture over dense"])
        table.append(("training step, 3 modalities / dense", text, ""))
    for key, value in found.get("head", {}).items():
        if key != "size":
            what = f"cross entropy, {_size(found['head']['size'])}: {key}"
            table.append((what, _ratio(value), ""))
    for form, target in (("float32", ">= 4"), ("bfloat16", ">= 10"), ("int8", ">= 22")):
        if "decode" in found:
            value = found["decode"]["times faster than transformers, batch 1"][form]
            table.append(
                (f"decode, {form}: times faster than transformers", f"{value:.1f}", target)
            )
    if "decode" in found:
        rate, memory = found["decode"]["weight GB/s, batch 1"], found["decode"]["memory GB/s"]
        text = _join([f"{rate[form] / memory:.2f}" for form in rate])
        table.append(("decode: weights read, over torch's sum of as many bytes", text, ""))
    if "prefill" in found:
        value = found["prefill"]["times faster"]
        table.append(("prefill: times faster than transformers", f"{value:.1f}", ">= 10"))
        run = found["prefill"]
        value = run["ms"]["transformers"]["median"] / run["products ms"]
        table.append(("prefill: the same if only products at peak took time", f"{value:.1f}", ""))
    return table


def _ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.3f} ({r['low']:.2f}..{r['high']:.2f})"


def markdown(found: dict[str, Any]) -> str:
    machine = found["machine"]
    sizes = ", ".join(_size(r["size"]) for r in found.get("scan", [])[::2])
    blocks = ", ".join(_size(r["size"]) for r in found.get("block", []))
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}; "
        f"kernels: {machine['lanes']} float32 lanes. "
        f"Sizes of the scan (batch x length x channels): {sizes}; "
        f"of the block (batch x length x d_model): {blocks}. "
        "Interleaved medians; ratios with a 95 % interval are medians over pairs of turns.",
        "",
        "| what | measured | target |",
        "|---|---|---|",
        *(f"| {what} | {value} | {target} |" for what, value, target in rows(found)),
        "",
        "| milliseconds | median (quartiles) |",
        "|---|---|",
    ]
    for section in ("scan", "convolution", "block", "growth", "training", "decode", "prefill"):
        part = found.get(section, [])
        for run in part if isinstance(part, list) else [part]:
            where = " ".join([section, run.get("what", ""), _size(run.get("size", ()))]).strip()
            for name, t in run["ms"].items():
                lines.append(
                    f"| {where}: {name} | {t['median']:.4g} ({t['low']:.4g}..{t['high']:.4g}) |"
                )
    if failed := found.get("failed"):
        lines += ["", *(f"Not measured: {name}: {why}" for name, why in failed.items())]
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Scan times by size, and the block's time by length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    runs = [r for r in found.get("scan", []) if r["what"] == "forward+backward"]
    names = list(runs[0]["ms"]) if runs else []
    for i, name in enumerate(names):
        timed = [(j, r["ms"][name]["median"]) for j, r in enumerate(runs) if name in r["ms"]]
        places = [j + 0.2 * i - 0.1 for j, _ in timed]
        left.bar(places, [height for _, height in timed], 0.19, label=name)
    left.set_xticks([j + 0.3 for j in range(len(runs))], [_size(r["size"]) for r in runs])
    left.set(yscale="log", ylabel="ms", title="scan, forward + backward")
    left.legend(fontsize=8, ncols=2, loc="upper left")
    left.set_ylim(top=left.get_ylim()[1] * 12)  # room for the legend
    times = found.get("growth", {}).get("ms", {})
    right.plot([int(n) for n in times], [t["median"] for t in times.values()], "o-")
    right.set(xscale="log", xlabel="sequence length", ylabel="ms")
    right.set_ylim(0, right.get_ylim()[1] * 1.1)
    right.set_title("block, forward + backward, equal total tokens")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def put_between(path: Path, text: str) -> None:
    """Replace what stands between the marks of a document; add them at its end where missing."""
    old = path.read_text() if path.exists() else "# Performance\n"
    block = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
    if MARKS[0] in old and MARKS[1] in old:
        before, rest = old.split(MARKS[0], 1)
        old = before + block + rest.split(MARKS[1], 1)[1]
    else:
        old = f"{old.rstrip()}\n\n## CPU\n\n{block}\n"
    path.write_text(old)


def _join(values: list[str]) -> str:
    return " / ".join(values)


def _size(size: Any) -> str:
    return " x ".join(map(str, size))
