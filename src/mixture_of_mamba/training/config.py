"""What a run is, as one value: its data, its model, its training."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..data.config import DataConfig
from ..models import Modality, ModelConfig
from .old_names import with_new_names

__all__ = ["ModelSettings", "RunConfig", "TrainConfig", "model_config", "nearest", "unknown_fields"]


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

    diffusion: dict[str, Any] = field(default_factory=dict)
    """Settings of the continuous head; its defaults where nothing is given."""

    init_from: str | None = None
    """Folder of a pretrained model whose weights the run starts from: a dense Mamba of
    state-spaces or transformers, or a model of this package. Its text tokenizer goes in
    data.text_tokenizer. None: new weights."""

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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run; `config.yaml` of its folder."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.model.init_from is not None and self.model.mixer != "mamba":
            raise ValueError(
                f"model.init_from is {self.model.init_from!r}, but only Mambas start from a "
                f"pretrained one and model.mixer is {self.model.mixer!r}; leave one of them out"
            )
        # Before data is prepared for minutes: are widths, split and weights possible at all?
        model_config(self.model, [(name, kind, 1) for name, kind in self.data.modalities])

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], source: str = "the configuration") -> RunConfig:
        """A config from nested values; what is left out takes its default.

        Args:
            plain: {"data": {...}, "model": {...}, "train": {...}}.
            source: what to name in errors.

        Raises:
            ValueError: an unknown field (with the nearest valid name), or a value out of range.
        """
        parts = {"data": DataConfig, "model": ModelSettings, "train": TrainConfig}
        if not isinstance(plain, Mapping):
            raise ValueError(f"{source} is no mapping; it needs the parts {', '.join(parts)}")
        plain = with_new_names(plain, source)
        valid = [f"{part}.{f.name}" for part, kind in parts.items() for f in fields(kind)]
        if problem := unknown_fields(plain, valid, source):
            raise ValueError(problem)
        return cls(**{part: kind(**(plain.get(part) or {})) for part, kind in parts.items()})

    def differences(self, other: RunConfig, free: Collection[str] = _FREE) -> list[str]:
        """Fields in which `other` would compute other steps, as "field: mine -> theirs".

        Args:
            free: dotted names of fields that may differ.
        """
        mine, theirs = dict(_flat(self.to_dict())), dict(_flat(other.to_dict()))
        return [
            f"{key}: {value!r} -> {theirs[key]!r}"
            for key, value in mine.items()
            if value != theirs[key] and key not in free
        ]


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
    return ModelConfig(
        d_model=settings.d_model,
        n_layers=settings.n_layers,
        modalities=[
            Modality(name, kind, size, settings.loss_weights.get(name))  # type: ignore[arg-type]
            for name, kind, size in given
        ],
        split=settings.split,  # type: ignore[arg-type]
        mixer=settings.mixer,  # type: ignore[arg-type]
        d_state=settings.d_state,
        expand=settings.expand,
        head_dim=settings.head_dim,
        vocabulary=settings.vocabulary,  # type: ignore[arg-type]
        tie_embeddings=settings.tie_embeddings,
        diffusion=settings.diffusion,
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """ " (did you mean X?)" where a valid dotted name is near, else an empty string."""
    options = list(valid)
    last = {option.rpartition(".")[2]: option for option in reversed(options)}
    short = name.rpartition(".")[2]
    found = [last[short]] if short in last else difflib.get_close_matches(name, options, 1, 0.75)
    found = found or [last[match] for match in difflib.get_close_matches(short, last, 1, 0.7)]
    return f" (did you mean {found[0]}?)" if found else ""


def unknown_fields(plain: Mapping[str, Any], valid: list[str], source: str) -> str | None:
    """An error for the dotted keys of nested values that are not valid; None where all are."""
    parts = {name.partition(".")[0] for name in valid}
    unknown = [
        key
        for part, values in plain.items()
        for key in ([f"{part}.{k}" for k in values] if isinstance(values, Mapping) else [str(part)])
        if key not in valid and not (key in parts and values is None)
    ]
    if not unknown:
        return None
    named = ", ".join(f"{key!r}{nearest(key, valid)}" for key in unknown)
    return f"{source} has unknown field{'s' if len(unknown) > 1 else ''} {named}"


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for part, values in plain.items():
        for name, value in values.items():
            yield f"{prefix}{part}.{name}", value
