"""What a run is, as one value: its modalities, its data, its model, its training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..data.config import DataConfig, check_modalities
from ..modalities.config import DEFAULT, ModalityConfig, merged, modalities_from
from ..models.diffusion_config import DiffusionConfig
from ..structure import field_types, flattened, structure, unknown_fields
from .old_names import SETTINGS, with_new_names

if TYPE_CHECKING:
    from ..models.config import ModelConfig

__all__ = ["SECTIONS", "ModelSettings", "RunConfig", "TrainConfig", "model_config"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model of a run; its modalities come from the data."""

    d_model: int = 96
    """Width of the residual stream."""

    n_layers: int = 6
    """Number of blocks; two Mamba blocks stand for one transformer layer."""

    split: str = "all"
    """Projections with one weight per modality: "all", "none" (dense), or some of in_proj, x_proj,
    dt_proj, out_proj joined by "+"."""

    mixer: str = "mamba"
    """"mamba", or "attention" for the transformer baselines."""

    d_state: int = 16
    """States per channel of the scan."""

    expand: int = 2
    """Inner width of a block divided by d_model."""

    head_dim: int = 32
    """Width of one attention head (mixer "attention")."""

    vocabulary: str = "shared"
    """"shared": one softmax over all discrete vocabularies; "separate": one per modality."""

    tie_embeddings: bool = False
    """Whether the output map is the embedding."""

    loss_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a modality's loss, by its name; by default 1, and 5 where it is continuous."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Noise and target of continuous modalities."""

    init_from: str | None = None
    """Folder of a pretrained model whose weights the run starts from: a dense Mamba of
    state-spaces or transformers, or a model of this package. Its text tokenizer goes in
    modalities.text.tokenizer. None: new weights."""

    freeze: list[str] | None = None
    """What training leaves unchanged, to the bit: names of modalities (their experts and tokens;
    NAME:N for its first N tokens), and "shared" (all that modalities share). None: what
    `mom upcycle --freeze` wrote into the folder of `init_from`, else nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training of a run."""

    steps: int = 1500
    """Optimizer steps."""

    batch_size: int = 12
    """Windows in one optimizer step, over all devices and parts together."""

    gradient_accumulation_steps: int = 1
    """Parts that a step's windows are processed in, one after the other, to save memory."""

    learning_rate: float = 2e-3
    """Peak learning rate."""

    final_learning_rate: float = 0.1
    """Learning rate at the last step, as a share of the peak."""

    warmup: int = 100
    """Steps of linear warm-up; a cosine to final_learning_rate follows."""

    weight_decay: float = 0.1
    """AdamW's decay; A_log, D, norms, biases and embeddings are left out of it."""

    beta1: float = 0.9
    """AdamW's average of gradients."""

    beta2: float = 0.95
    """AdamW's average of squared gradients."""

    max_grad_norm: float = 1.0
    """Largest norm of all gradients together; 0 for no limit."""

    precision: str = "float32"
    """"float32", "bf16" for bfloat16 autocast over float32 weights, or "auto": bf16 where a
    measurement of a second, kept for the next time, says that it is faster on this machine. The
    run's config.yaml has what was taken."""

    activation_checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping what is inside it."""

    device: str = "auto"
    """"auto", "cpu" or "cuda"."""

    devices: int = 1
    """Devices (processes on the CPU) to train on."""

    strategy: str = "auto"
    """For more than one device: "ddp" (a copy of the model on each) or "fsdp" (parameters and
    optimizer divided among them). "auto" takes ddp."""

    threads: int | None = None
    """CPU threads of PyTorch in each process; null leaves the process's setting."""

    evaluate_every: int = 250
    """Steps between evaluations on fixed validation batches; the end is always evaluated."""

    evaluate_batches: int = 8
    """Batches of batch_size windows in one evaluation; 0 for all validation windows."""

    log_every: int = 10
    """Steps that one line of metrics.jsonl averages over."""

    checkpoint_every: int = 500
    """Steps between checkpoints; the end always has one."""

    keep_checkpoints: int = 2
    """How many of the latest checkpoints are kept."""

    stop_after: int | None = None
    """Stop at this step with a checkpoint, as if interrupted; the schedule runs on to `steps`."""

    samples: int = 2
    """Decoded samples of each modality that an evaluation shows in TensorBoard; 0 for none."""

    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""

    progress: bool | None = None
    """Progress bar; null shows it on a terminal only."""

    seed: int = 0
    """Seed of initial values and of the order of the data."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"train.{name} is {value}; it must be at least {least}")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"train.{name} is {value!r}; choose from {', '.join(choices)}")
        for name in ("learning_rate", "final_learning_rate", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"train.{name} is {value}; it must be finite and not negative")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; it must lie in 0..1")
        if self.precision == "auto" and self.devices > 1:
            raise ValueError(
                f"train.precision auto is measured by one process, and train.devices is "
                f"{self.devices}; say float32 or bf16"
            )
        parts = self.devices * self.gradient_accumulation_steps
        if self.batch_size % parts:
            raise ValueError(
                f"train.batch_size is {self.batch_size}, which {self.devices} devices x "
                f"{self.gradient_accumulation_steps} parts do not divide; use a multiple of {parts}"
            )

    def remarks(self) -> list[str]:
        """What is possible and hardly meant, a line each."""
        if self.warmup < self.steps:
            return []
        return [
            f"train.warmup is {self.warmup} and train.steps {self.steps}: the learning rate rises "
            f"to the end, where it is {self.steps / self.warmup:.0%} of train.learning_rate; "
            "give a smaller --train.warmup (0: none)"
        ]


_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "warmup": 0,
    "devices": 1,
    "threads": 1,
    "evaluate_every": 1,
    "evaluate_batches": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "stop_after": 1,
    "samples": 0,
    "seed": 0,
}
_CHOICES = {
    "precision": ("float32", "bf16", "auto"),
    "device": ("auto", "cpu", "cuda"),
    "strategy": ("auto", "ddp", "fsdp"),
}
# What may change between a run's parts without changing what its steps compute.
_FREE = {
    "data.cache",
    "train.steps",
    "train.device",
    "train.devices",
    "train.strategy",
    "train.threads",
    "train.evaluate_every",
    "train.evaluate_batches",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.stop_after",
    "train.samples",
    "train.tensorboard",
    "train.progress",
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

    def differences(self, other: RunConfig, free: Collection[str] = _FREE) -> list[str]:
        """Fields in which `other` would compute other steps, as "field: mine -> theirs"; those of
        `free`, dotted names, may differ."""
        mine, theirs = dict(flattened(self.to_dict())), dict(flattened(other.to_dict()))
        return [
            f"{key}: {mine.get(key)!r} -> {theirs.get(key)!r}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key) and key not in free
        ]


def known_fields(
    plain: Any, source: str, base: Mapping[str, Any] | None = None, *, reused: bool | None = None
) -> dict[str, Any]:
    """Nested values of a run's config under the names of this version, all of them valid.

    Args:
        source: what to name in errors.
        base: the modalities that these values are laid over.
        reused: whether tokenizers are reused; None: as these values say.

    Raises:
        ValueError: an unknown field; names the nearest valid one.
    """
    sections = ("modalities", *SECTIONS)
    if not isinstance(plain, Mapping):
        raise ValueError(f"{source} holds no mapping; it needs the parts {', '.join(sections)}")
    nested = with_new_names(plain, source, base, reused=reused)
    valid = [
        "modalities",
        *(n for s, kind in SECTIONS.items() for n, _ in field_types(kind, s + ".")),
    ]
    if problem := unknown_fields(nested, valid, source):
        raise ValueError(problem)
    return nested


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
