"""The order of patches: a Z-order curve, undone by decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.modalities.image.patches import PatchCodec, PatchOptions, patch_order


def test_z_order_goes_quarter_by_quarter() -> None:
    rows = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]  # place of each patch
    assert np.array_equal(np.argsort(patch_order(4, "z")).reshape(4, 4), rows)
    assert sorted(patch_order(6, "z")) == list(range(36))  # any side
    assert np.array_equal(patch_order(3, "rows"), np.arange(9))
    with pytest.raises(ValueError, match="order is 'snake'; choose from rows, z"):
        patch_order(4, "snake")


@pytest.mark.parametrize("patch", [4, 8])
def test_patches_are_reordered_and_put_back(patch: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3)).astype(np.uint8)
    plain, curve = (
        PatchCodec.fit(images, PatchOptions(patch=patch, order=order), seed=0, report=print)
        for order in ("rows", "z")
    )
    order = patch_order(32 // patch, "z")
    assert np.array_equal(curve.encode(images), np.stack(plain.encode(images))[:, order])
    curve.save(tmp_path)
    loaded = PatchCodec.load(tmp_path)
    assert np.array_equal(loaded.decode(loaded.encode(images)), images)


def test_an_order_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="order is 'snake'; choose from rows, z"):
        PatchOptions(order="snake")
