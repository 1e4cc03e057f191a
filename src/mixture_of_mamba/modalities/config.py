"""The modalities of a run as its config lists them: a name, a codec, and the codec's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..structure import structure
from .options import CodecOptions
from .registry import codec_class, options_of

__all__ = [
    "DEFAULT",
    "ModalityConfig",
    "check_entries",
    "check_kinds",
    "merged",
    "modalities_from",
    "resolved",
]

#: The modalities of a run whose config says nothing about them.
DEFAULT: dict[str, dict[str, Any]] = {
    "text": {"codec": "bpe"},
    "image": {"codec": "vq"},
    "speech": {"codec": "units"},
}


@dataclass(frozen=True)
class ModalityConfig:
    """A codec and what is said about its options.

    Attributes:
        codec: its name in the registry; None: that of the reused tokenizers.
        given: options as plain values. Those that are left out are the reused tokenizers', else
            the codec's defaults.
    """

    codec: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> CodecOptions:
        """All options, those that are left out with their defaults.

        Raises:
            ValueError: the codec is left to tokenizers that have not been read.
        """
        return options_of(self.name)(**self.given)

    @property
    def name(self) -> str:
        """The codec, where it has to be known."""
        if self.codec is None:
            raise ValueError("a codec is left to reused tokenizers, which have not been read")
        return self.codec

    @property
    def kind(self) -> str:
        """ "discrete" or "continuous"."""
        return options_of(self.name).kind

    def complete(self) -> ModalityConfig:
        """The same with every option."""
        return ModalityConfig(self.codec, asdict(self.options))

    def to_dict(self) -> dict[str, Any]:
        """{"codec": …, option: value …}."""
        return {"codec": self.codec, **self.given}


def check_entries(plain: Any) -> None:
    """Hold what a config says about modalities against {name: {"codec": …, option: value …}}, where
    an entry may be None; names, codecs and options are not looked up.

    Raises:
        ValueError: it has another form.
    """
    for name, entry in _entries(plain).items():
        if entry is not None:
            _check_entry(name, entry)


def _entries(plain: Any) -> Mapping[Any, Any]:
    if plain and not isinstance(plain, Mapping):
        raise ValueError(
            f"modalities is {plain!r}; give a codec and options by name, such as "
            "{text: {codec: bpe}, image: {codec: vq, codes: 512}}"
        )
    return plain or {}


def _check_entry(name: Any, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"modalities.{name} is {entry!r}; give its codec and options, such as "
            "{codec: vq, codes: 512}"
        )
    codec = entry.get("codec")
    if not isinstance(codec, str | None):
        raise ValueError(f"modalities.{name}.codec is {codec!r}; give the name of a codec")


def modalities_from(plain: Mapping[str, Any]) -> dict[str, ModalityConfig]:
    """Modalities from {name: {"codec": …, option: value …}}, in the order of their ids.

    Raises:
        ValueError: an unknown codec or option, or a wrong value.
    """
    found = {}
    for name, entry in _entries(plain).items():
        if isinstance(entry, ModalityConfig):
            entry = entry.to_dict()
        _check_entry(name, entry)
        given = {k: v for k, v in entry.items() if k != "codec"}
        codec = entry.get("codec")
        if codec is not None:
            given = _checked(f"modalities.{name}", codec, given)
        found[str(name)] = ModalityConfig(codec, given)
    return found


def _checked(name: str, codec: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, with the types that the codec asks for."""
    try:
        kind = options_of(codec)
    except ValueError as error:
        raise ValueError(f"{name}.codec: {error}") from error
    try:
        options = structure(kind, given, name)
    except ValueError as error:
        message = str(error)
        if message.startswith(name):
            raise
        raise ValueError(f"{name}.{message}") from error
    return {key: _as_given(getattr(options, key), value) for key, value in given.items()}


def _as_given(complete: Any, given: Any) -> Any:
    """Of a codec inside this one, no more options than were given."""
    if isinstance(complete, Mapping) and isinstance(given, Mapping):
        return {key: complete[key] for key in given if key in complete}
    return complete


def merged(
    base: Mapping[str, Any], over: Mapping[str, Any], *, replace: bool = False
) -> dict[str, dict[str, Any]]:
    """Entries of a config over those of another that counts less.

    Args:
        base, over: {name: {"codec": …, option: value …}}; None takes a modality away.
        replace: whether names that `over` does not list are dropped.
    """
    found: dict[str, Any] = {} if replace else {n: dict(entry) for n, entry in base.items()}
    for name, entry in over.items():
        if entry is None:
            found.pop(name, None)
            continue
        _check_entry(name, entry)
        found[name] = _over(base.get(name) or {}, entry)
    return found


