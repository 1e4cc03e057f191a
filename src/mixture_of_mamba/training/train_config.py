"""The part `train` of a run's config."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrainConfig"]


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

    @property
    def micro_batch_size(self) -> int:
        """Windows that one device processes at a time."""
        return self.batch_size // (self.devices * self.gradient_accumulation_steps)

    @property
    def resolved_device(self) -> str:
        """ "cpu" or "cuda"; torch is asked, and imported, only where `device` is "auto"."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

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
