"""Networks that people have: found in a folder or on the hub, checked, and loaded by class.

A network's class is chosen by the codec, never by its files: code that a folder brings is not run.
Facts are read from config.json, so that a wrong folder is refused before anything is trained.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..extras import needs
from ..files import read_json
from .options import CodecOptions

__all__ = [
    "PretrainedOptions",
    "class_of",
    "config_of",
    "find",
    "load_diffusers",
    "load_transformers",
    "loading",
    "preprocessor_of",
    "quiet",
]

#: Files of a repository on the hub that a network, its processor or its tokenizer needs.
WANTED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")
_PICKLE = "*.bin"
#: Those that may have gigabytes: which of them are read is known when the others are there.
_WEIGHTS = ("*.safetensors", _PICKLE)
#: Beside one of these, or the list of its shards, no .bin is read.
_INDEX = ".index.json"
_SAFE = ("model.safetensors", "diffusion_pytorch_model.safetensors")

#: owner/name, and where only a part of the repository is meant its folder.
_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/[\w.-]+)(?:/(?P<folder>\w[\w./-]*?))?/?")
#: Hub id, patterns of its files and prefixes of tensors -> their folder, of those that were
#: fetched, or found in the hub's cache, by this process.
_SNAPSHOTS: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Path] = {}


@dataclass(frozen=True, kw_only=True)
class PretrainedOptions(CodecOptions):
    """Of a codec whose network somebody else trained.

    Attributes:
        wanted: patterns of the names of the network's files, which are fetched and hashed.
        parts: prefixes of its tensors in a model that it is a part of; of such a model only the
            files of weights that have some are fetched and hashed.
    """

    training: ClassVar[tuple[str, ...]] = ("pretrained",)
    paths: ClassVar[tuple[str, ...]] = ("pretrained",)
    wanted: ClassVar[tuple[str, ...]] = WANTED
    parts: ClassVar[tuple[str, ...]] = ()

    pretrained: str | None = None
    """Folder of the network, as save_pretrained writes it, or its id on the Hugging Face hub
    (owner/name, or owner/name/folder); not needed where data.tokenizers brings the network."""

    @property
    def folder(self) -> Path:
        """Of the network, on this machine.

        Raises:
            ValueError: none was given.
            FileNotFoundError: there is none.
        """
        if self.pretrained is None:
            raise ValueError(
                "pretrained is missing; give the folder of the network, or its id on the hub"
            )
        try:
            return find(self.pretrained, self.wanted, self.parts)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"pretrained: {error}") from error

    @property
    def known_folder(self) -> Path | None:
        """The folder, where it is known without asking the hub: configs are read in places without
        network, and where the folder is not."""
        if self.pretrained is None:
            return None
        local = Path(self.pretrained)
        key = (self.pretrained, self.wanted, self.parts)
        return local if local.is_dir() else _SNAPSHOTS.get(key)

    def named_files(self) -> dict[str, list[Path]]:
        """The network's own files; not what else lies there, such as the hub client's records."""
        if self.pretrained is None:
            return {}
        folder = self.folder
        kinds = _read(folder, self.wanted, self.parts)
        return {"pretrained": sorted({file for kind in kinds for file in folder.glob(kind)})}

    @contextmanager
    def reading(self) -> Iterator[Path]:
        """The network's folder; what is wrong with it is an error of the option."""
        folder = self.folder
        try:
            yield folder
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"pretrained: {error}") from error

    def check_files(self) -> None:
        with self.reading() as folder:
            config_of(folder)


def find(given: str | Path, wanted: tuple[str, ...] = WANTED, parts: tuple[str, ...] = ()) -> Path:
    """The folder of a pretrained network or tokenizer; of a hub id, its snapshot in the hub's
    cache, fetched where it is not there.

    Args:
        given: a folder, or owner/name on the hub, or owner/name/folder.
        wanted: patterns of the names of the files that are fetched.
        parts: see PretrainedOptions.

    Raises:
        FileNotFoundError: it is no folder, and no repository that the hub or its cache has.
    """
    if Path(given).is_dir():
        return Path(given)
    match = _HUB_ID.fullmatch(str(given))
    if match is None:
        raise FileNotFoundError(
            f"{given} does not exist; give the folder of a pretrained one, or its id on the "
            "hub, such as kyutai/mimi"
        )
    key = (str(given), wanted, parts)
    if key not in _SNAPSHOTS:
        _SNAPSHOTS[key] = _needed(match["repository"], match["folder"], wanted, parts)
    return _SNAPSHOTS[key]