def _over(before: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A codec and its options laid over others; also those of a codec inside it."""
    codec = entry.get("codec", before.get("codec"))
    if codec is not None and codec != before.get("codec"):  # what both codecs have stays
        known = {f.name for f in fields(options_of(codec))}
        before = {option: value for option, value in before.items() if option in known}
    both = {
        option: _over(before[option], value)
        for option, value in entry.items()
        if isinstance(value, Mapping) and isinstance(before.get(option), Mapping)
    }
    return {**before, **entry, **both}


def resolved(
    modalities: Mapping[str, ModalityConfig],
    theirs: Mapping[str, tuple[str, CodecOptions]],
    where: str,
) -> dict[str, ModalityConfig]:
    """Modalities with what reused tokenizers decide, so that what is recorded is what is used.

    Args:
        modalities: with the options that the user gave.
        theirs: codec and options of each modality of the tokenizers.
        where: the folder of the tokenizers, for messages.

    Raises:
        ValueError: something that was given contradicts the tokenizers.
    """
    given_kinds = {name: m.kind for name, m in modalities.items() if m.codec is not None}
    result = {}
    if {"text"} < set(modalities) == set(given_kinds):  # a listing of all, not some options
        made = {name: ModalityConfig(codec) for name, (codec, _) in theirs.items()}
        check_kinds(given_kinds, made, where)
    for name, made_with in theirs.items():
        mine = modalities.get(name, ModalityConfig())
        result[name] = _decided(f"modalities.{name}", mine, made_with, where)
    if unknown := [name for name in modalities if name not in theirs]:
        raise ValueError(
            f"modalities names {', '.join(unknown)}, but the tokenizers in {where} have "
            f"{', '.join(theirs)}; leave it out, or give other tokenizers"
        )
    return result


def _decided(
    label: str, mine: ModalityConfig, theirs: tuple[str, CodecOptions], where: str
) -> ModalityConfig:
    """One codec of reused tokenizers, with what was given of its training."""
    codec, options = theirs
    if mine.codec is not None and codec_class(mine.codec) is not codec_class(codec):
        _agree(f"{label}.codec", mine.codec, codec, where)
    said = dict(mine.given)
    for option, (inner, _) in options.nested.items():
        if isinstance(said.get(option), Mapping):
            said[option] = {"codec": inner, **said[option]}
    given = _checked(label, codec, said)
    decided = asdict(options)
    for option, value in given.items():
        if option in options.nested:
            continue
        if option in options.paths and value is not None:
            raise ValueError(
                f"{label}.{option} is {value!r}, but the tokenizers in {where} bring their own; "
                f"give --{label}.{option} null, or leave out data.tokenizers"
            )
        if option not in options.training:
            _agree(f"{label}.{option}", value, decided[option], where)
    for option, inner_theirs in options.nested.items():
        plain = dict(given.get(option, {}))
        inner_mine = ModalityConfig(plain.pop("codec", None), plain)
        found = _decided(f"{label}.{option}", inner_mine, inner_theirs, where)
        decided[option] = found.to_dict()
    kept = {option: given[option] for option in options.training if option in given}
    return ModalityConfig(codec, {**decided, **dict.fromkeys(options.paths), **kept})


def check_kinds(ours: Mapping[str, str], theirs: Mapping[str, ModalityConfig], where: str) -> None:
    """Hold the modalities of a config, name -> kind, against those of reused tokenizers.

    Raises:
        ValueError: they are others.
    """
    found = {name: modality.kind for name, modality in theirs.items()}
    if list(ours.items()) != list(found.items()):
        raise ValueError(
            f"the tokenizers in {where} are for {_listed(found)}, but the config has "
            f"{_listed(ours)}; choose the modalities that they were made for"
        )


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} {name}" for name, kind in kinds.items())


def _agree(label: str, mine: Any, theirs: Any, where: str) -> None:
    if mine is not None and mine != theirs:
        raise ValueError(
            f"{label} is {mine!r}, but the tokenizers in {where} were made with {theirs!r}; give "
            f"{label} {theirs}, leave it out, or give other tokenizers"
        )
