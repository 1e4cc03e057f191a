"""The prepared data: what batches hold, reproducible, cached, safe with many builders."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.data.cache import build_or_load, content_hash
from mixture_of_mamba.data.config import DataConfig, check_modalities
from mixture_of_mamba.data.digits.facts import parse_facts
from mixture_of_mamba.modalities.config import modalities_from
from mixture_of_mamba.modalities.options import CodecOptions
from mixture_of_mamba.modalities.speech.files import SOUND
from tests.factories.data import prepare, tiny_bundle, tiny_config, with_data
from tests.helpers.toy_codecs import ToyCodec


def test_batches_fit_a_model_of_these_modalities(bundle: DataBundle) -> None:
    table = bundle.tokenizers.modalities
    for windows in (bundle.train, bundle.validation):
        batch = windows.batch(range(len(windows)))
        batch.check(
            [n for n, _, _ in table],
            [s for _, _, s in table],
            [k == "discrete" for _, k, _ in table],
        )
        assert batch.shape == (len(windows), 256)


def test_half_of_the_tokens_are_real_text_and_none_is_padding(bundle: DataBundle) -> None:
    counts = bundle.train.tokens_by_modality()
    assert bundle.train.padding == 0
    assert list(counts) == [name for name, _, _ in bundle.tokenizers.modalities]
    assert sum(counts.values()) == bundle.train.tokens.size
    real = 0
    starts = bundle.tokenizers.begin["image"]
    for w in range(len(bundle.train)):
        for d in np.unique(bundle.train.document_ids[w]):
            here = bundle.train.document_ids[w] == d
            if not (bundle.train.tokens[w][here] == starts)[
                bundle.train.modality_ids[w][here] == 0
            ].any():
                real += int(here.sum())
    assert real / bundle.train.tokens.size == pytest.approx(0.5, abs=0.02)


def test_every_scene_is_there_whole(spoken: DataBundle) -> None:
    """48 training scenes: as many images, each with its 64 codes, its begin and its end."""
    windows, tokenizers = spoken.train, spoken.tokenizers
    text = windows.modality_ids == 0
    for name, m in (("image", 1), ("speech", 2)):
        of_it = windows.modality_ids == m
        assert ((windows.tokens == tokenizers.begin[name]) & text).sum() == 48
        assert ((windows.tokens == tokenizers.end[name]) & of_it).sum() == 48
    assert (windows.modality_ids == 1).sum() == 48 * 65


def test_segments_come_in_every_order(spoken: DataBundle) -> None:
    orders = set()
    for w in range(len(spoken.train)):
        for d in np.unique(spoken.train.document_ids[w]):
            here = spoken.train.document_ids[w] == d
            modality, segment = (
                spoken.train.modality_ids[w][here],
                spoken.train.segment_ids[w][here],
            )
            kinds = [int(modality[segment == s].max()) for s in np.unique(segment)]
            if len(kinds) == 5:  # <document>, three segments, </document>
                orders.add(tuple(kinds[1:-1]))
    assert orders == set(permutations(range(3)))


def test_examples_show_say_and_speak_their_facts(spoken: DataBundle) -> None:
    assert len(spoken.validation_examples) == 12
    for example in spoken.validation_examples:
        assert parse_facts(example.caption) == set(example.facts)
        assert example.items["image"].shape == (32, 32, 3)
        wave, rate = example.items["speech"]
        assert 0.5 < len(wave) / rate < 12


def test_settings_without_speech_have_no_audio() -> None:
    assert all("speech" not in e.items for e in tiny_bundle("transfusion").validation_examples)


def test_image_values_are_of_unit_scale() -> None:
    bundle = tiny_bundle("transfusion")
    values = bundle.train.batch(range(len(bundle.train))).values["image"]
    assert values.shape == (48 * 64, 48)
    assert abs(float(values.mean())) < 0.1 and abs(float(values.std()) - 1) < 0.1


def test_a_second_build_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("transfusion", digits={"scenes": 20}, cache=str(tmp_path))
    first = prepare(config)
    monkeypatch.setattr("mixture_of_mamba.data.build._build", None)  # would raise if it were called
    second = prepare(config)
    for name in ("tokens", "modality_ids", "document_ids", "segment_ids", "loss_mask"):
        np.testing.assert_array_equal(getattr(first.train, name), getattr(second.train, name))
    np.testing.assert_array_equal(first.train.values["image"], second.train.values["image"])
    assert first.facts == second.facts
    for a, b in zip(first.validation_examples, second.validation_examples, strict=True):
        assert a.caption == b.caption and a.facts == b.facts
        np.testing.assert_array_equal(a.items["image"], b.items["image"])


def test_text_fraction_zero_means_scenes_alone(tmp_path: Path) -> None:
    digits = {"scenes": 20, "text_fraction": 0.0}
    config = tiny_config("transfusion", digits=digits, cache=str(tmp_path))
    bundle = prepare(config)
    images = bundle.train.tokens_by_modality()["image"]
    assert images == 16 * 64
    assert 0 < bundle.train.padding < bundle.train.tokens.size / 2


_DIGEST = """
import hashlib, sys
from pathlib import Path
from mixture_of_mamba.data.build import build
from mixture_of_mamba.training.config import RunConfig
config = RunConfig.from_dict({
    "modalities": {
        "text": {"codec": "bpe", "vocabulary": 300},
        "image": {"codec": "vq", "codes": 16, "steps": 3},
        "speech": {"codec": "units", "units": 16},
    },
    "data": {"digits": {"scenes": 20}, "validation_fraction": 0.2, "cache": sys.argv[1]},
})
build(config.data, config.modalities)
"""


def test_processes_with_other_thread_counts_and_hash_seeds_build_the_same(tmp_path: Path) -> None:
    """Two processes at once, each into a cache of its own: the same files to the byte."""
    running = []
    for i, threads in enumerate(("1", "2")):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "PYTHONHASHSEED": str(i),
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        }
        command = [sys.executable, "-c", _DIGEST, str(tmp_path / str(i))]
        running.append(subprocess.Popen(command, env=environment))
    assert [process.wait() for process in running] == [0, 0]
    assert _digests(tmp_path / "0") == _digests(tmp_path / "1")


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(files) > 8
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_many_builders_of_one_thing_build_it_once(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from mixture_of_mamba.data.cache import build_or_load
def make(folder):
    with open(sys.argv[1] + "/made", "a") as log:
        log.write("x")
    time.sleep(0.3)
    (folder / "content").write_text("whole")
folder = build_or_load(Path(sys.argv[1]), "thing", {"a": 1}, make)
assert (folder / "content").read_text() == "whole"
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build_or_load(tmp_path, "thing", {}, fail)
    assert [p.suffix for p in tmp_path.iterdir()] in ([], [".lock"])


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    name = f"thing-{content_hash({'a': 1})}"
    leftover = tmp_path / f".part-{name}-abc"
    leftover.mkdir()
    other = tmp_path / ".part-thing-0123456789abcdef-abc"
    other.mkdir()
    folder = build_or_load(tmp_path, "thing", {"a": 1}, lambda f: None)
    assert folder.is_dir() and other.is_dir() and not leftover.exists()


def test_hashes_tell_configs_apart() -> None:
    one, two = DataConfig(seed=0).cache_key(), DataConfig(seed=1).cache_key()
    assert content_hash(one) == content_hash(dict(reversed(one.items())))
    assert content_hash(one) != content_hash(two)
    assert DataConfig(cache="x").cache_key() == DataConfig(cache="y").cache_key()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"digits": {"text_fraction": 1.0}}, "text_fraction is 1.0"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0"),
        ({"window": 0}, "at least 16"),
        ({"digits": {"scenes": 1}}, "at least 20"),
        ({"seed": -1}, "at least 0"),
        ({"window": 64}, "takes 68 positions and is never cut"),
        ({"image": {"patch": 3}}, "choose 2, 4 or 8"),
        ({"image": {"size": 30}}, "multiple of 8"),
        ({"image": {"size": 64}}, "embedded scenes are 32 pixels"),
        ({"text": {"vocabulary": 10}}, "at least 270"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config("transfusion", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "/nowhere/at.jsonl"}, "does not exist"),
        ({"tokenizers": "/nowhere"}, "is no folder"),
        (
            {"image": {"codec": "autoencoder", "pretrained": "magic"}},
            "modalities.image.pretrained: magic does not exist",
        ),
    ],
)
def test_what_is_not_there_is_named(fields: dict[str, Any], message: str) -> None:
    config = tiny_config("transfusion", **fields)  # as a value it is fine: see load_run
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(config)


@dataclass(frozen=True, kw_only=True)
class SizedOptions(CodecOptions):
    size: int = 7
    """Has nothing to do with pictures."""


class Sized(ToyCodec):
    codec = "sized"
    kind = "discrete"
    Options = SizedOptions


class SizedSound(Sized):
    codec = "sized-sound"
    media = SOUND


def test_size_is_that_of_scenes_for_images_alone() -> None:
    check_modalities(DataConfig(), modalities_from({"speech": {"codec": f"{__name__}:SizedSound"}}))
    with pytest.raises(ValueError, match=r"modalities\.image\.size is 7, but the embedded scenes"):
        check_modalities(DataConfig(), modalities_from({"image": {"codec": f"{__name__}:Sized"}}))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install 'mixture-of-mamba\[speech\]'"):
        prepare(tiny_config("chameleon_speech", cache=str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    [
        "train.safetensors",
        "examples.json",
        "tokenizers/tokenizers.json",
        "tokenizers/text/text.json",
    ],
)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_cached_file_is_named_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        tiny_bundle("chameleon").save(folder)

    folder = build_or_load(tmp_path, "data", {"a": 1}, make)
    path = folder / name
    whole = path.read_bytes()
    bad = bytearray(whole)
    bad[len(bad) * 3 // 4] ^= 1
    path.write_bytes(bad if how == "flipped" else whole[: len(whole) // 2])
    if how == "gone":
        path.unlink()
    assert build_or_load(tmp_path, "data", {"a": 1}, make) == folder and len(made) == 2
    said = capsys.readouterr().err
    assert "made anew" in said and str(path) in said
    assert path.read_bytes() == whole
    assert build_or_load(tmp_path, "data", {"a": 1}, make) == folder and len(made) == 2
    assert {p.name for p in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_data_names_its_digests(tmp_path: Path) -> None:
    """Equal data has equal ones, wherever it was made; other data differs in what is other."""
    digits = {"scenes": 30, "text_fraction": 0.0}
    config = tiny_config("chameleon", image={"steps": 2}, digits=digits)
    one = prepare(with_data(config, cache=str(tmp_path / "a")))
    two = prepare(with_data(config, cache=str(tmp_path / "b")))
    other = prepare(with_data(config, cache=str(tmp_path / "a"), window=128))
    assert set(one.digests) == {
        *("train windows", "validation windows", "text tokenizer", "image tokenizer")
    }
    assert one.digests == two.digests and one.made_from == two.made_from
    changed = {name for name in one.digests if one.digests[name] != other.digests[name]}
    assert changed == {"train windows", "validation windows"}
    assert {k for k in one.made_from if one.made_from[k] != other.made_from[k]} == {"window"}
    assert one.made_from["torch version"] == version("torch")
    assert "versions" not in one.made_from and one.made_from["tokenizers"] is None
