"""comparison.json from runs whose losses are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.evaluation.artefacts import checkpoint_of
from mixture_of_mamba.evaluation.comparison import load_comparison
from mixture_of_mamba.evaluation.plan import Job, Plan, read_plan, write_plan
from mixture_of_mamba.evaluation.rebuild import report_comparison
from mixture_of_mamba.evaluation.report import write_report
from mixture_of_mamba.evaluation.samples import save_examples
from mixture_of_mamba.evaluation.scores import read_scores, why_not_sampled
from mixture_of_mamba.evaluation.summary import write_comparison
from mixture_of_mamba.evaluation.tables import headline_rows, markdown_table, text_table
from mixture_of_mamba.evaluation.variants import variant_config
from mixture_of_mamba.modalities.config import ModalityConfig
from mixture_of_mamba.modalities.image.files import IMAGE, png_bytes, read_image
from mixture_of_mamba.modalities.speech.files import wav_bytes
from tests.factories.data import tiny_config
from tests.factories.runs import (
    FLOPS_PER_STEP,
    TOKENS_PER_STEP,
    answers,
    make_plan,
    of_ten,
    write_facts,
    write_run,
    write_runs,
)

SPEED = {0: 0.5, 1: 0.6}


def written(folder: Path) -> dict[str, Any]:
    """The content of comparison.json, written anew."""
    figures = write_comparison(load_comparison(folder)).to_json()
    assert json.loads((folder / "comparison.json").read_text()) == figures
    return figures


def loss(job: Job, modality: str, steps: np.ndarray) -> np.ndarray:
    """The mixture reads text 2 x and 1.67 x as fast, and is always worse at pictures."""
    if modality == "image":
        return 3.0 + 5.0 / steps + (0.5 if job.variant == "mom" else 0.0)
    speed = SPEED[job.seed] if job.variant == "mom" else 1.0
    return 2.0 - 0.01 * steps / speed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_runs(tmp_path, make_plan(), loss)
    return tmp_path


def test_figures_of_known_curves(folder: Path) -> None:
    """Straight lines, which smoothing leaves alone: all figures are known exactly."""
    figures = written(folder)
    mom, dense = figures["variants"]["mom"], figures["variants"]["dense"]
    assert dense["final_loss"]["text"] == pytest.approx(1.4)
    assert mom["final_loss"]["text"] == pytest.approx(2 - 0.6 * (1 / 0.5 + 1 / 0.6) / 2)
    assert mom["relative_flops_to_match"]["text"] == pytest.approx(0.55)
    assert mom["by_seed"]["relative_flops_to_match"]["text"] == pytest.approx([0.5, 0.6])
    # Student's t with one degree of freedom: 0.55 +- 12.706 * 0.05, and nothing is below zero
    ends = mom["intervals"]["relative_flops_to_match"]["text"]
    assert ends == pytest.approx([0.0, 0.55 + 12.706205 * 0.05])
    gains = [100 * (1.4 - (2 - 0.6 / speed)) / 1.4 for speed in SPEED.values()]
    assert mom["by_seed"]["gain_percent"]["text"] == pytest.approx(gains)
    assert mom["gain_percent"]["text"] == pytest.approx(np.mean(gains))
    assert mom["seconds"] == pytest.approx(30.0)
    assert mom["tokens_per_second"] == pytest.approx(2 * TOKENS_PER_STEP)
    assert mom["flops_per_token"] == round(FLOPS_PER_STEP / TOKENS_PER_STEP)


def test_not_reached_is_null_in_the_file(folder: Path) -> None:
    write_comparison(load_comparison(folder))
    figures = json.loads((folder / "comparison.json").read_text())
    mom = figures["variants"]["mom"]
    assert mom["relative_flops_to_match"]["image"] is None
    assert mom["intervals"]["relative_flops_to_match"]["image"] is None
    assert mom["gain_percent"]["image"] < 0


def test_the_file_has_the_fields_of_the_contract(folder: Path) -> None:
    figures = written(folder)
    assert figures["setting"] == "chameleon"
    assert figures["baseline"] == "dense"
    assert figures["seeds"] == [0, 1]
    wanted = {"parameters", "active_parameters", "flops_per_token", "final_loss", "gain_percent"}
    assert {*wanted, "relative_flops_to_match", "seconds"} <= figures["variants"]["mom"].keys()
    dense, mom = (figures["variants"][v] for v in ("dense", "mom"))
    assert mom["parameters"] > mom["active_parameters"] == dense["parameters"]
    assert figures["command"] == "mom compare --out <here>"
    assert "5 neighbouring evaluations" in figures["smoothing"]["statement"]


def test_the_baseline_matches_itself_at_one(folder: Path) -> None:
    dense = written(folder)["variants"]["dense"]
    assert dense["relative_flops_to_match"] == {"text": 1.0, "image": 1.0}
    assert dense["gain_percent"] == {"text": 0.0, "image": 0.0}


def test_only_seeds_that_all_variants_have_finished_count(tmp_path: Path) -> None:
    plan = make_plan()
    write_plan(plan, tmp_path)
    jobs = {job.name: job for job in plan.jobs(tmp_path)}
    with pytest.raises(FileNotFoundError, match=r"still to do: dense-seed0, mom-seed0"):
        load_comparison(tmp_path)
    for name in ("dense-seed1", "mom-seed1", "dense-seed0"):
        write_run(jobs[name], loss)
    assert load_comparison(tmp_path).seeds == (1,)
    figures = written(tmp_path)
    assert figures["variants"]["mom"]["intervals"]["relative_flops_to_match"]["text"] is None


def test_machine_and_versions_stay_those_of_the_training(folder: Path) -> None:
    write_comparison(load_comparison(folder))
    path = folder / "comparison.json"
    figures = json.loads(path.read_text())
    path.write_text(json.dumps(figures | {"machine": {"processor": "abacus"}}))
    assert written(folder)["machine"] == {"processor": "abacus"}


def test_tables(folder: Path) -> None:
    rows = headline_rows(write_comparison(load_comparison(folder)), "mom")
    assert rows[0] == ("", "FLOPs to match", "dense", "mom", "gain")
    assert rows[1][:3] == ("text", "55 % (0–119)", "1.4000")
    assert rows[1][4] == "+35.7 % (-55.0 to +126.5)"
    assert rows[2][1] == "not reached"
    lines = text_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert markdown_table(rows).splitlines()[1] == "| --- | ---: | ---: | ---: | ---: |"


def test_reached_in_some_seeds_is_neither_a_mean_nor_not_reached(tmp_path: Path) -> None:
    def one(job: Job, modality: str, steps: np.ndarray) -> np.ndarray:
        worse = 0.5 if job.variant == "mom" and job.seed == 1 else 0.0
        return 3.0 + 5.0 / steps + worse

    write_runs(tmp_path, make_plan(seeds=[0, 1, 2]), one)
    comparison = load_comparison(tmp_path)
    figures = write_comparison(comparison)
    mom = figures.to_json()["variants"]["mom"]
    assert mom["relative_flops_to_match"]["text"] is None
    assert mom["intervals"]["relative_flops_to_match"]["text"] is None
    assert mom["by_seed"]["relative_flops_to_match"]["text"] == [1.0, None, 1.0]
    assert headline_rows(figures, "mom")[1][1] == "in 2 of 3 seeds"
    page = write_report(comparison, figures).read_text()
    assert "final loss was reached in 2 of 3 seeds" in page


def test_times_are_claimed_only_where_runs_were_alone(folder: Path) -> None:
    """Known curves and seconds; who ran beside whom is in timing.json."""
    for notes, alone in (
        ({}, False),
        ({job.name: "abacus" for job in read_plan(folder).jobs(folder)}, True),
        ({job.name: f"abacus {job.seed}" for job in read_plan(folder).jobs(folder)}, False),
        ({job.name: None for job in read_plan(folder).jobs(folder)}, False),
    ):
        (folder / "timing.json").write_text(json.dumps(notes))
        comparison = load_comparison(folder)
        figures = write_comparison(comparison)
        mom, rows = figures.to_json()["variants"]["mom"], headline_rows(figures, "mom")
        assert figures.times_alone is alone
        assert ("time to match" in rows[0]) is alone
        for found in (mom, mom["intervals"], mom["by_seed"]):
            assert ("relative_seconds_to_match" in found) is alone
        page = write_report(comparison, figures).read_text()
        assert ("time to match" in page) is alone and figures.times_statement in page
        if alone:
            assert mom["relative_seconds_to_match"]["text"] == pytest.approx(0.55)


def test_a_plan_is_read_back_as_it_was(tmp_path: Path) -> None:
    plan = make_plan(["dense", "mom", "in_proj+out_proj"], [3, 1])
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
    assert [job.name for job in plan.jobs(tmp_path)][:4] == [
        *("dense-seed3", "mom-seed3", "in_proj+out_proj-seed3", "dense-seed1")
    ]


def test_a_folder_of_another_comparison_is_refused(folder: Path) -> None:
    plan = make_plan()
    wider = replace(plan.config, model=replace(plan.config.model, d_model=32))
    with pytest.raises(ValueError, match=r"model\.d_model: 16 -> 32.*another name"):
        write_plan(replace(plan, config=wider), folder)
    more = replace(plan, seeds=(0, 1, 2))
    write_plan(more, folder)
    assert read_plan(folder).seeds == (0, 1, 2)


def test_a_baseline_that_is_no_variant_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "-c", "demo", "--out", str(tmp_path / "a"), "--baseline"]
    assert main([*arguments, "foo"]) == 1
    assert "there is no variant 'foo'; choose from dense, mom" in capsys.readouterr().err
    assert main([*arguments, "mot"]) == 1
    said = capsys.readouterr().err
    assert "needs the baseline 'mot'" in said and "the variants are dense, mom" in said


def test_a_plan_that_never_began_gives_way(tmp_path: Path) -> None:
    plan = make_plan()
    write_plan(plan, tmp_path)
    wider = replace(plan, config=replace(plan.config, train=replace(plan.config.train, steps=77)))
    write_plan(wider, tmp_path)
    assert read_plan(tmp_path) == wider


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan\.json is missing"):
        load_comparison(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("dense",)}, "at least one other variant"),
        ({"variants": ("dense", "mom", "mom")}, "mom appears twice"),
        ({"baseline": "transformer"}, "needs the baseline 'transformer'"),
        ({"variants": ("dense", "half")}, "no variant 'half'; choose from dense, mom"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "1 appears twice"),
        ({"smoothing": 0}, "at least 1"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_plan(), **changes)  # type: ignore[arg-type]


def test_curves_get_enough_points() -> None:
    plan: Plan = make_plan(steps=1500)
    often = replace(plan.config, train=replace(plan.config.train, evaluate_every=250))
    assert replace(plan, config=often).resolved().config.train.evaluate_every == 50
    assert plan.resolved().config.train.evaluate_every == 2


def level_lines(out: Path, plan: Plan) -> None:
    """Add losses by noise level to runs: straight lines, steeper for the mixture where there is
    little noise, equal in the middle, and none in the last part of one run."""
    for job in plan.jobs(out):
        path, lines = job.folder / "metrics.jsonl", []
        for line in map(json.loads, path.read_text().splitlines()):
            fast = 2.0 if job.variant == "mom" else 1.0
            levels: list[float | None] = [1 - 0.004 * line["step"] * fast, 1 - 0.01 * line["step"]]
            levels.append(None if (job.variant, job.seed) == ("mom", 1) else 0.5)
            lines.append(json.dumps(line | {"noise_levels": {"picture": levels}}))
        path.write_text("\n".join(lines) + "\n")


def test_noise_levels_are_matched_one_by_one(folder: Path) -> None:
    level_lines(folder, read_plan(folder))
    comparison = load_comparison(folder)
    figures = write_comparison(comparison)
    plain = figures.to_json()["variants"]
    dense, mom = (plain[v]["by_noise_level"]["picture"] for v in ("dense", "mom"))
    assert [line["part"] for line in mom] == [0, 1]  # the last part was not seen in every run
    assert mom[0]["relative_flops_to_match"] == pytest.approx(0.5)
    assert mom[0]["by_seed"]["gain_percent"] == pytest.approx([100 * 0.24 / 0.76] * 2)
    assert mom[0]["intervals"]["relative_flops_to_match"] == pytest.approx([0.5, 0.5])
    assert "relative_seconds_to_match" not in mom[0]
    assert dense[0]["final_loss"] == pytest.approx(0.76)
    assert mom[1]["relative_flops_to_match"] == pytest.approx(1.0)
    assert mom[1]["gain_percent"] == pytest.approx(0.0)
    page = write_report(comparison, figures).read_text()
    assert "Loss by noise level" in page
    assert re.search(r"<th scope=.row.>0\N{EN DASH}33.%</th><td>0.7600</td><td>0.5200</td>", page)


def test_runs_without_continuous_modalities_have_no_noise_levels(folder: Path) -> None:
    comparison = load_comparison(folder)
    figures = write_comparison(comparison)
    assert figures.variants["mom"].by_noise_level == {}
    assert "Loss by noise level" not in write_report(comparison, figures).read_text()


def test_every_seed_s_answers_are_in_the_report(folder: Path) -> None:
    for i, job in enumerate(read_plan(folder).jobs(folder)):
        write_facts(job.folder, answers(2 + i))
    comparison = load_comparison(folder)
    page = write_report(comparison, write_comparison(comparison)).read_text()
    found = re.findall(r"<tr><th scope=.row.>(dense|mom)</th><td>(\d)</td><td>(\d+).%", page)
    shares = {(job.variant, str(job.seed)): f"{10 * (2 + i)}"
              for i, job in enumerate(read_plan(folder).jobs(folder))}  # fmt: skip
    assert found == 2 * [(variant, seed, shares[variant, seed])
                         for variant in ("dense", "mom") for seed in "01"]  # fmt: skip


def judged(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        write_facts(folder / name, answers(2 + i))


def test_facts_stand_in_the_file_and_are_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(folder, "dense-seed0", "mom-seed0", "dense-seed1", "mom-seed1")
    write_comparison(load_comparison(folder))
    facts = json.loads((folder / "comparison.json").read_text())["facts"]
    assert facts["examples"] == 5 and facts["not_judged"] == {}
    assert facts["ceiling"]["digit"]["correct"] == 10
    assert list(facts["runs"]) == ["dense", "mom"] and list(facts["runs"]["mom"]) == ["0", "1"]
    assert facts["runs"]["mom"]["1"]["text_to_image"]["colour"] == of_ten(5)
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    for title in ("picture from caption", "caption from picture"):
        assert f"{title}: right of all, 95 % interval\n" in said
    assert "caption from voice" not in said and "not judged" not in said
    low, high = (100 * of_ten(5)[end] for end in ("low", "high"))
    cell = rf"5/10 \({low:.0f}\N{{EN DASH}}{high:.0f} %\)"
    assert len(re.findall(rf"^mom +1(?: +{cell}){{5}}$", said, re.MULTILINE)) == 2
    assert len(re.findall(r"^the real pictures +10/10 ", said, re.MULTILINE)) == 1


def test_who_was_not_judged_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(["dense", "mom", "transformer", "mot"], d_model=32)
    write_runs(tmp_path, plan, lambda job, name, steps: 2.0 - 0.01 * steps)
    judged(tmp_path, "dense-seed0", "dense-seed1", "mom-seed0")
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not judged: transformer, mot: attention keeps no state of fixed size" in said
    assert "not judged: mom: seed 1: there is no facts.json" in said
    facts = json.loads((tmp_path / "comparison.json").read_text())["facts"]
    assert list(facts["not_judged"]) == ["mom", "transformer", "mot"]
    assert "Not judged: mom: seed 1" in (tmp_path / "report.html").read_text()


def test_runs_whose_scenes_are_all_clips_are_told_of_no_remedy(tmp_path: Path) -> None:
    plan = make_plan()
    text, video = plan.config.modalities["text"], ModalityConfig("frames")
    why = {}
    for names in ("text video", "text image video"):
        modalities = {"text": text, "image": ModalityConfig("vq"), "video": video}
        modalities = {name: modalities[name] for name in names.split()}
        data = replace(plan.config.data, window=256)
        clips = replace(plan, config=replace(plan.config, modalities=modalities, data=data))
        why[names] = read_scores(clips, tmp_path, [0]).not_scored["dense"]
    assert why["text video"] == "no held-out scene has facts: all are clips, which are not judged"
    assert "there is no facts.json; its command with --judged 64" in why["text image video"]


def test_a_task_that_no_run_can_do_is_named_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {k: v for k, v in answers(3).items() if k not in ("ceiling", "text_to_image")}
    for name in ("dense-seed0", "mom-seed0", "dense-seed1", "mom-seed1"):
        left_out = {"text_to_image": "the network has no decoder"}
        write_facts(folder / name, {**found, "left_out": left_out})
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "caption from picture: right of all" in said
    assert "picture from caption: right of all" not in said and "the real pictures" not in said
    assert "not judged: picture from caption: the network has no decoder\n" in said
    assert "Not judged: picture from caption: the network" in (folder / "report.html").read_text()
    facts = json.loads((folder / "comparison.json").read_text())["facts"]
    assert facts["left_out"] == {"text_to_image": "the network has no decoder"}


def test_reasons_follow_from_what_the_runs_are() -> None:
    plan = make_plan(["dense", "mot"], d_model=32)
    dense, mot = (variant_config(plan.config, v, 0) for v in plan.variants)
    assert why_not_sampled(dense) is None
    assert "each token would read all" in str(why_not_sampled(mot))
    modalities = tiny_config("transfusion").modalities
    images = replace(mot, modalities=modalities, data=replace(mot.data, window=256))
    assert "from which a continuous image is denoised" in str(why_not_sampled(images))


def test_a_folder_judged_before_a_question_was_asked_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answers(4)
    tasks = ("ceiling", "text_to_image", "image_to_text")
    before |= {t: {q: x for q, x in before[t].items() if q != "fact"} for t in tasks}  # type: ignore[attr-defined]
    for job in read_plan(folder).jobs(folder):
        write_facts(job.folder, before)
    assert main(["report", str(folder)]) == 0
    assert re.search(r"^mom +1(?: +4/10 \(\S+ %\)){3} +4/10", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("damage", [b"", b'[{"caption": "a re'])
def test_damaged_artefacts_are_named_and_in_nobodys_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    """Samples, facts, real examples and the figures of before; the rest of the report is made."""
    plan = make_plan()
    write_runs(tmp_path, plan, lambda job, name, steps: 2.0 + 0 * steps)
    pictures = [
        Example({"text": f"caption {i}", "image": np.full((8, 8, 3), i, np.uint8)})
        for i in range(2)
    ]
    save_examples(pictures, tmp_path / "examples", {"image": IMAGE})
    places = [tmp_path / "examples" / "examples.json", tmp_path / "comparison.json"]
    for job in plan.jobs(tmp_path):
        (job.folder / "samples").mkdir()
        places += [job.folder / "samples" / "samples.json", job.folder / "facts.json"]
    whole = (tmp_path / "examples" / "examples.json").read_bytes()
    for place in places:
        place.write_bytes(damage)
    figures, page = report_comparison(tmp_path)
    assert "Loss over training FLOPs" in page.read_text() and figures.seeds == (0, 1)
    said = capsys.readouterr().err
    read = [p for p in places if "seed1/samples" not in str(p)]  # the report shows the first seed's
    assert [p for p in read if str(p) not in said] == []
    assert json.loads((tmp_path / "comparison.json").read_text())["seeds"] == [0, 1]
    assert set(figures.scores.not_scored) == {"dense", "mom"}
    (tmp_path / "examples" / "examples.json").write_bytes(whole)
    report_comparison(tmp_path)
    assert str(tmp_path / "examples") not in capsys.readouterr().err
    (tmp_path / "examples" / "01.png").write_bytes(b"cut")
    report_comparison(tmp_path)
    assert f"{tmp_path / 'examples' / '01.png'} is damaged" in capsys.readouterr().err


def old_samples(folder: Path, shade: int, extra: dict[str, str]) -> list[dict[str, str]]:
    """Samples as version 0.1 wrote them: files beside the caption, voices as "audio"."""
    folder.mkdir()
    (folder / "00.png").write_bytes(png_bytes(np.full((8, 8, 3), shade, np.uint8)))
    (folder / "00.wav").write_bytes(wav_bytes(np.zeros(1600, np.float32), 16_000))
    return [{"caption": "a red three", "image": "00.png", "audio": "00.wav", **extra}]


def test_a_comparison_of_version_0_1_is_reported(folder: Path) -> None:
    """Its examples, samples and facts have other keys and no figures are lost."""
    entries = old_samples(folder / "examples", 10, {})
    (folder / "examples" / "examples.json").write_text(json.dumps(entries))
    for job in read_plan(folder).jobs(folder):
        write_facts(job.folder, answers(4))
        said = {"from_image": f"{job.variant} sees", "from_audio": f"{job.variant} hears"}
        entries = old_samples(job.folder / "samples", 20, said)
        plain = {"checkpoint": checkpoint_of(job.folder), "samples": entries}
        (job.folder / "samples" / "samples.json").write_text(json.dumps(plain))
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 3 and page.count("data:audio/wav") == 3
    for variant in ("dense", "mom"):
        assert f'{variant}, from image: <span class="made">{variant} sees</span>' in page
        assert f'{variant}, from speech: <span class="made">{variant} hears</span>' in page
    assert read_image(folder / "gallery.png").shape[2] == 3
    assert json.loads((folder / "comparison.json").read_text())["facts"]["examples"] == 5


def test_a_report_needs_no_torch(folder: Path) -> None:
    """Where importing torch fails, the command makes the same files."""
    save_examples(
        [Example({"text": "a", "image": np.zeros((8, 8, 3), np.uint8)})] * 2,
        folder / "examples",
        {"image": IMAGE},
    )
    for job in read_plan(folder).jobs(folder):
        write_facts(job.folder, answers(4))
    assert main(["report", str(folder)]) == 0
    files = ("comparison.json", "report.html")
    before = [(folder / name).read_bytes() for name in files]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mixture_of_mamba.cli.main import main\n"
        f"sys.exit(main(['report', {str(folder)!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [(folder / name).read_bytes() for name in files] == before
