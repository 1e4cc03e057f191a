"""A modality that the library has never heard of: one registered class and one entry in YAML, from
files in a folder to generated files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.evaluation.samples import save_examples, save_samples
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.modalities import Codec, CodecOptions, Limits, Media, register, registry

SIDE = 4


class DepthMedia(Media):
    """4x4 maps of levels, (4, 4) uint8, in .npy files."""

    name = "depth map"
    suffixes = (".npy",)

    def read(self, path: str | Path, limits: Limits | None = None) -> np.ndarray:
        return self.check(np.load(path, allow_pickle=False), f"depth map {path}")

    def write(self, path: str | Path, item: np.ndarray) -> None:
        if Path(path).suffix != ".npy":
            raise ValueError(f"{path} names no depth map; end it in .npy")
        np.save(path, item)

    def check(self, item: Any, where: str) -> np.ndarray:
        if not isinstance(item, np.ndarray) or item.shape != (SIDE, SIDE):
            raise ValueError(f"{where} is no array of shape ({SIDE}, {SIDE})")
        return item

    def show(self, item: np.ndarray) -> tuple[str, bytes]:
        return ".txt", "\n".join(" ".join(map(str, row)) for row in item).encode()


@dataclass(frozen=True, kw_only=True)
class LevelOptions(CodecOptions):
    levels: int = 8
    """Depths that are told apart."""

    @property
    def fixed_length(self) -> int:
        return SIDE * SIDE


class DepthLevels(Codec):
    """A token for each cell, row by row."""

    codec = "levels"
    media = DepthMedia()
    Options = LevelOptions
    kind = "discrete"
    fixed_length = SIDE * SIDE

    def __init__(self, options: LevelOptions) -> None:
        self.options = options
        self.size = options.levels + 1

    @classmethod
    def prepare(cls, item: np.ndarray, options: LevelOptions) -> np.ndarray:
        return np.minimum(item, options.levels - 1).astype(np.uint8)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray],
        options: LevelOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> DepthLevels:
        report(f"depth: {len(prepared)} maps")
        return cls(options)

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [item.reshape(-1).astype(np.int64) for item in prepared]

    def decode(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(ids, np.uint8).reshape(SIDE, SIDE) for ids in tokens]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "levels.json").write_text(json.dumps(asdict(self.options)))

    @classmethod
    def load(cls, folder: Path) -> DepthLevels:
        return cls(LevelOptions(**json.loads((folder / "levels.json").read_text())))


CONFIG: dict[str, Any] = {
    "modalities": {
        "text": {"codec": "bpe", "vocabulary": 300},
        "depth": {"codec": "levels", "levels": 5},
    },
    "data": {"window": 64, "validation_fraction": 0.2},
    "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
    "train": {"steps": 4, "batch_size": 2, "warmup": 1, "evaluate_every": 2, "log_every": 1},
}


@pytest.fixture(scope="module")
def registered() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTERED", {})
        yield register(DepthLevels)


@pytest.fixture(scope="module")
def run(registered: type[Codec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model of text and depth, trained from files; maps lie in maps/."""
    base = tmp_path_factory.mktemp("depth")
    (base / "maps").mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        np.save(base / "maps" / f"{i}.npy", rng.integers(0, 5, (SIDE, SIDE)).astype(np.uint8))
        (base / "maps" / f"{i}.txt").write_text(f"a wall at depth {i}, and stairs behind it")
    data = {**CONFIG["data"], "source": str(base / "maps"), "cache": str(base / "cache")}
    (base / "depth.yaml").write_text(yaml.safe_dump({**CONFIG, "data": data}, sort_keys=False))
    command = ["train", "-c", str(base / "depth.yaml"), "--out", str(base / "run")]
    assert main(command) == 0
    return base / "run"


