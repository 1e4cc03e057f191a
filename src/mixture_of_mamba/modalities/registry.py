"""Codecs by name: the built-in ones, registered classes, entry points and dotted paths.

A codec's name in a config is looked up among the classes given to `register`, the built-in codecs,
and the entry points of the group `mixture_of_mamba.codecs`, in this order. A name of the form
"package.module:Class" is imported. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .codec import Codec
from .options import CodecOptions

__all__ = ["GROUP", "codec_class", "name_of", "names", "options_of", "register"]

#: Group of entry points that other packages add codecs with.
GROUP = "mixture_of_mamba.codecs"

#: Name -> the module and the class. The modules import neither torch nor the libraries of networks
#: before these are needed: whoever reads a config, or asks for help, needs the options alone.
_BUILT_IN = {
    "bpe": ".text:TextTokenizer",
    "vq": ".image.vq:VQImageTokenizer",
    "patches": ".image.patches:PatchCodec",
    "autoencoder": ".image.autoencoder:AutoencoderCodec",
    "janus": ".image.vq_models:JanusCodec",
    "emu3": ".image.vq_models:Emu3Codec",
    "chameleon": ".image.vq_models:ChameleonCodec",
    "vqmodel": ".image.vq_models:VQModelCodec",
    "frames": ".video:FrameCodec",
    "units": ".speech.units:SpeechUnitTokenizer",
    "mimi": ".speech.codebooks:MimiCodec",
    "encodec": ".speech.codebooks:EncodecCodec",
    "audio": ".speech.codebooks:AudioCodec",
    "hubert": ".speech.hubert:HubertCodec",
}
_REGISTERED: dict[str, type[Codec]] = {}

C = TypeVar("C", bound=type[Codec])


def register(codec_class: C) -> C:
    """Make a codec known under its name, `codec_class.codec`; returns the class, so that it serves
    as a decorator.

    Raises:
        TypeError: the class is no codec, or lacks a name, a medium or options.
        ValueError: another class has the name.
    """
    _check(codec_class)
    name = codec_class.codec
    if name in _BUILT_IN or _REGISTERED.get(name, codec_class) is not codec_class:
        raise ValueError(f"there is a codec {name!r} already; give {codec_class} another name")
    _REGISTERED[name] = codec_class
    return codec_class


def names() -> list[str]:
    """Names of all codecs that are known."""
    return sorted({*_BUILT_IN, *_REGISTERED, *_entry_points()})


def codec_class(name: str) -> type[Codec]:
    """The class of a codec; imports it.

    Raises:
        ValueError: there is no such codec; names the nearest one.
        ImportError: its module cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in _BUILT_IN:
        return _imported(_BUILT_IN[name])
    if name in _entry_points():
        return _check(_entry_points()[name].load())
    if ":" in name:
        return _imported(name)
    near = get_close_matches(name, names(), 1)
    hint = f"did you mean {near[0]!r}? Otherwise choose" if near else "choose"
    raise ValueError(
        f"there is no codec {name!r}; {hint} from {', '.join(names())}, or give a class of "
        "your own as package.module:Class"
    )


def options_of(name: str) -> type[CodecOptions]:
    """The class of a codec's options.

    Raises:
        ValueError, ImportError: as `codec_class`.
    """
    return codec_class(name).Options


def name_of(found: type[Codec]) -> str:
    """The name under which `codec_class` finds a class in every process: its own where it is built
    in or an entry point, else package.module:Class. A registered class that no import leads to, of
    a script or inside a function, keeps its own, under which that script registers it again."""
    name, module, path = found.codec, found.__module__, found.__qualname__
    if name in _BUILT_IN and _imported(_BUILT_IN[name]) is found:
        return name
    if name in _entry_points() and _entry_points()[name].load() is found:
        return name
    importable = module != "__main__" and getattr(sys.modules.get(module), path, None) is found
    return name if _REGISTERED.get(name) is found and not importable else f"{module}:{path}"


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _imported(path: str) -> type[Codec]:
    module, _, name = path.partition(":")
    found = getattr(import_module(module, __package__), name, None)
    if found is None:
        raise ValueError(
            f"codec {path!r}: module {module} has no {name!r}; give package.module:Class"
        )
    return _check(found)


def _check(found: Any) -> Any:
    if not (isinstance(found, type) and issubclass(found, Codec)):
        raise TypeError(f"{found!r} is no codec; derive it from mixture_of_mamba.modalities.Codec")
    for attribute in ("codec", "media", "Options"):
        if not hasattr(found, attribute):
            raise TypeError(f"codec {found.__name__} has no class attribute {attribute!r}; set it")
    kinds = getattr(found, "kind", None), getattr(found.Options, "kind", None)
    if all(isinstance(kind, str) for kind in kinds) and kinds[0] != kinds[1]:
        raise TypeError(
            f"codec {found.__name__} is {kinds[0]}, but its Options say {kinds[1]}; give both one "
            "class attribute 'kind'"
        )
    return found
