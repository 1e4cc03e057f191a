"""The fields of a run as options: a YAML preset, overridden by dotted flags."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from ..data.config import OF_TOKENIZERS, DataConfig
from ..training.config import ModelSettings, RunConfig, TrainConfig, nearest, unknown_fields
from ..training.old_names import RENAMED, with_new_names

__all__ = ["Parser", "add_run_options", "preset_names", "preset_path", "run_config"]

PARTS = {"data": DataConfig, "model": ModelSettings, "train": TrainConfig}
_TYPES = {
    "<class 'int'>": "whole number",
    "<class 'float'>": "number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'dict'>": "mapping",
}


class Parser(ArgumentParser):
    """Raises instead of exiting; finds presets by name; names the nearest valid flag.

    `-c` counts first wherever it stands, so that a flag always overrides the file.

    Attributes:
        ignored: parts of a config file that the command has no use for, such as "train".
    """

    ignored: tuple[str, ...] = ()

    def parse_args(self, args: list[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        given = [_renamed(arg) for arg in args or []]
        flags = [s for action in self._actions for s in action.option_strings]
        files: list[str] = []
        if "--config" in flags:
            given = _config_first(given)
            if "--resume" in given and "-c" not in given:
                given = _config_of_run(given) + given
            for i, value in enumerate(given):
                if value == "-c" and i + 1 < len(given):
                    files.append(given[i + 1])
                    given[i + 1] = self._checked(given[i + 1], flags)
        for value in given:
            name = value.partition("=")[0]
            if name.startswith("--") and not _known(name, flags):
                hint = nearest(name[2:], [f[2:] for f in flags if f.startswith("--")])
                raise ArgumentError(
                    None, f"there is no option {name}{hint.replace('mean ', 'mean --')}"
                )
        try:
            parsed = super().parse_args(given, **kwargs)
        except ArgumentError as error:
            places = [a.dest for a in self._actions if not a.option_strings]
            raise ArgumentError(None, _plain(str(error), places)) from error
        if parsed.get("data.tokenizers") is not None:
            _leave_to_tokenizers(parsed, _set_by_user(given, files))
        return parsed

    def _checked(self, name: str, flags: list[str]) -> str:
        """The config's path; its text where parts of it are ignored."""
        path = preset_path(name)
        try:
            plain = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(plain, dict):
            raise ValueError(
                f"{path} holds no mapping; it needs fields such as train: {{steps: 500}}"
            )
        valid = [f[2:] for f in flags if f.startswith("--")]
        new = with_new_names(plain, str(path))
        used = {part: value for part, value in new.items() if part not in self.ignored}
        if problem := unknown_fields(used, valid, str(path)):
            raise ValueError(problem)
        return json.dumps(used) if used != plain else str(path)


#: jsonargparse's and argparse's messages -> words of the command line.
_MESSAGES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r'Parser key "(\S+?)"(?: element \d+)?: Expected an? (.+?)\. Got value: (.*)',
        lambda m: f"--{m[1]} is {m[3]!r}, which is no {_TYPES.get(m[2], m[2])}",
    ),
    (  # of fields that may be left out
        r'Parser key "(\S+?)": Does not validate against any of the Union subtypes '
        r"Subtypes: \[(<class '\w+'>), <class 'NoneType'>\] .* Given value: (.*)",
        lambda m: f"--{m[1]} is {m[3]!r}, which is no {_TYPES.get(m[2], m[2])}",
    ),
    (
        r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)",
        lambda m: f"{m[1]} is {m[2]!r}; choose from {m[3].replace(chr(39), '')}",
    ),
    (r"argument (\S+): expected (?:at least )?one argument", lambda m: f"{m[1]} needs a value"),
    (r"^unrecognized arguments: (.*)", lambda m: f"there is no place for {m[1]}; see --help"),
)


def _plain(message: str, places: Sequence[str] = ()) -> str:
    """A parser's message in words of the command line.

    Args:
        places: names of arguments without a flag.
    """
    message = " ".join(message.split())
    for pattern, words in _MESSAGES:
        message = re.sub(pattern, words, message)

    def missing(m: re.Match[str]) -> str:
        names = [n.upper() if n in places else f"--{n}" for n in m[1].split(", ")]
        return f"missing {', '.join(names)}; see --help"

    return re.sub(r"the following arguments are required: (.*)", missing, message)


