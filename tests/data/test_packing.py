"""Packing: nothing lost, nothing cut that fits, no padding while there is text."""

from __future__ import annotations

import numpy as np
import pytest

from mixture_of_mamba.data.cutting import cut
from mixture_of_mamba.data.packing import pack
from mixture_of_mamba.data.windows import PackedWindows
from mixture_of_mamba.modalities.documents import EncodedDocument

NAMES = ["text", "image"]


def document(segments: list[tuple[int, int]], label: int, dim: int = 0) -> EncodedDocument:
    """Segments (modality, length); every token is 1000 * label + its place."""
    modality = np.concatenate([np.full(n, m, np.uint8) for m, n in segments])
    number = np.concatenate([np.full(n, i, np.int32) for i, (_, n) in enumerate(segments)])
    tokens = (1000 * label + np.arange(len(modality))).astype(np.int32)
    images = int((modality == 1).sum())
    values = {"image": np.full((images, dim), label, np.float32)} if dim else {}
    return EncodedDocument(modality, tokens, number, values)


def scenes(count: int, seed: int = 0) -> list[EncodedDocument]:
    rng = np.random.default_rng(seed)
    return [document([(0, int(rng.integers(3, 12))), (1, 16)], i + 1) for i in range(count)]


def texts(count: int, length: int = 37) -> list[EncodedDocument]:
    return [document([(0, length)], 500 + i) for i in range(count)]


def pieces(windows: PackedWindows) -> list[np.ndarray]:
    """Tokens of every document of every window, padding left out."""
    out = []
    for w in range(len(windows)):
        for d in np.unique(windows.document_ids[w]):
            here = windows.document_ids[w] == d
            if windows.tokens[w][here].any():  # no token of these documents is 0, padding is
                out.append(windows.tokens[w][here])
    return out


def test_documents_stay_whole_and_come_exactly_once() -> None:
    given = scenes(40)
    windows = pack(given, [], names=NAMES, window=64, seed=0)
    found = {int(p[0]): p for p in pieces(windows)}
    assert len(pieces(windows)) == len(given)
    for want in given:
        np.testing.assert_array_equal(found[int(want.tokens[0])], want.tokens)


def test_text_fills_every_gap() -> None:
    windows = pack(scenes(40), texts(30), names=NAMES, window=64, seed=0, text_fraction=0.5)
    assert windows.padding == 0
    assert windows.tokens_by_modality()["image"] == 40 * 16
    for w in range(len(windows)):
        assert len(np.unique(windows.document_ids[w])) >= 1


@pytest.mark.parametrize("fraction", [0.4, 0.5, 0.7])
def test_real_text_has_the_share_that_was_asked_for(fraction: float) -> None:
    windows = pack(scenes(80), texts(9), names=NAMES, window=64, seed=0, text_fraction=fraction)
    real = int((windows.tokens >= 500_000).sum())
    assert real / windows.tokens.size == pytest.approx(fraction, abs=64 / windows.tokens.size)


def test_text_alone_is_cut_and_nothing_is_lost() -> None:
    given = texts(11)
    windows = pack([], given, names=NAMES, window=16, seed=0)
    tokens = np.sort(np.concatenate(pieces(windows)))
    np.testing.assert_array_equal(tokens, np.sort(np.concatenate([d.tokens for d in given])))
    assert windows.padding == windows.tokens.size - sum(map(len, given)) < 16


def test_text_runs_on_in_order_over_a_cut() -> None:
    windows = pack([], texts(1, length=40), names=NAMES, window=16, seed=0)
    starts = sorted(int(p[0]) - 500_000 for p in pieces(windows))
    assert starts == [0, 16, 32]


def test_first_position_of_a_document_and_padding_are_no_targets() -> None:
    windows = pack(scenes(10), [], names=NAMES, window=64, seed=0)
    for w in range(len(windows)):
        ids = windows.document_ids[w]
        first = np.concatenate([[True], np.diff(ids) != 0])
        assert not windows.loss_mask[w][first].any()
    documents = sum(len(np.unique(p)) > 0 for p in pieces(windows))
    counted = int(windows.loss_mask.sum())
    assert counted == windows.tokens.size - windows.padding - documents


def test_a_long_document_is_cut_between_segments() -> None:
    long = document([(0, 10), (1, 16), (0, 10), (1, 16)], 1)
    windows = pack([long], [], names=NAMES, window=30, seed=0)
    assert sorted(len(p) for p in pieces(windows)) == [26, 26]
    np.testing.assert_array_equal(np.sort(np.concatenate(pieces(windows))), long.tokens)


def test_a_discrete_segment_longer_than_a_window_is_cut_inside() -> None:
    long = document([(0, 5), (1, 70), (0, 5)], 1)
    windows = pack([long], [], names=NAMES, window=32, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(pieces(windows))), long.tokens)
    assert max(len(p) for p in pieces(windows)) <= 32


def test_a_continuous_image_longer_than_a_window_is_refused() -> None:
    with pytest.raises(
        ValueError, match="an item of image takes 40 positions, but a window has 32"
    ):
        pack([document([(0, 3), (1, 40)], 1, dim=2)], [], names=NAMES, window=32, seed=0)


