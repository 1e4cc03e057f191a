"""The figures of a comparison: the content of comparison.json, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .intervals import Estimate
from .scores import Scores

__all__ = ["Figures", "NoiseBin", "VariantFigures"]


@dataclass(frozen=True)
class NoiseBin:
    """A continuous modality's figures in one part of the noise levels.

    Attributes:
        part, parts: index of the part, from clean to noise, and their number.
        metrics: estimates by metric, see summary.METRICS.
    """

    part: int
    parts: int
    metrics: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Plain values: means by metric, then intervals and values by seed."""
        return {
            "part": self.part,
            "parts": self.parts,
            **{key: e.mean for key, e in self.metrics.items()},
            "intervals": {k: e.interval and list(e.interval) for k, e in self.metrics.items()},
            "by_seed": {k: list(e.values) for k, e in self.metrics.items()},
        }


@dataclass(frozen=True, kw_only=True)
class VariantFigures:
    """What one variant costs and reaches.

    Attributes:
        parameters, active_parameters: of the model, and those that one token meets.
        flops_per_token: of training.
        flops_by_part: the same by part of the network.
        metrics: estimates over seeds by metric (see summary.METRICS) and modality.
        seconds: of training, mean over seeds.
        tokens_per_second: over all seeds.
        tokens, flops: of a run.
        last_loss: by modality, the last validation loss without smoothing, mean over seeds.
        by_noise_level: by continuous modality, from clean to noise.
    """

    parameters: int
    active_parameters: int
    flops_per_token: int
    flops_by_part: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Estimate]]
    seconds: float
    tokens_per_second: float
    tokens: int
    flops: float
    last_loss: Mapping[str, float]
    by_noise_level: Mapping[str, Sequence[NoiseBin]]

    def final_loss(self, modality: str) -> float:
        """Mean over seeds of the final smoothed validation loss."""
        loss = self.metrics["final_loss"][modality].mean
        assert loss is not None  # every finished run has one
        return loss

    def gain(self, modality: str) -> Estimate:
        """How much lower it ends than the baseline, in percent of the baseline's final loss."""
        return self.metrics["gain_percent"][modality]

    def flops_to_match(self, modality: str) -> Estimate:
        """Share of the baseline's FLOPs after which it has the baseline's final loss."""
        return self.metrics["relative_flops_to_match"][modality]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the keys of comparison.json."""
        metrics = self.metrics.items()
        return {
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "flops_per_token": self.flops_per_token,
            "flops_by_part": dict(self.flops_by_part),
            **{key: {n: e.mean for n, e in by.items()} for key, by in metrics},
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "tokens": self.tokens,
            "flops": self.flops,
            "last_loss": dict(self.last_loss),
            "intervals": {
                key: {n: e.interval and list(e.interval) for n, e in by.items()}
                for key, by in metrics
            },
            "by_seed": {key: {n: list(e.values) for n, e in by.items()} for key, by in metrics},
            "by_noise_level": {
                name: [noise_bin.to_json() for noise_bin in bins]
                for name, bins in self.by_noise_level.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A whole comparison.

    Attributes:
        setting: name of the data's setting.
        baseline: variant that the others are compared with.
        seeds, planned_seeds: those of which every variant has finished, and all.
        modalities: in the order of their ids.
        variants: in the order of the plan.
        scores: of what was generated; "facts" in the file.
        smoothing: points of the window.
        smoothing_statement: how losses were smoothed, in words.
        times_alone: whether seconds were measured on an otherwise idle machine.
        times_statement: the same in words.
        steps: of every run.
        command: that the comparison was made with.
        data: digests.
        checkpoints: of each run, the step and digest of the model that the figures are of.
        machine, versions: that trained the runs.
    """

    setting: str
    baseline: str
    seeds: Sequence[int]
    modalities: Sequence[str]
    variants: Mapping[str, VariantFigures]
    scores: Scores
    smoothing: int
    smoothing_statement: str
    times_alone: bool
    times_statement: str
    steps: int
    command: str
    planned_seeds: Sequence[int]
    data: Mapping[str, str]
    checkpoints: Mapping[str, Mapping[str, Any]]
    machine: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def others(self) -> list[str]:
        """Variants beside the baseline."""
        return [name for name in self.variants if name != self.baseline]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as comparison.json holds them; None stands for "not reached"."""
        return {
            "setting": self.setting,
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "modalities": list(self.modalities),
            "variants": {name: v.to_json() for name, v in self.variants.items()},
            "facts": self.scores.to_json(),
            "smoothing": {
                "phase": "validation",
                "points": self.smoothing,
                "statement": self.smoothing_statement,
            },
            "times": {"alone": self.times_alone, "statement": self.times_statement},
            "steps": self.steps,
            "command": self.command,
            "planned_seeds": list(self.planned_seeds),
            "data": dict(self.data),
            "checkpoints": dict(self.checkpoints),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
        }
