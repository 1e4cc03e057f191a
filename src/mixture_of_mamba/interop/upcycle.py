"""Upcycling: a pretrained dense model becomes a mixture with further modalities.

Every expert starts as the weight that the dense model has in its place, so that at step 0 the
mixture computes what the dense model computes: on text, the logits of text are identical.

The vocabulary grows. A discrete modality brings its own tokens, after those of the modalities
before it. Text must be able to open it: `<image>`, its begin token, is a token of the text
vocabulary and is appended at its end. A continuous modality has no tokens of its own, so that its
end token, `</image>`, follows as a further text token. Ids of existing tokens do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import read_json, write_json
from ..layers.init import parameter_generator
from ..models import Modality, ModelConfig, MultimodalModel
from ..models.diffusion import Diffusion
from ..models.freezing import Frozen, freeze
from .growth import grown_config, parse_modality
from .loading import model_folder

__all__ = ["Upcycled", "frozen_parts", "upcycle"]

_FILE = "upcycle.json"


@dataclass
class Upcycled:
    """A mixture, and how its vocabulary continues the one of the model it came from.

    Attributes:
        model: the mixture.
        kept: by name of each discrete modality of the source, how many tokens it had; these keep
            their ids and rows.
        markers: appended text tokens -> their ids in the text vocabulary.
        frozen: parts that training is to leave as they are, saved with the model; see `freeze`.
    """

    model: MultimodalModel
    kept: Mapping[str, int]
    markers: Mapping[str, int]
    frozen: tuple[str, ...] = ()

    def freeze(self, parts: Iterable[str] | None = None) -> Frozen:
        """Freeze experts and tokens of the source's modalities, the "shared" parts, or both.

        With ["text", "shared"], training on the new modalities leaves the logits of text, given
        text, unchanged to the bit. New tokens, such as `<image>`, are trained all the same.

        Args:
            parts: as in models.freezing.freeze, noted in `frozen`; by default those that are.
        """
        named = self.frozen if parts is None else tuple(parts)
        held = freeze(self.model, named, tokens=self.kept)
        self.frozen = tuple(dict.fromkeys((*self.frozen, *held.parts)))
        return held

    def save(self, folder: str | Path) -> None:
        """Write a model folder (see MultimodalModel.save_pretrained) with an upcycle.json."""
        self.model.save_pretrained(folder)
        plain = {"kept": self.kept, "markers": self.markers, "frozen": self.frozen}
        write_json(Path(folder) / _FILE, plain, indent=2)

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Upcycled:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such folder, or damaged files.
        """
        plain = read_json(Path(folder) / _FILE)
        model = MultimodalModel.from_pretrained(folder, device=device)
        return cls(model, plain["kept"], plain["markers"], tuple(plain["frozen"]))


def frozen_parts(folder: str | Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """What the upcycle.json of a model's folder, or of a run's model/, wants to be frozen: parts,
    and by name of each modality how many of its tokens; (), {} if there is no such file.

    Raises:
        ValueError: a damaged file.
    """
    path = model_folder(folder) / _FILE
    if not path.is_file():
        return (), {}
    plain = read_json(path)
    return tuple(plain["frozen"]), dict(plain["kept"])


def upcycle(
    source: MultimodalModel,
    modalities: Sequence[str | Modality],
    *,
    split: str | frozenset[str] | None = None,
    expert: str | None = None,
    seed: int = 0,
) -> Upcycled:
    """A mixture that starts from a dense model, or from a smaller mixture.

    Args:
        source: `load_dense(folder)`, or any model of this package.
        modalities: those of the source first, in their order and by name ("text"), then the new
            ones as "image:discrete:1024" (vocabulary, with its end token) or "image:continuous:48"
            (width of a vector). "text:discrete:50304" fixes the size of the text vocabulary instead
            of appending one marker token per new modality (two for a continuous one).
        split: projections with one weight per modality; at least those of the source. By default
            the source's, or all if it is dense.
        expert: modality whose experts the new modalities start from; by default the first.
        seed: of the new rows and heads, which are drawn with the spread of the existing rows.

    Raises:
        ValueError: modalities of the source that are missing, out of order or changed; a split
            that would merge experts; a source that is no Mamba.

    Example:
        >>> mixture = upcycle(load_dense("mamba-130m-hf"), ["text", "image:discrete:1024"])
        >>> mixture.markers
        {'<image>': 50280}
    """
    old = source.config
    wanted = [m if isinstance(m, Modality) else parse_modality(m, old) for m in modalities]
    config, markers = grown_config(old, wanted, split)
    first = expert or old.names[0]
    with torch.device("meta"):  # almost every value comes from the source
        model = MultimodalModel(config)
    device, dtype = source.embedding.weight.device, source.embedding.weight.dtype
    model.diffusion = Diffusion(config)
    model.diffusion.init_weights(seed)
    model.diffusion.to(device, dtype)
    given = source.state_dict()
    state = {
        name: _start(name, fresh, given, old, config, old.index(first), seed)
        for name, fresh in model.state_dict().items()
    }
    model.take_weights(state, device)
    kept = {m.name: m.size for m in old.modalities if m.discrete}
    return Upcycled(model, kept, markers)


def _start(
    name: str,
    fresh: Tensor,
    state: Mapping[str, Tensor],
    old: ModelConfig,
    config: ModelConfig,
    expert: int,
    seed: int,
) -> Tensor:
    """The first value of one parameter of the mixture."""
    given = state.get(name)
    if given is None:
        return fresh
    if name in ("embedding.weight", "head.weight"):
        return _vocabulary(name, given, old, config, seed)
    if given.shape == fresh.shape:
        return given.clone()
    # a stack of experts that grows; a dense weight is a stack of one
    new = fresh.shape[0] - len(given)
    return torch.cat([given, given[expert if len(given) > 1 else 0].expand(new, *given.shape[1:])])


def _vocabulary(
    name: str, given: Tensor, old: ModelConfig, config: ModelConfig, seed: int
) -> Tensor:
    """The rows of the source at the front of each modality's range; new rows are drawn."""
    spread = float(given.float().std())
    rows = given.new_empty(config.vocabulary_size, given.shape[1])
    for i, (modality, (low, high)) in enumerate(
        zip(config.modalities, config.vocabulary_ranges, strict=True)
    ):
        kept = old.vocabulary_ranges[i] if i < len(old.modalities) else (0, 0)
        count = kept[1] - kept[0]
        rows[low : low + count] = given[slice(*kept)]
        draw = torch.empty(high - low - count, given.shape[1], device=given.device)
        generator = parameter_generator(seed, f"{name}.{modality.name}.{count}", 0, draw)
        rows[low + count : high] = draw.normal_(0.0, spread, generator=generator).to(given.dtype)
    return rows
