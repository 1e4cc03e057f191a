"""What is kept in the cache of fitted codecs and of prepared data is only taken for what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mixture_of_mamba.data import fingerprints
from mixture_of_mamba.data.build import _key
from mixture_of_mamba.data.cache import content_hash
from mixture_of_mamba.data.fit import _fit
from mixture_of_mamba.data.listing import Listing
from mixture_of_mamba.data.stage_log import StageLog
from mixture_of_mamba.modalities.config import ModalityConfig
from mixture_of_mamba.modalities.image.vq import VQImageTokenizer
from mixture_of_mamba.modalities.options import CodecOptions
from mixture_of_mamba.modalities.registry import name_of
from mixture_of_mamba.modalities.text import TextOptions
from tests.factories.data import prepare, tiny_config
from tests.helpers.toy_codecs import ToyCodec


@dataclass(frozen=True, kw_only=True)
class KeptOptions(CodecOptions):
    paths: ClassVar[tuple[str, ...]] = ("folder",)

    seed: int = 0
    items: str = ""
    folder: str | None = None


class KeptCodec(ToyCodec):
    """Is kept in the cache; its options have names of its own."""

    codec = "kept"
    kind = "discrete"
    version = 1
    Options = KeptOptions
    fitted: ClassVar[list[Any]] = []

    @classmethod
    def fit(
        cls, prepared: Sequence[Any], options: Any, *, seed: int, report: Callable[[str], None]
    ) -> KeptCodec:
        cls.fitted.append(options)
        return cls("discrete", 2)

    def save(self, folder: Path) -> None:
        (folder / "kept").write_text("")

    @classmethod
    def load(cls, folder: Path) -> KeptCodec:
        return cls("discrete", 2)


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Fits, or reads from the cache; how many were fitted until then."""
    monkeypatch.setattr(KeptCodec, "fitted", [])

    def fit(items: Sequence[Any], seed: int = 0, /, **given: Any) -> int:
        modality = ModalityConfig(name_of(KeptCodec), given)
        _fit(modality, items, seed, tmp_path / "cache", StageLog(False))
        return len(KeptCodec.fitted)

    return fit


def test_equal_items_and_options_are_fitted_once(fits: Callable[..., int]) -> None:
    zeros = np.zeros((2, 3), np.uint8)
    assert [fits([zeros]), fits([zeros.copy()]), fits(zeros[None])] == [1, 1, 1]


def test_items_of_equal_bytes_are_told_apart(fits: Callable[..., int]) -> None:
    zeros = np.zeros((2, 3), np.uint8)
    others = [[zeros.T], [zeros[0], zeros[1]], [zeros.view(np.int8)], ["a", "b"], ["ab"]]
    assert [fits([zeros]), *map(fits, others)] == [1, 2, 3, 4, 5, 6]


def test_options_may_have_the_names_of_the_key(fits: Callable[..., int]) -> None:
    given: list[dict[str, Any]] = [{}, {"seed": 1}, {"items": "all"}]
    assert [fits(["a"], **options) for options in given] == [1, 2, 3]
    assert fits(["a"], 1) == 4


def test_another_content_of_a_named_folder_is_fitted_anew(
    fits: Callable[..., int], tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a").write_text("one")
    before = fits(["a"], folder=str(folder))
    (folder / "a").write_text("two")
    assert (before, fits(["a"], folder=str(folder)), fits(["a"], folder=str(folder))) == (1, 2, 2)


def test_another_version_of_a_codec_prepares_the_data_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = {"scenes": 30, "text_fraction": 0.0}
    config = tiny_config("chameleon", image={"steps": 2}, digits=digits, cache=str(tmp_path))
    first = prepare(config)
    monkeypatch.setattr(VQImageTokenizer, "version", 1000)
    second = prepare(config)
    made = [folder.name.split("-")[0] for folder in tmp_path.iterdir() if folder.is_dir()]
    assert sorted(made) == ["data", "data", "vq", "vq"]
    assert first.digests == second.digests, "the training itself is as it was"


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it changes, though its size and its time of modification be the same."""
    read: list[str] = []
    whole = fingerprints.digest
    monkeypatch.setattr(fingerprints, "digest", lambda path: read.append(path.name) or whole(path))
    file, small = tmp_path / "network" / "weights", tmp_path / "network" / "config"
    file.parent.mkdir()
    small.write_text("small")
    file.write_bytes(bytes(fingerprints.LARGE))
    before = file.stat()
    first = fingerprints.digests(file.parent)
    assert fingerprints.digests(file.parent) == first and fingerprints.digests(file) == {
        "weights": first["weights"]
    }
    assert sorted(read) == ["config", "config", "weights"]
    other = tmp_path / "other"
    other.write_bytes(bytes(fingerprints.LARGE - 1) + b"1")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    changed = fingerprints.digests(file.parent)
    assert changed["config"] == first["config"] and changed["weights"] != first["weights"]


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize(
    "package",
    [
        *("torch", "numpy", "scikit-learn", "tokenizers", "diffusers", "transformers", "pillow"),
        *("espeakng-loader", "vector-quantize-pytorch", "soundfile", "scipy", "torchaudio", "av"),
        *("sentencepiece", "tiktoken"),
    ],
)
def test_another_version_of_a_package_prepares_the_data_anew(
    package: str, reused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests of reused tokenizers stand beside the version of the package `tokenizers`."""
    (tmp_path / "text.json").write_text("{}")
    config = tiny_config("chameleon", **({"tokenizers": str(tmp_path)} if reused else {}))

    def key(installed: str | None) -> str:
        found = {package: installed}
        monkeypatch.setattr(
            fingerprints, "package_versions", lambda names: {n: found.get(n) for n in names}
        )
        return content_hash(_key(config.data, config.modalities, Listing()))

    assert len({key(None), key("1.0"), key("2.0")}) == 3 and key("1.0") == key("1.0")


def test_of_a_pretrained_model_only_its_tokenizer_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("gigabytes")
    read: list[Path] = []
    monkeypatch.setattr(fingerprints, "digest", lambda path: read.append(path) or "digest")
    expected = {"tokenizer": {"tokenizer.json": "digest"}}
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert fingerprints.option_digests(TextOptions(tokenizer=str(path))) == expected
    assert read == [tmp_path / "tokenizer.json"] * 2
    assert fingerprints.option_digests(TextOptions()) == {}
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json does not exist"):
        fingerprints.option_digests(TextOptions(tokenizer=str(tmp_path.parent)))
