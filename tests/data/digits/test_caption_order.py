"""How often a caption stands before its picture is the config's to say."""

from __future__ import annotations

import pytest

from mixture_of_mamba.data.digits.config import DigitsConfig
from mixture_of_mamba.data.digits.source import DigitScenes
from tests.factories.data import tiny_config


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_captions_stand_first_as_often_as_asked_for(share: float) -> None:
    digits = {"scenes": 600, "caption_first": share, "text_fraction": 0.0}
    config = tiny_config("transfusion", digits=digits)
    documents = DigitScenes(config.data, config.modalities).training.documents
    first = sum(document[0][0] == "text" for document in documents) / len(documents)
    assert first == pytest.approx(share, abs=0.06)
    assert all({name for name, _ in document} == {"text", "image"} for document in documents)


def test_a_share_outside_its_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"caption_first is 1\.5; it must lie in 0\.\.1"):
        DigitsConfig(caption_first=1.5)
