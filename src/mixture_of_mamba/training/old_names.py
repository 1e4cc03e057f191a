"""Names that fields of a run had in earlier versions, so that old files and flags stay readable.

Most fields were renamed or moved; the table says how. `data.setting` named the modalities of a run,
and `data.latents` the codec of continuous images; fields of `data` described the codecs, whichever
the setting used: what the codecs of a run do not have is left out, as it was never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..modalities.config import DEFAULT
from ..modalities.registry import options_of
from ..models.diffusion_config import OLD_NAMES

__all__ = ["OLD_FIELDS", "SETTINGS", "with_new_names"]

#: Dotted name of a field in an earlier version -> its name now.
RENAMED = {
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.clip": "train.max_grad_norm",
    "train.recompute": "train.activation_checkpointing",
    "model.start": "model.init_from",
    **{f"model.diffusion.{old}": f"model.diffusion.{new}" for old, new in OLD_NAMES.items()},
    "data.scenes": "data.digits.scenes",
    "data.text_fraction": "data.digits.text_fraction",
    "data.text_code": "data.digits.text_code",
    "data.caption_first": "data.digits.caption_first",
}
#: Fields of `data` that described a codec -> (modality, option).
_OPTIONS = {
    "text_vocabulary": ("text", "vocabulary"),
    "text_tokenizer": ("text", "tokenizer"),
    "image_size": ("image", "size"),
    "image_codes": ("image", "codes"),
    "image_steps": ("image", "steps"),
    "patch": ("image", "patch"),
    "patch_order": ("image", "order"),
    "speech_units": ("speech", "units"),
}
#: What `data.setting` could be -> codec of each modality.
SETTINGS = {
    "chameleon": {"text": "bpe", "image": "vq"},
    "chameleon_speech": {"text": "bpe", "image": "vq", "speech": "units"},
    "transfusion": {"text": "bpe", "image": "patches"},
}
#: All old dotted names.
OLD_FIELDS = [*RENAMED, "data.setting", "data.latents", *(f"data.{name}" for name in _OPTIONS)]


def with_new_names(
    plain: Mapping[str, Any],
    source: str,
    base: Mapping[str, Any] | None = None,
    *,
    reused: bool | None = None,
) -> dict[str, Any]:
    """Nested values under the names of this version.

    Args:
        plain: nested values of a run's config, of any version.
        source: what to name in errors.
        base: the modalities that these values are laid over, {name: {"codec": …}}.
        reused: whether tokenizers are reused, which decide the codec of continuous images; None:
            as `plain` says.

    Raises:
        ValueError: a field has one value under its old name and another under its new one.
    """
    nested = _copied(plain)
    for old, new in RENAMED.items():
        holder = _holder(nested, old)
        if holder is not None and (name := old.rpartition(".")[2]) in holder:
            value = holder.pop(name)
            _put(nested, new, value, old, source)
    if isinstance(nested.get("data"), dict):
        if reused is None:
            reused = nested["data"].get("tokenizers") not in (None, "null", "")
        _modalities(nested, source, DEFAULT if base is None else base, reused)
    return nested


def _modalities(nested: dict[str, Any], source: str, base: Mapping[str, Any], reused: bool) -> None:
    """Moves what `data` said about modalities to `modalities`."""
    data = nested["data"]
    old = {name: data.pop(name) for name in ("setting", "latents", *_OPTIONS) if name in data}
    old = {name: value for name, value in old.items() if value is not None}
    given = nested.get("modalities") or {}
    codecs: dict[str, str | None] = {
        name: (given.get(name) or {}).get("codec") or (base.get(name) or {}).get("codec")
        for name in {**base, **given}
    }
    found: dict[str, Any] = {}
    labels: dict[tuple[str, str], str] = {}
    if (setting := old.pop("setting", None)) is not None:
        codecs = dict(_codecs_of(setting, codecs))
        if unknown := [str(name) for name in given if name not in codecs]:
            raise ValueError(
                f"{source} gives data.setting {setting}, which has no {', '.join(unknown)}; "
                "leave data.setting out"
            )
        found = {name: {"codec": codec} for name, codec in codecs.items()}
        if reused and setting == "transfusion":
            found["image"] = {}
        found |= {name: None for name in base if name not in codecs}
    latents = old.pop("latents", None)
    if latents is not None and codecs.get("image") in ("patches", "autoencoder"):
        codecs["image"] = "patches" if latents == "patches" else "autoencoder"
        found["image"] = {"codec": codecs["image"]}
        if codecs["image"] == "autoencoder":
            folder = None if latents == "autoencoder" else latents
            found["image"]["pretrained"] = folder
    for field, value in old.items():
        name, option = _OPTIONS[field]
        if name in codecs and option in _options(codecs[name]):
            found.setdefault(name, {})[option] = value
            labels[name, option] = f"data.{field}"
    if found:  # in the order of the setting
        removed = {name: None for name, entry in found.items() if entry is None}
        empty: dict[str, Any] = {name: {} for name in found}
        nested["modalities"] = {**empty, **given, **removed}
    for name, entry in found.items():
        for option, value in (entry or {}).items():
            label = labels.get(
                (name, option), "data.setting" if latents is None else "data.latents"
            )
            _put(nested, f"modalities.{name}.{option}", value, label, source)


def _codecs_of(setting: str, before: Mapping[str, str | None]) -> dict[str, str]:
    """Codecs of a setting; a codec that is of its kind already stays."""
    if setting not in SETTINGS:
        raise ValueError(f"setting is {str(setting)!r}; choose from {', '.join(SETTINGS)}")
    found = {}
    for name, codec in SETTINGS[setting].items():
        now = before.get(name)
        same = now is not None and options_of(now).kind == options_of(codec).kind
        found[name] = now if same and now is not None else codec
    return found


def _options(codec: str | None) -> set[str]:
    return {field.name for field in fields(options_of(codec))} if codec is not None else set()


def _copied(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in plain.items()}


def _holder(nested: dict[str, Any], dotted: str) -> dict[str, Any] | None:
    """The mapping that would hold a dotted name; None where there is none."""
    here: Any = nested
    for part in dotted.split(".")[:-1]:
        here = here.get(part) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else None


def _put(nested: dict[str, Any], dotted: str, value: Any, old: str, source: str) -> None:
    *path, name = dotted.split(".")
    here = nested
    for part in path:
        if here.get(part) is None:
            here[part] = {}
        here = here[part]
    if name in here and str(here[name]) != str(value):
        raise ValueError(
            f"{source} gives {old} as {value!r} and {dotted}, which is its new name, as "
            f"{here[name]!r}; leave one of them out"
        )
    here[name] = value