def test_files_become_a_trained_model(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {"text", "depth"}
    assert all(line["loss"] > 0 for line in lines)
    recorded = yaml.safe_load((run / "config.yaml").read_text())["modalities"]["depth"]
    assert recorded["codec"] == "levels" and recorded["levels"] == 5


def test_the_model_makes_files_of_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.npy"
    command = ["generate", str(run), "--text", "a wall", "--to", "depth", "--out", str(out)]
    assert main(command) == 0
    made = np.load(out)
    assert made.shape == (SIDE, SIDE) and made.dtype == np.uint8 and made.max() < 5
    assert main([*command, "--count", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made-0.npy", "made-1.npy", "made.npy"]


def test_a_file_of_it_is_a_prompt(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = f"depth={run.parent / 'maps' / '3.npy'}"
    assert main(["generate", str(run), "--item", prompt, "--to", "text", "--max_tokens", "8"]) == 0
    np.save(tmp_path / "wrong.npy", np.zeros(3))
    wrong = f"depth={tmp_path / 'wrong.npy'}"
    assert main(["generate", str(run), "--item", wrong, "--to", "text"]) == 1
    assert "wrong.npy is no array of shape (4, 4)" in capsys.readouterr().err


def test_reports_show_it(run: Path, tmp_path: Path) -> None:
    generator = Generator.from_run(run)
    depth = np.zeros((SIDE, SIDE), np.uint8)
    examples = [Example({"text": "a wall", "depth": depth}), Example({"text": "stairs"})]
    save_examples(examples, tmp_path / "examples", {"depth": DepthLevels.media})
    assert (tmp_path / "examples" / "00.txt").read_text() == "\n".join(["0 0 0 0"] * SIDE)
    first, second = save_samples(generator, examples, tmp_path / "samples", checkpoint={})
    assert set(first["items"]) == set(second["items"]) == {"depth"}
    assert set(first["texts"]) == {"depth"} and not second["texts"]


def test_a_codec_is_given_by_its_path_and_a_document_as_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        json.dumps([{"text": f"map {i}"}, {"depth": str(run.parent / "maps" / f"{i}.npy")}])
        for i in range(20)
    ]
    source = tmp_path / "documents.jsonl"
    source.write_text("\n".join(lines))
    data = {**CONFIG["data"], "source": str(source), "cache": str(tmp_path / "cache")}
    modalities = {**CONFIG["modalities"], "depth": {"codec": f"{__name__}:DepthLevels"}}
    plain = {"modalities": modalities, "data": data}
    (tmp_path / "depth.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    out = tmp_path / "tokenizers"
    assert main(["tokenizer", "train", "-c", str(tmp_path / "depth.yaml"), "--out", str(out)]) == 0
    assert "depth: discrete, vocabulary 9, 16 an item, levels" in capsys.readouterr().out
    assert main(["tokenizer", "inspect", str(run)]) == 0
    assert "depth: discrete, vocabulary 6, 16 an item, levels" in capsys.readouterr().out


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that brings two codecs by entry points, as pip would leave it; the second of them
    cannot be imported."""
    site = tmp_path / "site"
    metadata = site / "theirs-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "theirs.py").write_text(f"from {__name__} import DepthLevels\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\nlevels = theirs:DepthLevels\n"
        "broken = theirs_that_is_not_there:Codec\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()


def test_an_installed_package_brings_codecs_by_entry_point(
    installed: None, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"levels", "broken"} <= set(registry.names())
    assert registry.name_of(DepthLevels) == "levels"
    data = {**CONFIG["data"], "source": str(run.parent / "maps"), "cache": str(tmp_path / "cache")}
    config = tmp_path / "theirs.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "data": data}, sort_keys=False))
    out, made = tmp_path / "run", tmp_path / "made.npy"
    train = ["train", "-c", str(config)]
    assert main([*train, "--modalities.depth.levels", "4", "--out", str(out)]) == 0
    assert main(["generate", str(out), "--text", "a", "--to", "depth", "--out", str(made)]) == 0
    assert np.load(made).max() < 4
    capsys.readouterr()
    flags = ["--modalities.depth.codec", "broken", "--out", str(tmp_path / "other")]
    assert main([*train, *flags]) == 1
    said = capsys.readouterr().err
    assert "theirs_that_is_not_there" in said and said.count("\n") == 1