def test_a_discrete_image_longer_than_a_window_is_refused() -> None:
    long = document([(0, 3), (1, 40)], 1)
    with pytest.raises(
        ValueError, match="an item of image takes 40 positions, but a window has 32"
    ):
        pack([long], [], names=NAMES, window=32, seed=0, whole=["image"])


def test_a_long_text_beside_a_continuous_image_is_cut_and_the_image_is_not() -> None:
    """What is next to the image stays with it; nothing is lost."""
    for segments in ([(0, 100), (1, 16)], [(1, 16), (0, 100)]):
        long = document(segments, 1, dim=2)
        windows = pack([long], [], names=NAMES, window=32, seed=0)
        np.testing.assert_array_equal(np.sort(np.concatenate(pieces(windows))), long.tokens)
        row = int(np.flatnonzero((windows.modality_ids == 1).any(1))[0])
        assert (windows.modality_ids[row] == 1).sum() == 16
        assert (windows.modality_ids[row] == 0).sum() == 16
        assert windows.padding == 4 * 32 - 116


CAPTIONED = {
    "captions before": ([(0, 10), (1, 16), (0, 10), (1, 16)], [{0, 1}, {2, 3}]),
    "captions behind": ([(1, 16), (0, 10), (1, 16), (0, 10)], [{0, 1}, {2, 3}]),
    "begin and end": ([(0, 1), (1, 15), (0, 10), (1, 16), (0, 9), (0, 1)], [{0, 1, 2}, {3, 4, 5}]),
    "two in a row": ([(0, 8), (1, 9), (2, 9), (0, 8), (1, 9), (2, 9)], [{0, 1, 2}, {3, 4, 5}]),
    "two texts": ([(0, 4), (0, 6), (1, 16), (0, 3), (0, 7), (1, 16)], [{0, 1, 2}, {3, 4, 5}]),
    "several fit": ([(0, 4), (1, 9)] * 3, [{0, 1, 2, 3}, {4, 5}]),
}


@pytest.mark.parametrize("name", CAPTIONED)
def test_a_caption_stays_with_its_image(name: str) -> None:
    """Segments of each window; greedy packing alone would part them."""
    segments, wanted = CAPTIONED[name]
    long = document(segments, 1)
    windows = pack([long], [], names=[*NAMES, "speech"], window=30, seed=0)
    owner = {int(t): int(s) for t, s in zip(long.tokens, long.segment_ids, strict=True)}
    found = sorted(sorted({owner[int(t)] for t in piece}) for piece in pieces(windows))
    assert found == [sorted(group) for group in wanted]


def test_documents_of_any_form_come_through_whole_and_in_order() -> None:
    """Random documents at many windows: every token once, images never cut, text beside them."""
    rng = np.random.default_rng(0)
    for label in range(200):
        window = int(rng.integers(20, 60))
        segments = [(0, 1)]
        for _ in range(int(rng.integers(1, 8))):
            kind = int(rng.integers(3))
            segments.append((kind, 16 if kind == 1 else int(rng.integers(1, 3 * window))))
        long = document([*segments, (0, 1)], label + 1)
        parts = list(cut(long, window, whole={1: "image"}))
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == len(long) and max(map(len, parts)) <= window
        for number, (kind, _) in enumerate(segments):
            at = np.flatnonzero(long.segment_ids == number)
            holders = [p for p in parts if p.start <= at[-1] and p.stop > at[0]]
            assert kind != 1 or len(holders) == 1


def test_values_follow_their_windows() -> None:
    given = [document([(0, 3 + i % 5), (1, 4)], i + 1, dim=2) for i in range(30)]
    windows = pack(given, texts(5), names=NAMES, window=32, seed=0, text_fraction=0.5)
    rows = np.random.default_rng(0).permutation(len(windows))[:7]
    batch = windows.batch(rows)
    at_images = batch.tokens[batch.modality_ids == 1] // 1000
    np.testing.assert_array_equal(batch.values["image"][:, 0].long(), at_images)


def test_segments_are_distinct_in_a_batch_and_constant_in_an_image() -> None:
    given = [document([(0, 4), (1, 6), (0, 2), (1, 6)], i + 1, dim=2) for i in range(12)]
    batch = pack(given, [], names=NAMES, window=48, seed=0).batch([0, 1, 2])
    assert batch.segment_ids is not None
    images: dict[int, set[int]] = {}
    for row in range(3):
        for i in range(48):
            if batch.modality_ids[row, i] == 1:
                key = int(batch.segment_ids[row, i])
                images.setdefault(key, set()).add(int(batch.tokens[row, i]) // 1000 + 100 * row)
    assert all(len(owners) == 1 for owners in images.values())
    assert len(images) == int((batch.modality_ids == 1).sum()) // 6


def test_order_depends_on_the_seed_only() -> None:
    first, again = (pack(scenes(30), texts(5), names=NAMES, window=64, seed=3) for _ in range(2))
    other = pack(scenes(30), texts(5), names=NAMES, window=64, seed=4)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)


def test_windows_that_do_not_exist_are_refused() -> None:
    windows = pack(scenes(5), [], names=NAMES, window=64, seed=0)
    with pytest.raises(IndexError, match="0\\.\\."):
        windows.batch([len(windows)])
