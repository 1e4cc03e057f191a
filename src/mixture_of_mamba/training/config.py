"""What a run is, as one value: its modalities, its data, its model, its training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..data.config import DataConfig, check_modalities
from ..modalities.config import DEFAULT, ModalityConfig, check_entries, merged, modalities_from
from ..structure import field_types, flattened, structure, unknown_fields
from .model_settings import ModelSettings
from .old_names import SETTINGS, with_new_names
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..models.config import ModelConfig

__all__ = [
    "FREE",
    "RECORDING",
    "SECTIONS",
    "ModelSettings",
    "RunConfig",
    "TrainConfig",
    "model_config",
]


#: Fields on which nothing that is computed or measured depends: what is kept, shown and logged.
RECORDING = frozenset(
    {
        "data.cache",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.stop_after",
        "train.samples",
        "train.tensorboard",
        "train.progress",
    }
)
#: What may change between a run's parts without changing what its steps compute.
FREE = RECORDING | {
    "train.steps",
    "train.device",
    "train.devices",
    "train.strategy",
    "train.threads",
    "train.evaluate_every",
    "train.evaluate_batches",
    "train.activation_checkpointing",
}


#: The parts of a run's config beside its modalities.
SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelSettings, "train": TrainConfig}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run; `config.yaml` of its folder.

    Attributes:
        modalities: codec and options by name, in the order of the modality ids, text first; also
            as plain values. None: text, images and speech, or those of the reused tokenizers. Where
            `data.tokenizers` names some, `resolved` fills in what they decide.
        data, model, train: see their classes.
    """

    modalities: Mapping[str, ModalityConfig] = None  # type: ignore[assignment]  # see below
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        reused = self.data.tokenizers is not None
        given = self.modalities or ({} if reused else DEFAULT)
        modalities = modalities_from(given)
        if not reused:
            if (first := next(iter(modalities))) != "text":
                raise ValueError(f"the first modality is {first!r}; list text first")
            for name, modality in modalities.items():
                if modality.codec is None:
                    raise ValueError(f"modalities.{name} has no codec; add one, such as codec: vq")
            modalities = {name: modality.complete() for name, modality in modalities.items()}
        object.__setattr__(self, "modalities", modalities)
        check_modalities(self.data, modalities)
        if self.model.init_from is not None and self.model.mixer != "mamba":
            raise ValueError(
                f"model.init_from is {self.model.init_from!r}, but only Mambas start from a "
                f"pretrained one and model.mixer is {self.model.mixer!r}; leave one of them out"
            )
        if not reused:
            self._check_model()

    def _check_model(self) -> None:
        """Before data is prepared for minutes: are widths, split and weights possible at all?"""
        model_config(self.model, [(name, m.kind, 1) for name, m in self.modalities.items()])

    def resolved(self) -> RunConfig:
        """The same with what reused tokenizers decide.

        Raises:
            ValueError: tokenizers that do not exist, or something that contradicts them.
        """
        if self.data.tokenizers is None:
            return self
        from ..data.reuse import resolve

        found = replace(self, modalities=resolve(self.data, self.modalities))
        found._check_model()
        return found

    @property
    def setting(self) -> str:
        """A short name of the modalities: that of a setting of the paper, else their names."""
        codecs = {name: modality.kind for name, modality in self.modalities.items()}
        for setting, theirs in SETTINGS.items():
            if codecs == {n: ModalityConfig(codec).kind for n, codec in theirs.items()}:
                return setting
        return "+".join(self.modalities)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values; `from_dict` reads them back."""
        modalities = {name: modality.to_dict() for name, modality in self.modalities.items()}
        parts = {name: asdict(getattr(self, name)) for name in SECTIONS}
        return {"modalities": modalities, **parts}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], source: str = "the configuration") -> RunConfig:
        """A config from nested values; what is left out takes its default.

        Args:
            plain: {"modalities": {...}, "data": {...}, "model": {...}, "train": {...}}, also as
                earlier versions wrote it.
            source: what to name in errors.

        Raises:
            ValueError: an unknown field (with the nearest valid name), or a value of another type
                or out of range.
        """
        plain = known_fields(plain, source)
        sections: dict[str, Any] = {
            n: structure(kind, plain.get(n) or {}, n) for n, kind in SECTIONS.items()
        }
        given: Any = plain.get("modalities")
        if given and sections["data"].tokenizers is None:
            complete = all(entry and "codec" in entry for entry in given.values())
            given = merged(DEFAULT, given, replace=complete)
        elif given:  # what is left out is the tokenizers'
            given = {name: entry for name, entry in given.items() if entry is not None}
        return cls(modalities=given, **sections)

    def moved(self, other: RunConfig) -> set[str]:
        """Dotted names of options that name files, which `other` names elsewhere; whether they are
        the same files is for the digests of the data to say."""
        mine, theirs = dict(_named_paths(self.modalities)), dict(_named_paths(other.modalities))
        return {name for name in mine if None not in (mine[name], theirs.get(name))}

    def differences(self, other: RunConfig, free: Collection[str] = FREE) -> list[str]:
        """Fields in which `other` would compute other steps, as "field: mine -> theirs"; those of
        `free`, dotted names, may differ."""
        mine, theirs = dict(flattened(self.to_dict())), dict(flattened(other.to_dict()))
        return [
            f"{key}: {mine.get(key)!r} -> {theirs.get(key)!r}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key) and key not in free
        ]


def _named_paths(modalities: Mapping[str, ModalityConfig]) -> Iterator[tuple[str, str | None]]:
    """(dotted name, path) of the options that name files, those of codecs inside others too."""
    options = {f"modalities.{name}": m.options for name, m in modalities.items() if m.codec}
    while options:
        label, found = options.popitem()
        yield from ((f"{label}.{option}", getattr(found, option)) for option in found.paths)
        options |= {f"{label}.{option}": inner for option, (_, inner) in found.nested.items()}


def known_fields(
    plain: Any, source: str, base: Mapping[str, Any] | None = None, *, reused: bool | None = None
) -> dict[str, Any]:
    """Nested values of a run's config under the names of this version, all of them valid.

    Args:
        source: what to name in errors.
        base: the modalities that these values are laid over.
        reused: whether tokenizers are reused; None: as these values say.

    Raises:
        ValueError: an unknown field; names the nearest valid one. Modalities of another form than
            {name: {"codec": …, option: value …}}.
    """
    sections = ("modalities", *SECTIONS)
    if not isinstance(plain, Mapping):
        raise ValueError(f"{source} holds no mapping; it needs the parts {', '.join(sections)}")
    check_entries(plain.get("modalities"))
    nested = with_new_names(plain, source, base, reused=reused)
    if problem := unknown_fields(nested, ["modalities", *field_names()], source):
        raise ValueError(problem)
    return nested


def field_names() -> list[str]:
    """Dotted names of all fields of a run but those of modalities."""
    return [name for s, kind in SECTIONS.items() for name, _ in field_types(kind, f"{s}.")]


def model_config(
    settings: ModelSettings, modalities: Iterable[tuple[str, str, int]]
) -> ModelConfig:
    """The network of a run.

    Args:
        settings: of the run.
        modalities: (name, kind, size) in the order of their ids, from the tokenizers.

    Raises:
        ValueError: loss weights of a modality that the data does not have, or wrong widths.
    """
    given = list(modalities)
    names = [name for name, _, _ in given]
    if unknown := sorted(set(settings.loss_weights) - set(names)):
        raise ValueError(
            f"model.loss_weights names {', '.join(unknown)}, but the data has {', '.join(names)}"
        )
    from ..models.config import ModelConfig  # torch, which reading a config needs not

    shared = {f.name for f in fields(ModelConfig)} & {f.name for f in fields(settings)}
    shape: dict[str, Any] = {name: getattr(settings, name) for name in shared}
    shape["modalities"] = [
        {"name": name, "kind": kind, "size": size, "loss_weight": settings.loss_weights.get(name)}
        for name, kind, size in given
    ]
    return ModelConfig(**shape)
