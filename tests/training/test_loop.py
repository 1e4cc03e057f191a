"""What a step computes, what is logged, and what stops a training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.models.flops import flops_per_token
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.folder import write_config
from mixture_of_mamba.training.loop import Evaluation, NonFiniteLoss, train
from mixture_of_mamba.training.runs import read_config
from tests.factories.training import SIZES, WINDOW, build, build_uneven, logged, tiny_config


def losses(folder: Path, phase: str = "train") -> list[float]:
    return [line["loss"] for line in logged(folder) if line["phase"] == phase]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_loss_falls_below_chance_in_every_modality(tmp_path: Path) -> None:
    config = tiny_config(steps=80, learning_rate=1e-2, evaluate_every=80, checkpoint_every=80)
    train(config, tmp_path / "run", build=build)
    last = logged(tmp_path / "run")[-1]
    assert last["phase"] == "validation"
    for name, loss in last["losses"].items():
        assert loss < 0.7 * math.log(sum(SIZES.values())), (name, loss)


def test_run_folder_and_lines(tmp_path: Path) -> None:
    config = tiny_config(log_every=2)
    train(config, tmp_path / "run", build=build)
    run = tmp_path / "run"
    assert read_config(run) == config
    model = MultimodalModel.from_pretrained(run / "model")
    assert {m.name: m.size for m in model.config.modalities} == SIZES
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(x["phase"], x["step"]) for x in lines] == [
        ("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    for line in lines:
        assert line["tokens"] == line["step"] * 4 * WINDOW
        assert line["flops"] == line["tokens"] * flops_per_token(model.config, window=WINDOW)
        assert set(line["losses"]) == set(SIZES)
    assert [x["seconds"] for x in lines] == sorted(x["seconds"] for x in lines)


def test_a_run_is_read_where_its_data_is_not(tmp_path: Path) -> None:
    config = tiny_config()
    paths = {"source": "/nowhere/mine.jsonl", "tokenizers": "/nowhere/tokenizers"}
    config = replace(config, data=replace(config.data, **paths))
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", config)
    assert read_config(tmp_path / "run") == config


def test_a_start_must_be_there(tmp_path: Path) -> None:
    config = tiny_config()
    start = replace(config, model=replace(config.model, init_from=str(tmp_path / "none")))
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        train(start, tmp_path / "run", build=build)
    with pytest.raises(ValueError, match="only Mambas start from a pretrained one"):
        replace(start, model=replace(start.model, mixer="attention"))


def test_logged_means_weigh_every_target_once(tmp_path: Path) -> None:
    """One line over two steps equals both steps' lines, weighted by their numbers of targets."""
    train(tiny_config(steps=2, log_every=2), tmp_path / "pair", build=build_uneven)
    train(tiny_config(steps=2), tmp_path / "each", build=build_uneven)
    (pair,) = (x for x in logged(tmp_path / "pair") if x["phase"] == "train")
    first, second = (x for x in logged(tmp_path / "each") if x["phase"] == "train")
    assert pair["gradient_norm"] == second["gradient_norm"]
    for name, loss in pair["losses"].items():
        low, high = sorted([first["losses"][name], second["losses"][name]])
        assert low <= loss <= high


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_step_give_the_gradient_of_the_whole(tmp_path: Path, accumulate: int) -> None:
    """Although the parts have different numbers of targets."""
    train(tiny_config(), tmp_path / "whole", build=build_uneven)
    train(
        tiny_config(gradient_accumulation_steps=accumulate), tmp_path / "parts", build=build_uneven
    )
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-6)
    for name, value in final(tmp_path / "whole").items():
        torch.testing.assert_close(final(tmp_path / "parts")[name], value, atol=2e-4, rtol=0)


def test_recompute_changes_nothing(tmp_path: Path) -> None:
    train(tiny_config(), tmp_path / "kept", build=build)
    train(tiny_config(activation_checkpointing=True), tmp_path / "again", build=build)
    assert losses(tmp_path / "again") == losses(tmp_path / "kept")


