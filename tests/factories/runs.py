"""Run folders with losses that are known, as if they had been trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mixture_of_mamba.data.digits.proportions import clustered_proportion
from mixture_of_mamba.data.digits.scoring import QUESTIONS
from mixture_of_mamba.evaluation.artefacts import checkpoint_of
from mixture_of_mamba.evaluation.plan import Job, Plan, write_plan
from mixture_of_mamba.models import Modality, MultimodalModel
from mixture_of_mamba.training.config import RunConfig, model_config
from mixture_of_mamba.training.folder import write_config

MODALITIES = (Modality("text", "discrete", 30), Modality("image", "discrete", 20))
FLOPS_PER_STEP, TOKENS_PER_STEP = 1000, 64


def make_plan(
    variants: Sequence[str] = ("dense", "mom"),
    seeds: Sequence[int] = (0, 1),
    steps: int = 60,
    d_model: int = 16,
) -> Plan:
    config = RunConfig.from_dict(
        {
            "data": {"setting": "chameleon", "window": 80},
            "model": {"d_model": d_model, "n_layers": 2},
            "train": {"steps": steps, "batch_size": 4, "warmup": 2, "evaluate_every": 2},
        }
    )
    return Plan(
        config=config,
        variants=tuple(variants),
        baseline=variants[0],
        seeds=tuple(seeds),
        command="mom compare --out <here>",
    )


def write_runs(out: Path, plan: Plan, loss: Callable[[Job, str, np.ndarray], np.ndarray]) -> None:
    """Write a comparison folder whose runs are finished.

    Args:
        loss: (job, modality, steps) -> validation losses at these steps.
    """
    write_plan(plan, out)
    for job in plan.jobs(out):
        write_run(job, loss)


def write_run(job: Job, loss: Callable[[Job, str, np.ndarray], np.ndarray]) -> None:
    train = job.config.train
    write_model(job)
    write_config(job.folder, job.config)
    steps = np.arange(train.evaluate_every, train.steps + 1, train.evaluate_every)
    losses = {m.name: loss(job, m.name, steps) for m in MODALITIES}
    with (job.folder / "metrics.jsonl").open("w") as file:
        for i, step in enumerate(steps):
            line = {
                "phase": "validation",
                "step": int(step),
                "tokens": int(step) * TOKENS_PER_STEP,
                "flops": int(step) * FLOPS_PER_STEP,
                "seconds": 0.5 * float(step),
                "learning_rate": 1e-3,
                "loss": 0.0,
                "losses": {name: float(values[i]) for name, values in losses.items()},
            }
            file.write(json.dumps(line) + "\n")


def write_model(job: Job, seed: int = 0) -> None:
    sizes = [(m.name, m.kind, m.size) for m in MODALITIES]
    network = model_config(job.config.model, sizes)
    MultimodalModel(network, seed=seed).save_pretrained(job.folder / "model")


def of_ten(right: int) -> dict[str, float]:
    return clustered_proportion([1] * right + [0] * (10 - right), [1] * 10)._asdict()


def answers(right: int) -> dict[str, object]:
    share = of_ten(right)
    task = dict.fromkeys(QUESTIONS, share)
    return {"examples": 5, "ceiling": dict.fromkeys(QUESTIONS, of_ten(10)),
            "text_to_image": task, "image_to_text": task}  # fmt: skip


def write_facts(run: Path, facts: dict[str, object]) -> None:
    plain = {"checkpoint": checkpoint_of(run), **facts}
    (run / "facts.json").write_text(json.dumps(plain))
