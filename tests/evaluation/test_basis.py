"""What a figure depends on: it stays the same within a comparison, or is refused or made anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.evaluation.artefacts import checkpoint_of, read_current
from mixture_of_mamba.evaluation.basis import basis_of
from mixture_of_mamba.evaluation.comparison import load_comparison
from mixture_of_mamba.evaluation.plan import Job, Plan, read_plan, write_plan
from mixture_of_mamba.evaluation.report import write_gallery, write_report
from mixture_of_mamba.evaluation.report.sheet import captioned_grid
from mixture_of_mamba.evaluation.samples import save_examples
from mixture_of_mamba.evaluation.summary import write_comparison
from mixture_of_mamba.files import write_json
from mixture_of_mamba.modalities.image.files import IMAGE, png_bytes, read_image
from mixture_of_mamba.modalities.video_files import VIDEO, Clip
from tests.factories.runs import answers, make_plan, write_facts, write_model, write_run, write_runs

DIGESTS = {"train windows": "aa", "text tokenizer": "bb"}


def loss(job: Job, modality: str, steps: np.ndarray) -> np.ndarray:
    return 3.0 - 0.01 * steps * (2.0 if job.variant == "mom" else 1.0)


def with_fields(plan: Plan, **train: Any) -> Plan:
    return replace(plan, config=replace(plan.config, train=replace(plan.config.train, **train)))


@pytest.fixture
def plan() -> Plan:
    return replace(make_plan().resolved(), basis=basis_of(DIGESTS, "cpu"))


@pytest.fixture
def folder(tmp_path: Path, plan: Plan) -> Path:
    write_runs(tmp_path, plan, loss)
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 77),
        ("evaluate_batches", 3),
        ("evaluate_every", 1),
        ("batch_size", 8),
        ("device", "cuda"),
        ("threads", 2),
        ("precision", "bf16"),
        ("devices", 2),
        ("gradient_accumulation_steps", 2),
        ("activation_checkpointing", True),
        ("strategy", "ddp"),
        ("max_grad_norm", 0.5),
    ],
)
def test_settings_that_figures_depend_on_are_refused(
    folder: Path, plan: Plan, field: str, value: Any
) -> None:
    before = (folder / "plan.json").read_bytes()
    was = 1 if field == "threads" else getattr(plan.config.train, field)
    with pytest.raises(ValueError, match=rf"train\.{field}: {was!r} -> {value!r}.*another name"):
        write_plan(with_fields(plan, **{field: value}), folder)
    assert (folder / "plan.json").read_bytes() == before


def test_settings_that_no_figure_depends_on_may_change(folder: Path, plan: Plan) -> None:
    other = with_fields(plan, checkpoint_every=7, log_every=3, keep_checkpoints=1, progress=False,
                        tensorboard=False, threads=1)  # fmt: skip
    moved = replace(other.config, data=replace(other.config.data, cache=str(folder)))
    write_plan(replace(other, config=moved, smoothing=3), folder)
    assert load_comparison(folder).smoothing == 3


def changed(plan: Plan, **parts: Any) -> Plan:
    return replace(plan, basis={**plan.basis, **parts})


def test_other_data_devices_and_versions_are_refused(folder: Path, plan: Plan) -> None:
    versions = plan.basis["versions"]
    for other, words in (
        (changed(plan, data=DIGESTS | {"train windows": "cc"}), "data: other train windows"),
        (changed(plan, data={"train windows": "aa"}), "data: other text tokenizer"),
        (changed(plan, device="NVIDIA H100"), "device 'cpu' -> 'NVIDIA H100'"),
        (
            changed(plan, versions=versions | {"mixture-of-mamba": "9.9"}),
            f"version of mixture-of-mamba '{versions['mixture-of-mamba']}' -> '9.9'",
        ),
        (changed(plan, versions=versions | {"torch": "9.9"}), "version of torch"),
    ):
        with pytest.raises(ValueError, match="already holds another comparison") as error:
            write_plan(other, folder)
        assert words in str(error.value)


def test_figures_name_the_machines_and_versions_of_the_training(folder: Path, plan: Plan) -> None:
    abacus = {**plan.basis["machine"], "processor": "abacus"}
    write_plan(changed(plan, machine=abacus), folder)
    write_plan(changed(plan, machine=abacus), folder)
    figures = write_comparison(load_comparison(folder)).to_json()
    here = plan.basis["machine"]["processor"]
    assert figures["machine"]["processor"] == f"{here} and abacus"
    assert figures["versions"] == plan.basis["versions"]
    assert figures["data"] == DIGESTS


def test_a_folder_of_an_earlier_version_is_reported_but_not_gone_on_with(
    tmp_path: Path, plan: Plan
) -> None:
    write_runs(tmp_path, make_plan(), loss)
    plain = json.loads((tmp_path / "plan.json").read_text())
    del plain["basis"]
    (tmp_path / "plan.json").write_text(json.dumps(plain))
    assert write_comparison(load_comparison(tmp_path)).data == {}
    with pytest.raises(ValueError, match="not recorded by the version that began it"):
        write_plan(replace(make_plan(), basis=plan.basis), tmp_path)


def test_a_run_that_was_trained_otherwise_is_not_compared(folder: Path, plan: Plan) -> None:
    """By hand, or copied there: the page would say that all runs have one schedule."""
    path = folder / "mom-seed0" / "config.yaml"
    before = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(before) | {"train": {
        **yaml.safe_load(before)["train"], "steps": 120, "seed": 5}}, sort_keys=False))  # fmt: skip
    with pytest.raises(ValueError, match=r"mom-seed0 .*train.steps: 60 -> 120; train.seed: 0 -> 5"):
        load_comparison(folder)
    path.write_text(before)
    for job in plan.jobs(folder):
        write_json(job.folder / "data.json", {"digests": DIGESTS, "made_from": {}})
    load_comparison(folder)
    other = {"digests": DIGESTS | {"text tokenizer": "cc"}, "made_from": {}}
    write_json(folder / "dense-seed1" / "data.json", other)
    with pytest.raises(ValueError, match=r"dense-seed1 was trained on other data.*text tokenizer"):
        load_comparison(folder)


def make_samples(folder: Path, run: str, *pictures: int) -> None:
    examples = [
        Example({"text": "a caption", "image": np.full((8, 8, 3), picture, np.uint8)})
        for picture in pictures
    ]
    save_examples(examples, folder / run / "samples", {"image": IMAGE})
    made = json.loads((folder / run / "samples" / "examples.json").read_text())
    plain = {"checkpoint": checkpoint_of(folder / run), "samples": made}
    (folder / run / "samples" / "samples.json").write_text(json.dumps(plain))
    (folder / run / "samples" / "SHA256SUMS").unlink()


def test_samples_and_facts_of_an_older_model_are_left_out_and_named(
    folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    save_examples(
        [Example({"text": "a caption", "image": np.zeros((8, 8, 3), np.uint8)})],
        folder / "examples",
        {"image": IMAGE},
    )
    for run in ("dense-seed0", "mom-seed0"):
        make_samples(folder, run, 90)
        write_facts(folder / run, answers(4))
    comparison = load_comparison(folder)
    figures = write_comparison(comparison)
    assert list(figures.scores.runs) == ["dense", "mom"]
    assert write_gallery(comparison) == folder / "gallery.png"
    assert "Left out" not in write_report(comparison, figures).read_text()
    old = checkpoint_of(folder / "mom-seed0")
    job = next(j for j in plan.jobs(folder) if j.name == "mom-seed0")
    shutil.rmtree(job.folder / "model")
    write_model(job, seed=9)  # of the same step
    new = checkpoint_of(job.folder)
    assert new["step"] == old["step"] == 60 and new["sha256"] != old["sha256"]
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    why = f"facts.json was made from another checkpoint (step 60, {old['sha256'][:8]})"
    assert f"not judged: mom: seed 0: {why}" in said
    figures = json.loads((folder / "comparison.json").read_text())
    assert list(figures["facts"]["runs"]) == ["dense"]
    assert figures["checkpoints"]["mom-seed0"] == new
    page = (folder / "report.html").read_text()
    assert f"Left out: mom-seed0: {why.replace('facts', 'samples')}" in page
    assert new["sha256"][:16] in page
    write_facts(folder / "mom-seed0", answers(4))
    path = folder / "mom-seed0" / "facts.json"
    plain = json.loads(path.read_text())
    del plain["checkpoint"]
    path.write_text(json.dumps(plain))
    assert read_current(path, path.parent) == (
        None, "facts.json does not say which checkpoint it was made from")  # fmt: skip


def test_a_gallery_of_samples_that_are_gone_goes_too(folder: Path) -> None:
    (folder / "gallery.png").write_bytes(b"old")
    assert write_gallery(load_comparison(folder)) is None
    assert not (folder / "gallery.png").exists()


def test_a_gallery_has_gaps_where_a_variant_has_fewer_samples(folder: Path) -> None:
    """As after a comparison that was stopped while it wrote more samples than before."""
    real = [Example({"text": "a caption", "image": np.zeros((8, 8, 3), np.uint8)})] * 2
    save_examples(real, folder / "examples", {"image": IMAGE})
    make_samples(folder, "dense-seed0", 90, 90)
    make_samples(folder, "mom-seed0", 120)
    path = write_gallery(load_comparison(folder))
    assert path is not None
    cells = [[330 + j * 32 + 12, 26 + i * 32 + 12] for i in range(2) for j in range(3)]
    found = [int(read_image(path)[y, x, 0]) for x, y in cells]
    assert found == [0, 90, 120, 0, 90, 255]


def test_columns_of_a_sheet_are_those_of_all_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(np.full((8, 8, 3), 50, np.uint8)))
    rows = [("one", {"left": tmp_path / "a.png"}), ("two", {"right": tmp_path / "a.png"})]
    sheet = captioned_grid(rows)
    cells = [[330 + j * 32 + 12, 26 + i * 32 + 12] for i in range(2) for j in range(2)]
    assert [int(sheet[y, x, 0]) for x, y in cells] == [50, 255, 255, 50]


def test_moving_pictures_are_shown_frame_by_frame_in_the_gallery(folder: Path) -> None:
    """The page shows them as they move."""
    media = {"image": IMAGE, "video": VIDEO}
    shades = np.arange(3, dtype=np.uint8)[:, None, None, None] * 60 + 20
    clip = Clip(np.broadcast_to(shades, (3, 6, 6, 3)), 4.0)
    still = np.full((8, 8, 3), 10, np.uint8)
    example = Example({"text": "a caption", "image": still, "video": clip})
    places = [folder / "examples", *(folder / f"{v}-seed0" / "samples" for v in ("dense", "mom"))]
    for place in places:
        save_examples([example], place, media)
    for place in places[1:]:
        made = json.loads((place / "examples.json").read_text())
        assert set(made[0]["items"]) == {"image", "video"}
        plain = {"checkpoint": checkpoint_of(place.parent), "samples": made}
        (place / "samples.json").write_text(json.dumps(plain))
        (place / "SHA256SUMS").unlink()
    comparison = load_comparison(folder)
    path = write_gallery(comparison)
    assert path is not None
    sheet = read_image(path)
    width = 3 * (3 * 7 - 1)  # of three frames with gaps, at a scale of 3
    assert sheet.shape == (26 + 24 + 8 + 18 + 8 + 8, 330 + 3 * (width + 8) + 8, 3)
    row = sheet[26 + 24 + 8 + 9, :, 0]
    for column in range(3):
        left = 330 + column * (width + 8)
        assert row[[left + 9, left + 30, left + 51]].tolist() == [20, 80, 140]
    page = write_report(comparison, write_comparison(comparison)).read_text()
    assert page.count("data:image/webp") == 3 and page.count("data:image/png") == 3


def test_facts_of_fewer_captions_are_not_beside_those_of_more(folder: Path) -> None:
    for i, job in enumerate(read_plan(folder).jobs(folder)):
        write_facts(job.folder, answers(4) | {"examples": 5 if i == 3 else 3})
    facts = write_comparison(load_comparison(folder)).to_json()["facts"]
    assert facts["examples"] == 5 and list(facts["runs"]) == ["mom"]
    assert list(facts["runs"]["mom"]) == ["1"]
    assert "facts.json is of 3 captions, others are of 5" in facts["not_judged"]["dense"]


def test_an_unfinished_comparison_says_so(tmp_path: Path, plan: Plan) -> None:
    plan = replace(plan, seeds=(0, 1, 2))
    write_plan(plan, tmp_path)
    for job in plan.jobs(tmp_path):
        if job.name != "mom-seed2":
            write_run(job, loss)
    comparison = load_comparison(tmp_path)
    figures = write_comparison(comparison)
    assert (figures.seeds, figures.planned_seeds) == ((0, 1), (0, 1, 2))
    page = write_report(comparison, figures).read_text()
    assert "2 seeds of 3, the others are not finished" in page
