"""Keyword arguments of `forward`: the names of a cache, those without effect, unknown ones."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationMixin

__all__ = ["CACHE_NAME", "CACHE_NAMES", "one_cache", "refuse_unknown", "without_effect"]

#: The names that a cache has had: `cache` since transformers 5.24, the others before it.
CACHE_NAMES = ("cache", "cache_params", "past_key_values")

#: The one that `generate` of the installed transformers uses for a class named "…Mamba…".
CACHE_NAME = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "cache_params"
)

#: What has no effect here, and the values that ask for none.
_NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "output_attentions": (None, False),
    "output_router_logits": (None, False),
    "is_causal": (None, True),
}


def one_cache(cache: Any, kwargs: dict[str, Any]) -> Any:
    """The cache, under whichever of its names it came; older names are taken out of `kwargs`.

    Raises:
        TypeError: two different ones.
    """
    for name in CACHE_NAMES:
        given = kwargs.pop(name, None)
        if given is None or given is cache:
            continue
        if cache is not None:
            raise TypeError(f"two different caches were given, one as {name}; give one, as cache")
        cache = given
    return cache


def without_effect(kwargs: dict[str, Any]) -> None:
    """Remove keywords from `kwargs` whose values ask for nothing.

    Raises:
        ValueError: a value asks for something that a Mamba does not have, such as attentions.
    """
    for name, harmless in _NO_EFFECT.items():
        value = kwargs.pop(name, None)
        if not any(value is x for x in harmless):
            raise ValueError(
                f"{name}={value!r} asks for something that Mamba does not have; leave it out"
            )


def refuse_unknown(kwargs: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise where a keyword is left that nothing reads.

    Raises:
        TypeError: names the nearest keyword of `function`.
    """
    if not kwargs:
        return
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name != "self"
    ]
    name = next(iter(kwargs))
    near = difflib.get_close_matches(name, [*known, *CACHE_NAMES], 1, cutoff=0.0)
    raise TypeError(
        f"{function.__qualname__} has no argument {name!r}; the nearest is {near[0]!r} "
        f"(all: {', '.join(known)})"
    )