def test_evaluation_and_samples_do_not_disturb_training(tmp_path: Path) -> None:
    def draw(evaluation: Evaluation) -> None:
        assert not evaluation.model.training
        torch.rand(7)

    train(tiny_config(evaluate_every=6), tmp_path / "rare", build=build)
    train(tiny_config(evaluate_every=1), tmp_path / "often", build=build, on_evaluation=draw)
    assert losses(tmp_path / "often") == losses(tmp_path / "rare")
    assert (
        losses(tmp_path / "often", "validation")[-1] == losses(tmp_path / "rare", "validation")[-1]
    )


def test_all_validation_windows_count_once(tmp_path: Path) -> None:
    """Nine windows in batches of four or three: the last, smaller batch weighs less."""
    results = []
    for size in (4, 3):
        config = tiny_config(steps=1, evaluate_batches=0, batch_size=size, learning_rate=0.0)
        train(config, tmp_path / str(size), build=build_uneven)
        results += losses(tmp_path / str(size), "validation")
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    train(tiny_config(), tmp_path / "wide", build=build)
    train(tiny_config(precision="bf16"), tmp_path / "narrow", build=build)
    assert losses(tmp_path / "narrow") == pytest.approx(losses(tmp_path / "wide"), rel=0.01)
    assert losses(tmp_path / "narrow") != losses(tmp_path / "wide")
    assert all(v.dtype == torch.float32 for v in final(tmp_path / "narrow").values())


def separate(**options: Any) -> RunConfig:
    plain = tiny_config(**options).to_dict()
    plain["model"]["vocabulary"] = "separate"
    return RunConfig.from_dict(plain)


def test_nan_loss_names_step_and_modality_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    def poison(evaluation: Evaluation) -> None:
        low, high = evaluation.model.config.vocabulary_ranges[1]
        evaluation.model.head.weight[low:high] = torch.nan

    run = tmp_path / "run"
    with pytest.raises(NonFiniteLoss) as error:
        train(separate(), run, build=build, on_evaluation=poison)
    message = str(error.value)
    assert "the loss of image became NaN or infinite at step 4" in message
    assert f"the last good checkpoint is {run / 'checkpoints' / 'step-00000002'}" in message
    assert "train.learning_rate" in message
    assert all(math.isfinite(loss) for loss in losses(run)) and len(losses(run)) == 3


def test_diverged_validation_stops_before_it_is_logged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        nan = (math.nan, {"text": 1.0, "image": math.nan, "speech": 1.0}, {})
        patch.setattr("mixture_of_mamba.training.trainer.validation_losses", lambda *a: nan)
        with pytest.raises(NonFiniteLoss, match="the validation loss of image became NaN"):
            train(tiny_config(), run, build=build)
    assert losses(run, "validation") == []


def test_infinite_gradient_stops_too(tmp_path: Path) -> None:
    def poison(evaluation: Evaluation) -> None:
        evaluation.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)

    with pytest.raises(
        NonFiniteLoss, match=r"the norm of the gradients became .* at step 4; there"
    ):
        train(tiny_config(checkpoint_every=6), tmp_path / "run", build=build, on_evaluation=poison)


def test_tensorboard_has_losses_by_modality(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(tensorboard=True), tmp_path / "run", build=build)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in SIZES:
        wanted = [x["losses"][name] for x in logged(tmp_path / "run") if x["phase"] == "train"]
        scalars = events.Scalars(f"train/loss_{name}")
        assert [s.step for s in scalars] == list(range(1, 7))
        assert [s.value for s in scalars] == pytest.approx(wanted)


def test_progress_bar_shows_losses_and_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(progress=True), tmp_path / "bar", build=build)
    shown = capsys.readouterr().err
    assert "6/6" in shown and "tokens/s" in shown and "speech" in shown
    train(tiny_config(progress=False), tmp_path / "lines", build=build)
    shown = capsys.readouterr().err
    assert [line.split()[1] for line in shown.splitlines()] == ["3/6", "6/6"]
    assert "left" in shown
