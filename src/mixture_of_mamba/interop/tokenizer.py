"""The tokenizer of a pretrained checkpoint, with the tokens that open the new modalities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..extras import needs
from ..files import write_text
from ..modalities.text import fill_up

__all__ = ["copy_tokenizer"]

_FILE = "tokenizer.json"


def copy_tokenizer(source: Path, target: Path, *, size: int, markers: Mapping[str, int]) -> bool:
    """Write source/tokenizer.json with the markers to target/tokenizer.json.

    Args:
        source: folder of the dense checkpoint.
        target: folder of the mixture.
        size: text tokens before the markers; vocabularies are often padded, so that the tokenizer
            knows fewer.
        markers: text tokens -> their ids, from `size` on.

    Returns:
        Whether there was one to copy.

    Raises:
        ValueError: the tokenizer has more tokens than the model, or a marker already.
        ImportError: the library `tokenizers` is not installed.
    """
    if not (source / _FILE).is_file():
        return False
    with needs(str(source / _FILE), "train"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source / _FILE))
    _add_markers(tokenizer, size=size, markers=markers)
    write_text(target / _FILE, tokenizer.to_str(pretty=True))
    return True


def _add_markers(tokenizer: Any, *, size: int, markers: Mapping[str, int]) -> None:
    """Add the markers to a `tokenizers.Tokenizer` under exactly their ids.

    Ids that the padded vocabulary has and the tokenizer lacks are filled with `<unused-ID>`.

    Raises:
        ValueError: the tokenizer has more tokens than `size`, or a marker already.
    """
    known = tokenizer.get_vocab(with_added_tokens=True)
    count = max(known.values(), default=-1) + 1
    if count > size:
        raise ValueError(f"the tokenizer has {count} tokens, but the model's text only {size}")
    if present := sorted(set(markers) & set(known)):
        raise ValueError(
            f"the tokenizer has {present} already; give the modality another name, or the size of "
            "the text vocabulary (text:discrete:N), which appends no tokens"
        )
    if not markers:
        return
    fill_up(tokenizer, size)
    tokenizer.add_special_tokens(sorted(markers, key=lambda name: markers[name]))
    for name, wanted in markers.items():
        got = tokenizer.token_to_id(name)
        if got != wanted:
            raise ValueError(f"the tokenizer gave {name} the id {got} instead of {wanted}")
