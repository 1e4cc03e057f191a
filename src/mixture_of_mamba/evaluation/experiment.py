"""A whole comparison: data once, all runs, samples, scores, figures, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data.build import build
from ..data.bundle import DataBundle
from ..data.digits.reader import SceneReader
from ..data.digits.scoring import score
from ..data.examples import Example
from ..files import write_json
from ..generation import Generator
from ..ops import native
from ..processes import unwinding
from ..training.lock import FolderLock
from ..training.precision import resolve_precision
from ..training.runs import load_run
from .artefacts import checkpoint_of, read_current
from .basis import basis_of
from .figures import Figures
from .plan import Job, Plan, check_plan, read_plan, write_plan
from .progress import ComparisonProgress
from .rebuild import report_comparison
from .runner import default_jobs, run_jobs
from .samples import save_examples, save_samples
from .scores import why_not_sampled
from .timing import recording_isolation
from .variants import variant_config

__all__ = ["run_experiment"]


def run_experiment(
    plan: Plan,
    out: Path,
    *,
    jobs: int | None = None,
    samples: int = 6,
    judged: int = 64,
    progress: ComparisonProgress | None = None,
) -> tuple[Figures, Path]:
    """Run a plan, or what is left of it.

    Args:
        plan: what to compare; validation is made frequent enough for matching.
        out: folder; what it holds of the same plan is kept.
        jobs: runs at a time; None: one per core, one on a GPU.
        samples: of each kind that the first seed's runs generate; 0 for none.
        judged: validation examples that every run's facts are judged on; 0 for none.
        progress: shows the progress; by default on standard error.

    Returns:
        Its figures, and the path of the report.

    Raises:
        ValueError: `out` holds another comparison.
        FolderInUse: another process works in `out`.
        RunFailed: a run failed; its last line is in the message.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least one run at a time is needed")
    progress = progress or ComparisonProgress()
    plan = plan.resolved()
    if plan.config.train.precision == "auto":
        before = read_plan(out).config if (out / "plan.json").is_file() else None
        plan = replace(plan, config=resolve_precision(plan.config, before, threads=1))
    with unwinding(), FolderLock(out):
        return _run(plan, out, jobs, samples, judged, progress)


def _run(
    plan: Plan, out: Path, jobs: int | None, samples: int, judged: int, progress: ComparisonProgress
) -> tuple[Figures, Path]:
    check_plan(plan, out)
    for remark in plan.config.train.remarks():
        progress.say(remark)
    bundle = build(
        plan.config.data, plan.config.modalities
    )  # before anything is written: it may fail, or be stopped
    plan = replace(plan, basis=basis_of(bundle.digests, plan.config.train.device))
    write_plan(plan, out)
    media = {name: codec.media for name, codec in bundle.tokenizers.non_text.items()}
    save_examples(_captioned(bundle)[: max(samples, 4)], out / "examples", media)
    native.why_not()  # compiles the kernels where needed, once for all runs
    at_a_time = jobs or default_jobs(plan.config)
    with recording_isolation(plan.jobs(out), out, at_a_time=at_a_time):
        run_jobs(plan.jobs(out), out, at_a_time=at_a_time, progress=progress)
    if samples or judged:
        report_comparison(out)  # the figures are there, whatever happens to the samples
        _after_training(plan, out, bundle, samples, judged, progress)
    return report_comparison(out)


def _after_training(
    plan: Plan,
    out: Path,
    bundle: DataBundle,
    samples: int,
    judged: int,
    progress: ComparisonProgress,
) -> None:
    """Samples of the first seed's runs and facts of all, where they are not there yet."""
    examples = _captioned(bundle)
    samples = min(samples, len(examples))
    judged = min(judged, sum(bool(example.facts) for example in examples))
    if judged:  # all on the same captions, also where runs were judged on more before
        judged = max(judged, *(_done(job, "facts.json") for job in plan.jobs(out)))
    reader = None
    for variant in plan.variants if samples or judged else ():
        if reason := why_not_sampled(variant_config(plan.config, variant, plan.seeds[0])):
            progress.say(f"{variant}: neither sampled nor judged; {reason}")
    for job in plan.jobs(out):
        place = job.folder / "samples"
        save = job.seed == plan.seeds[0] and samples > _done(job, "samples/samples.json")
        judges = judged != _done(job, "facts.json") and judged > 0
        if why_not_sampled(job.config) or not (save or judges):
            continue
        run = load_run(job.folder)
        generator, checkpoint = Generator(run.model, run.tokenizers), checkpoint_of(job.folder)
        if save:
            progress.say(f"{job.name}: generating samples")
            save_samples(generator, examples[:samples], place, checkpoint=checkpoint)
        if judges:
            progress.say(f"{job.name}: judging what it generates for {judged} captions")
            reader = reader or SceneReader(seed=job.config.data.seed)
            names = run.model.config.names
            found = score(
                generator,
                examples,
                modalities=names,
                one_way=run.tokenizers.one_way,
                reader=reader,
                limit=judged,
            )
            write_json(job.folder / "facts.json", {"checkpoint": checkpoint, **found}, indent=1)


def _captioned(bundle: DataBundle) -> list[Example]:
    """Validation documents with a text to generate from."""
    return [example for example in bundle.validation_examples if example.caption.strip()]


def _done(job: Job, name: str) -> int:
    """Examples that a samples.json or facts.json is about; 0 where there is none, a damaged one, or
    one of another checkpoint: it is made again."""
    found, _ = read_current(job.folder / name, job.folder)
    if found is None:
        return 0
    return len(found["samples"]) if "samples" in found else int(found["examples"])
