"""Report sections: costs, the definition of the metric, and provenance."""

from __future__ import annotations

from ...training.progress_bar import clock
from ..figures import Figures
from .charts import flops_unit
from .html import escape, section, table

__all__ = ["cost", "how_to_read", "provenance"]


def cost(figures: Figures) -> str:
    """Parameters, FLOPs, throughput."""
    rows = [
        (
            "",
            "parameters",
            "met by one token",
            "FLOPs a token",
            "tokens/s",
            "training time",
            "training FLOPs",
        )
    ]
    for name, v in figures.variants.items():
        rows.append(
            (
                name,
                f"{v.parameters:,}",
                f"{v.active_parameters:,}",
                f"{v.flops_per_token:,}",
                f"{v.tokens_per_second:,.0f}",
                clock(v.seconds),
                _flops(v.flops),
            )
        )
    by_part = figures.variants[figures.baseline].flops_by_part
    total = sum(by_part.values())
    shares = ", ".join(f"{part} {100 * flops / total:.0f} %" for part, flops in by_part.items())
    note = f"<p class='note'>FLOPs of one token (forward and backward): {escape(shares)}.</p>"
    return section(
        "What it costs",
        table(rows),
        note,
        intro="Each token meets one expert per projection, so a mixture has more parameters but "
        "the FLOPs per token of the dense model. Times are of training, without evaluation, one "
        f"thread a run unless the command says otherwise. {figures.times_statement}",
    )


def _flops(flops: float) -> str:
    scale, unit = flops_unit(flops)
    return f"{flops / scale:.1f} {unit}"


def how_to_read(figures: Figures) -> str:
    """The metric's definition, its smoothing and what the seeds can bear."""
    n = len(figures.seeds)
    seeds = (
        "There is one seed, so there are no intervals; differences of a few per cent may be chance."
        if n == 1
        else f"Intervals are 95 % Student t intervals of the mean over {n} seeds, paired by seed: "
        "over many such comparisons 95 % of them hold the true mean, where figures vary normally "
        "from seed to seed. With two or three seeds they are wide; more seeds narrow them. Each "
        "stands for itself: of twenty, one misses."
    )
    texts = [
        "Relative FLOPs to match = training FLOPs of the variant when its smoothed validation "
        "loss first reaches the baseline's final smoothed loss, divided by all training FLOPs of "
        "the baseline; per modality and seed, then averaged. Below 100 % the variant saves.",
        figures.smoothing_statement + " All evaluations use the same held-out windows.",
        "All variants see the same batches in the same order, start from the same values in all "
        "that they share, and have the same learning-rate schedule, which is as long as the whole "
        "run: the variant is at a higher learning rate when it is compared with the baseline's "
        "end, which makes the figure a cautious one.",
        seeds,
        '"Not reached" means that the variant stayed above that loss to its own end; where only '
        "some seeds reached it there is no mean and no interval.",
    ]
    return section("How to read it", *(f"<p>{escape(text)}</p>" for text in texts))


def provenance(figures: Figures) -> str:
    """Command, machine and versions, and the models that everything on the page is of."""
    facts = {**figures.machine, **figures.versions}
    entries = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    models = [
        (name, f"{of['step']:,}", of["sha256"][:16]) for name, of in figures.checkpoints.items()
    ]
    return section(
        "Where it comes from",
        f"<pre>{escape(figures.command)}</pre>",
        f"<dl>{entries}</dl>",
        table([("model", "step", "SHA-256 of its weights"), *models]),
        "<p class='note'>The same figures, by seed and with all intervals, are in "
        "comparison.json beside this page; each run's configuration is in its config.yaml. "
        "<code>mom report FOLDER</code> rebuilds this page.</p>",
    )
