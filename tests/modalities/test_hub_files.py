"""Of a repository on the hub only what is read is fetched, and hashed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from mixture_of_mamba.data.fingerprints import option_digests
from mixture_of_mamba.modalities import pretrained
from mixture_of_mamba.modalities.registry import options_of
from tests.factories.vq_networks import save_model

Hub = Callable[[], set[str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def fetched(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Names of the files that lie in the hub's cache; every id is that of the repository."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(pretrained, "_SNAPSHOTS", {})

    def snapshot_download(hub_id: str, **patterns: Any) -> str:
        names = [p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file()]
        for name in filter_repo_objects(names, **patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / name, cache / name)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return lambda: {p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file()}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("weights", "read"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"],
            ["diffusion_pytorch_model.safetensors"],
        ),
        (
            ["model.safetensors.index.json", "model-1.safetensors", "pytorch_model-1.bin"],
            ["model.safetensors.index.json", "model-1.safetensors"],
        ),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["lora.safetensors", "pytorch_model.bin"], ["lora.safetensors", "pytorch_model.bin"]),
    ],
)
@pytest.mark.parametrize("part", ["", "part/"])
def test_pickled_weights_are_fetched_where_there_are_no_others(
    weights: list[str], read: list[str], part: str, repository: Path, fetched: Hub
) -> None:
    names = ["config.json", "README.md", "other/model.safetensors", *weights]
    touch(repository, *(f"{part}{name}" for name in names))
    given: Any = options_of("hubert")(pretrained=f"someone/network/{part}".rstrip("/"))
    assert set(option_digests(given)["pretrained"]) == {"config.json", *read}
    assert fetched() == {f"{part}{name}" for name in ("config.json", *read)}
    local: Any = options_of("hubert")(pretrained=str(repository / part))
    assert option_digests(local) == option_digests(given)


def test_of_a_whole_model_the_files_with_the_part_are_fetched(
    repository: Path, fetched: Hub
) -> None:
    save_model("janus", repository, True, max_shard_size="20KB")
    touch(repository, "pytorch_model-00001-of-00002.bin")
    index = json.loads((repository / "model.safetensors.index.json").read_text())["weight_map"]
    of_part = {file for name, file in index.items() if name.startswith("model.vqmodel.")}
    assert 0 < len(of_part) < len(set(index.values()))
    given: Any = options_of("janus")(pretrained="someone/janus", size=32)
    given.check_files()
    assert {name for name in fetched() if not name.endswith(".json")} == of_part
    digests = option_digests(given)
    assert {name for name in digests["pretrained"] if not name.endswith(".json")} == of_part
    local: Any = options_of("janus")(pretrained=str(repository), size=32)
    assert option_digests(local) == digests, "as of the same files in a folder"
    (repository / min(of_part)).unlink()
    with pytest.raises(ValueError, match="lack"):
        local.check_files()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"model.vqmodel.a": "/etc/passwd"}}']
)
def test_a_damaged_list_of_files_is_no_crash(text: str, repository: Path, fetched: Hub) -> None:
    save_model("janus", repository, True, max_shard_size="10GB")
    (repository / "model.safetensors.index.json").write_text(text)
    given: Any = options_of("janus")(pretrained="someone/janus", size=32)
    if text.startswith('{"'):
        given.check_files()
    else:
        with pytest.raises(ValueError, match=r"^pretrained: .*index\.json"):
            given.check_files()