def _needed(hub_id: str, part: str | None, wanted: tuple[str, ...], parts: tuple[str, ...]) -> Path:
    """A snapshot with what is read of it: what is small first, since it says which weights are."""
    small = tuple(kind for kind in wanted if kind not in _WEIGHTS)
    folder = _fetched(hub_id, part, small)
    if small != wanted:
        shards = _shards(folder, parts) or ("*.safetensors",)
        folder = _fetched(hub_id, part, (*small, *shards))
        if _PICKLE in (read := _read(folder, wanted, parts)):
            folder = _fetched(hub_id, part, read)
    return folder


def _read(folder: Path, wanted: tuple[str, ...], parts: tuple[str, ...]) -> tuple[str, ...]:
    """`wanted` without the weights in a folder that are not read."""
    shards = _shards(folder, parts)
    if shards and all((folder / name).is_file() for name in shards):
        return (*(kind for kind in wanted if kind not in _WEIGHTS), *shards)
    if any((folder / f"{name}{end}").is_file() for name in _SAFE for end in ("", _INDEX)):
        return tuple(kind for kind in wanted if kind != _PICKLE)
    return wanted


def _shards(folder: Path, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Files that hold tensors of the parts, where the folder has a list of them."""
    file = folder / f"model.safetensors{_INDEX}"
    files = read_json(file).get("weight_map") if parts and file.is_file() else None
    if not isinstance(files, Mapping):
        return ()
    found = {str(file) for name, file in files.items() if name.startswith(parts)}
    return tuple(sorted(name for name in found if re.fullmatch(r"[\w.-]+\.safetensors", name)))


def _fetched(hub_id: str, part: str | None, wanted: tuple[str, ...]) -> Path:
    if part is None:
        return _snapshot(hub_id, "", wanted)
    folder = _snapshot(hub_id, f"{part}/", wanted) / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{hub_id}/{part} is no folder here, and {hub_id} on the hub has no folder {part!r} "
            "with such files; see its list of files on the hub"
        )
    return folder


def _snapshot(hub_id: str, place: str, wanted: tuple[str, ...]) -> Path:
    with needs("fetching from the hub", "train"):
        from huggingface_hub import snapshot_download
    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=[f"{place}{kind}" for kind in wanted],
                ignore_patterns=[f"{place}*/*"],  # the hub's * stands for folders too
            )
        )
    except Exception as error:  # of many classes: no network, no such repository, no permission
        raise FileNotFoundError(
            f"{hub_id} is no folder here, and the hub did not give it "
            f"({' '.join(str(error).split())[:200]}); give a folder, or fetch it where there is a "
            f"network with: hf download {hub_id}"
        ) from error


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON object, its model_type is no string, or it asks for code of its
            folder.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no pretrained network: config.json is missing; give a folder that "
            "save_pretrained wrote"
        )
    config: dict[str, Any] = read_json(file)
    if not isinstance(kind := config.get("model_type"), str | None):
        raise ValueError(
            f"{file}: model_type is {kind!r}, which is no string; save the network again with "
            "save_pretrained, or give another folder"
        )
    if "auto_map" in config and not _known_to_transformers(config):
        raise ValueError(
            f"{file}: the network needs code of its own folder (auto_map), which is never run; "
            "give a checkpoint of a class that transformers or diffusers has"
        )
    return config


def preprocessor_of(folder: Path, part: str) -> dict[str, Any]:
    """How a network's inputs are made of files, as its processor was saved; empty where nothing is
    said: preprocessor_config.json, or the part of that name of processor_config.json.

    Args:
        part: "image_processor" or "feature_extractor".
    """
    if (file := folder / "preprocessor_config.json").is_file():
        found: dict[str, Any] = read_json(file)
        return found
    if (file := folder / "processor_config.json").is_file():
        of_part = read_json(file).get(part)
        return dict(of_part) if isinstance(of_part, Mapping) else {}
    return {}


def _known_to_transformers(config: Mapping[str, Any]) -> bool:
    with needs("a pretrained network", "train"):
        from transformers import CONFIG_MAPPING
    return config.get("model_type") in CONFIG_MAPPING


def class_of(config: Mapping[str, Any]) -> str:
    """What a config.json says that its network is: diffusers' `_class_name`, else the first of
    transformers' `architectures`, else `model_type`."""
    if "_class_name" in config:
        return str(config["_class_name"])
    unknown = config.get("model_type", "network of no named class")
    return str((config.get("architectures") or [unknown])[0])


@contextmanager
def loading(folder: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong while weights are loaded into one error that names folder and class."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # transformers and diffusers raise many kinds
        why = " ".join(str(error).split())[:600]
        raise ValueError(
            f"the {what} in {folder} cannot be loaded ({why}); save it again with save_pretrained, "
            "or give another folder"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """transformers draws no bars inside the block, such as one for each file of weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_diffusers(network_class: Any, folder: Path) -> Any:
    """A diffusers network in float32, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError, ValueError: another class, damaged weights, weights that are missing, or
            no numbers.
    """
    import torch

    name = network_class.__name__
    config = config_of(folder)
    with loading(folder, name), torch.random.fork_rng(devices=[]):
        if class_of(config) != name:
            raise ValueError(f"it holds a {class_of(config)}, a {name} is needed")
        network, found = network_class.from_pretrained(
            folder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            use_safetensors=True,
        )
        _check_missing(found["missing_keys"])
        return _ready(network)


def load_transformers(network_class: Any, folder: Path, part: Sequence[str] = ()) -> Any:
    """A transformers network in float32, in evaluation mode, without gradients.

    Args:
        network_class: its class in transformers.
        folder: of the network, or of a model that it is a part of.
        part: names that the network may have in such a model, such as "model.vqmodel.".

    Raises:
        FileNotFoundError, ValueError: another class, damaged weights, weights that are no numbers,
            or that are missing: transformers itself would draw them at random.
    """
    import torch

    name = network_class.__name__
    config = config_of(folder)
    config_class = network_class.config_class
    key = config_class.base_config_key
    with loading(folder, name), quiet(), torch.random.fork_rng(devices=[]):
        if config.get("model_type") == config_class.model_type:
            network = _whole(network_class, folder)
        elif part and key in config:
            network = _part(network_class, folder, config[key], part)
        else:
            raise ValueError(f"it holds a {class_of(config)}, a {name} is needed")
        return _ready(network)


def _whole(network_class: Any, folder: Path) -> Any:
    import torch

    network, found = network_class.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    _check_missing(found["missing_keys"])
    return network


def _part(
    network_class: Any, folder: Path, config: Mapping[str, Any], prefixes: Sequence[str]
) -> Any:
    weights = _tensors(folder, prefixes)
    network = network_class(network_class.config_class.from_dict(dict(config)))
    missing, unexpected = network.load_state_dict(weights, strict=False)
    _check_missing(missing)
    if unexpected:
        raise ValueError(f"its weights have unknown tensors, such as {unexpected[0]}")
    return network


def _check_missing(names: Collection[str]) -> None:
    if names:
        raise ValueError(f"its weights lack {len(names)} tensors, such as {min(names)}")


def _ready(network: Any) -> Any:
    # the codebooks of audio networks are buffers; their counters are whole numbers, so finite
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.isfinite().all():
            raise ValueError(f"its weights {name} hold NaN or infinite numbers")
    return network.float().eval().requires_grad_(False)


def _tensors(folder: Path, prefixes: Sequence[str]) -> dict[str, Any]:
    """The tensors below a prefix, of a folder's .safetensors files, without the prefix."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    kinds = _read(folder, ("*.safetensors",), tuple(prefixes))
    files = sorted({file for kind in kinds for file in folder.glob(kind)})
    if not files:
        raise ValueError("it has no .safetensors weights")
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                for prefix in prefixes:
                    if name.startswith(prefix):
                        found[name.removeprefix(prefix)] = tensors.get_tensor(name)
    return found
