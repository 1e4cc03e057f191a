"""How many runs at a time."""

from __future__ import annotations

from dataclasses import replace

import torch

from mixture_of_mamba.evaluate.runner import default_jobs
from mixture_of_mamba.startup import usable_cores

from .runs import make_plan


def test_one_run_per_core_and_one_on_a_gpu() -> None:
    config = make_plan().config
    on_cpu = replace(config, train=replace(config.train, device="cpu"))
    on_gpu = replace(config, train=replace(config.train, device="cuda"))
    assert default_jobs(on_cpu) == usable_cores()
    assert default_jobs(on_gpu) == 1
    assert default_jobs(config) == (1 if torch.cuda.is_available() else default_jobs(on_cpu))