def _known(name: str, flags: list[str]) -> bool:
    """Whether a flag exists, or names an entry of a mapping (--model.loss_weights.image)."""
    return name in flags or any(f.count(".") == 1 and name.startswith(f + ".") for f in flags)


def _renamed(arg: str) -> str:
    """A flag under its name of this version."""
    name, equals, value = arg.partition("=")
    return f"--{RENAMED.get(name[2:], name[2:])}{equals}{value}" if name[:2] == "--" else arg


def _config_first(args: list[str]) -> list[str]:
    files: list[str] = []
    rest: list[str] = []
    i = 0
    while i < len(args):
        name, equals, value = args[i].partition("=")
        if name in ("-c", "--config") and (equals or i + 1 < len(args)):
            files += ["-c", value if equals else args[i + 1]]
            i += 1 if equals else 2
        else:
            rest.append(args[i])
            i += 1
    return files + rest


def _set_by_user(args: list[str], files: list[str]) -> set[str]:
    """Dotted names that flags and the user's own files set; a shipped preset is not the user's."""
    names: set[str] = set()
    parts: list[Any] = []
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name == "--data":  # a file, or the fields themselves: --data '{patch: 8}'
            value = value if equals else following
            parts.append(
                yaml.safe_load(Path(value).read_text() if Path(value).is_file() else value)
            )
        elif name.startswith("--"):
            names.add(name[2:])
    for file in map(preset_path, files):
        shipped = _shipped(file.stem)
        if not (shipped.is_file() and shipped.read_bytes() == file.read_bytes()):
            parts.append((yaml.safe_load(file.read_text()) or {}).get("data"))
    return names | {f"data.{field}" for part in parts if isinstance(part, dict) for field in part}


def _leave_to_tokenizers(parsed: Namespace, named: set[str]) -> None:
    """What reused tokenizers decide is theirs, unless the user said something."""
    for field in OF_TOKENIZERS:
        if f"data.{field}" not in named:
            parsed[f"data.{field}"] = None


def _config_of_run(args: list[str]) -> list[str]:
    """-c of the run that --out names, where there is one."""
    for name, value in zip(args, [*args[1:], ""], strict=True):
        out = value if name == "--out" else name.removeprefix("--out=")
        if name.startswith("--out") and (path := Path(out) / "config.yaml").is_file():
            return ["-c", str(path)]
    return []


def add_run_options(parser: ArgumentParser) -> None:
    """Add -c and every field of data, model and train."""
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help=f"a YAML file, or a preset by name: {', '.join(preset_names())}; flags override it",
    )
    for name, kind in PARTS.items():
        parser.add_class_arguments(kind, name)


def run_config(args: Namespace) -> RunConfig:
    """The run that the parsed options describe, with what its reused tokenizers decide.

    Raises:
        ValueError: a value out of range, or one that reused tokenizers contradict.
    """
    plain = args.as_dict()
    config = RunConfig.from_dict(
        {part: {f.name: plain[part][f.name] for f in fields(kind)} for part, kind in PARTS.items()}
    )
    if config.data.tokenizers is None:
        return config
    from ..data.build import settled

    return replace(config, data=settled(config.data))


def preset_names() -> list[str]:
    """Names of the configs that ship."""
    folder = resources.files("mixture_of_mamba") / "configs"
    if not folder.is_dir():
        return []
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def _shipped(name: str) -> Path:
    return Path(str(resources.files("mixture_of_mamba"))) / "configs" / f"{name}.yaml"


def preset_path(name: str) -> Path:
    """The file that -c names: a path, else the preset of that name ("chameleon",
    "configs/chameleon.yaml") that ships with the package.

    Raises:
        FileNotFoundError: neither exists; the presets are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.parent.name in ("", "configs") and path.suffix in ("", ".yaml", ".yml"):
        shipped = _shipped(path.stem)
        if shipped.is_file():
            return shipped
    names = preset_names()
    raise FileNotFoundError(
        f"there is no config {name!r}{nearest(path.stem, names)}; "
        f"give a YAML file or a preset: {', '.join(names)}"
    )
