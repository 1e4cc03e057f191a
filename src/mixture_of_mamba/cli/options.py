"""A run's config as options: YAML files and presets by name, overridden by dotted flags."""

from __future__ import annotations

import ast
import inspect
import textwrap
from argparse import SUPPRESS, ArgumentError, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ..modalities.config import DEFAULT, check_kinds, merged, modalities_from
from ..modalities.registry import names as codec_names
from ..modalities.registry import options_of
from ..structure import nearest
from ..training.config import SECTIONS, RunConfig, field_names, known_fields
from ..training.old_names import OLD_FIELDS
from ..training.runs import read_yaml
from .parser import Parser

__all__ = ["Parser", "add_run_options", "preset_names", "preset_path", "run_config"]

_ALL = ("modalities", *SECTIONS)


def add_run_options(
    parser: Parser, sections: tuple[str, ...] = _ALL, base: Mapping[str, Any] | None = None
) -> None:
    """Add -c and the fields of a run.

    Args:
        sections: parts of the config that the command uses; others of a file are not read.
        base: modalities where nothing is said about them.
    """
    parser.sections, parser.base = sections, dict(base or DEFAULT)
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help=f"a YAML file, or a preset by name: {', '.join(preset_names())}; flags override it",
    )
    parser.fields = lambda: _add_fields(parser, sections, parser.base or {})


def _add_fields(parser: Parser, sections: tuple[str, ...], base: Mapping[str, Any]) -> None:
    """Add what the help shows of the fields; reads the sources of their classes and loads every
    codec that another package adds."""
    if "modalities" in sections:
        group = parser.add_argument_group(
            "modalities",
            "NAME is that of a modality: "
            + "; ".join(f"{name} ({entry['codec']})" for name, entry in base.items())
            + " by default. --modalities.NAME null takes one away.",
        )
        options, broken = _codec_options()
        group.add_argument(
            "--modalities.NAME.codec",
            default=SUPPRESS,
            metavar="CODEC",
            help="; ".join(
                [
                    f"{', '.join(codec_names())}, or a class of your own as package.module:Class",
                    *(f"{name} cannot be loaded: {error}" for name, error in broken.items()),
                ]
            ).replace("%", "%%"),
        )
        for option, text in options.items():
            group.add_argument(
                f"--modalities.NAME.{option}",
                default=SUPPRESS,
                metavar="VALUE",
                help=text.replace("%", "%%"),
            )
    for section in SECTIONS:
        if section in sections:
            group = parser.add_argument_group(section)
            for name, text, default in _documented(SECTIONS[section], f"{section}."):
                group.add_argument(
                    f"--{name}",
                    default=SUPPRESS,
                    metavar="VALUE",
                    help=f"{text} (default: {default})".replace("%", "%%"),
                )


def _documented(kind: type, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted name, text of its docstring, default) of each field, nested ones in their place."""
    texts, hints = _docstrings(kind), get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _documented(hints[field.name], f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory() or MISSING
        default = "none" if default is MISSING else default
        yield (
            f"{prefix}{field.name}",
            texts.get(field.name, ""),
            "null" if default is None else default,
        )


def _docstrings(kind: type) -> dict[str, str]:
    """Texts that stand below the fields of a dataclass and of those that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for before, node in zip(body.body, body.body[1:], strict=False):
            match before, node:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = " ".join(text.split())
    return found


def _codec_options() -> tuple[dict[str, str], dict[str, Exception]]:
    """Option -> its help: of each text and default the codecs that have it. Codec -> why it cannot
    be loaded: a broken package must not take the help of the others away."""
    found: dict[str, dict[str, list[str]]] = {}
    broken: dict[str, Exception] = {}
    for codec in codec_names():
        try:
            options = options_of(codec)
        except Exception as error:  # whatever importing it raises
            broken[codec] = error
            continue
        for name, text, default in _documented(options):
            help_text = f"{text} (default: {default})"
            found.setdefault(name, {}).setdefault(help_text, []).append(codec)
    helps = {
        name: "; ".join(f"{', '.join(codecs)}: {text}" for text, codecs in texts.items())
        for name, texts in found.items()
    }
    return helps, broken


def run_config(args: Namespace) -> RunConfig:
    """The run that the parsed options describe, with what its reused tokenizers decide.

    Raises:
        ArgumentError: a flag of no field.
        ValueError: a value out of range, or one that reused tokenizers contradict.
    """
    files = list(args.config)
    if not files and getattr(args, "resume", False):
        files = [str(path)] if (path := Path(args.out) / "config.yaml").is_file() else []
    layers = [(read_yaml(file), str(file), _is_preset(file)) for file in map(preset_path, files)]
    layers.append((_flags(args.fields), "the command line", False))
    plain: dict[str, Any] = {}
    told: dict[str, Any] = {}  # the modalities that files and flags describe
    said: dict[str, Any] = {}  # the same without presets, which reused tokenizers overrule
    for values, source, preset in layers:
        base = told or args.base
        layer = known_fields(values, source, base, reused=False)
        over = layer.pop("modalities", None) or {}
        # a file that names every codec lists all modalities of the run
        whole = values is not layers[-1][0] and all(e and "codec" in e for e in over.values())
        if over:
            told = merged(base, over, replace=whole)
        if not preset:
            mine = known_fields(values, source, base, reused=True).get("modalities") or {}
            said = merged(said, mine, replace=whole and bool(mine))
        plain = _over(plain, {k: v for k, v in layer.items() if k in args.sections})
    if (plain.get("data") or {}).get("tokenizers") in (None, "null", ""):
        return RunConfig.from_dict({**plain, "modalities": told or args.base}).resolved()
    config = RunConfig.from_dict({**plain, "modalities": said}).resolved()
    if told:
        kinds = {name: m.kind for name, m in modalities_from(told).items()}
        check_kinds(kinds, config.modalities, str(config.data.tokenizers))
    return config


def _flags(given: list[tuple[str, str]]) -> dict[str, Any]:
    """Nested values of dotted flags; a value in braces is a mapping, in brackets a list.

    Raises:
        ArgumentError: a flag of no field.
    """
    plain: dict[str, Any] = {}
    valid = field_names()
    for name, text in given:
        known = name in (*valid, *_ALL, *OLD_FIELDS) or name.startswith("modalities.")
        inside = any(v.startswith(f"{name}.") or name.startswith(f"{v}.") for v in valid)
        if not (known or inside):
            hint = nearest(name, valid).replace("mean ", "mean --")
            raise ArgumentError(None, f"there is no option --{name}{hint}")
        nested: Any = text
        if text.startswith(("{", "[")):
            nested = yaml.safe_load(text)
        elif name in _ALL:
            nested = read_yaml(Path(text)) if Path(text).is_file() else text
        elif name.count(".") == 1 and name.startswith("modalities.") and text == "null":
            nested = None
        for part in reversed(name.split(".")):
            nested = {part: nested}
        plain = _over(plain, nested)
    return plain


def _over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values laid over others."""
    found = dict(base)
    for name, value in over.items():
        below = found.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        found[name] = _over(below, value) if both else value  # type: ignore[arg-type]
    return found


def preset_names() -> list[str]:
    """Names of the configs that ship."""
    folder = resources.files("mixture_of_mamba") / "configs"
    if not folder.is_dir():
        return []
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def _shipped(name: str) -> Path:
    return Path(str(resources.files("mixture_of_mamba"))) / "configs" / f"{name}.yaml"


def _is_preset(file: Path) -> bool:
    shipped = _shipped(file.stem)
    return shipped.is_file() and shipped.read_bytes() == file.read_bytes()


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
