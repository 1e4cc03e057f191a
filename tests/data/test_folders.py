"""A user's folder: what is read, what is not and is named, and what makes prepared data stale."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mixture_of_mamba.data.build import build
from mixture_of_mamba.data.fingerprints import fingerprints
from mixture_of_mamba.data.listing import Listing
from tests.data.conftest import listed, write_jsonl, write_png
from tests.factories.data import own_config, prepare


def names(listing: Listing, folder: Path) -> list[str]:
    return [str(Path(d.where).relative_to(folder)) for d in listing.documents]


def stem(folder: Path, name: str, text: str = "words") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_hidden_files_and_backup_copies_are_named_and_not_read(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.txt"):
        stem(tmp_path, name)
    hidden = (".ipynb_checkpoints/a-checkpoint.txt", "sub/.c.txt", "d.txt~", "__MACOSX/a.txt")
    for name in hidden:
        stem(tmp_path, name)
    listing = listed(tmp_path)
    assert names(listing, tmp_path) == ["a", "sub/b"]
    assert listing.notes == [
        f"not read: 4 hidden or backup, first: {tmp_path / '.ipynb_checkpoints'}"
    ]


def test_runs_and_prepared_data_below_the_source_are_no_documents(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [[{"text": "a"}], [{"text": "b"}]])
    stem(tmp_path, "run/config.yaml")
    stem(tmp_path, "run/checkpoints/x")
    write_jsonl(tmp_path / "run/metrics.jsonl", [[{"text": "no document"}]])
    stem(tmp_path, "comparison/plan.json")
    stem(tmp_path, "comparison/configs/x")
    write_jsonl(tmp_path / "comparison/d.jsonl", [[{"text": "no document"}]])
    stem(tmp_path, "data-0123/key.json")
    listing = listed(tmp_path)
    assert len(listing.documents) == 2
    (note,) = listing.notes
    assert note.startswith("not read: 3 folders that hold runs or prepared data")


def test_a_run_below_its_source_can_be_resumed(tmp_path: Path) -> None:
    """Its files do not change the data."""
    write_jsonl(tmp_path / "d.jsonl", [[{"text": "a"}], [{"text": "b"}]])
    before = fingerprints(listed(tmp_path).documents)
    for name in ("config.yaml", "checkpoints/x", "metrics.jsonl", "model/config.json"):
        stem(tmp_path, f"runs/a/{name}")
    assert fingerprints(listed(tmp_path).documents) == before


def test_linked_folders_are_read_and_no_folder_twice(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    stem(own, "a.txt")
    stem(own, "real/b.txt")
    stem(other, "c.txt")
    (own / "linked").symlink_to(other)
    (own / "again").symlink_to(other)
    (own / "aside").symlink_to(own / "real")
    (own / "real" / "up").symlink_to(own)
    assert names(listed(own), own) == ["a", "again/c", "real/b"]


def test_files_that_no_document_names_are_counted(tmp_path: Path) -> None:
    write_png(tmp_path / "named.png", 0)
    write_png(tmp_path / "left.png", 1)
    stem(tmp_path, "notes.txt")
    write_jsonl(tmp_path / "d.jsonl", [[{"text": "a"}, {"image": "named.png"}], [{"text": "b"}]])
    listing = listed(tmp_path)
    assert len(listing.documents) == 2
    first = tmp_path / "left.png"
    assert listing.notes == [f"not read: 2 files that belong to no document, first: {first}"]
    (tmp_path / "d.jsonl").unlink()
    stem(tmp_path, "sound.m4a")
    assert listed(tmp_path).notes == [
        f"not read: 1 files that belong to no document, namely: {tmp_path / 'sound.m4a'}"
    ]


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\ntwo café".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffein Übermut".encode())
    first, second = listed(tmp_path).documents
    assert f"{tmp_path / 'a.txt'}:2: is not UTF-8 (byte 0xe9)" in str(first.error)
    assert second.segments == (("text", "ein Übermut"),)


def test_a_folder_that_may_not_be_listed_is_a_bad_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for anyone but root, whom no mode of a folder keeps out."""
    stem(tmp_path, "a.txt")
    stem(tmp_path, "closed/b.txt")
    real_scandir = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    closed, _ = listed(tmp_path).documents
    assert str(closed.error) == f"{tmp_path / 'closed'}: Permission denied"


@pytest.mark.parametrize("size", [100, 100_000])
def test_another_content_of_equal_size_and_time_is_noticed(tmp_path: Path, size: int) -> None:
    """Written in place, in the middle, and its time of modification set back."""
    write_jsonl(tmp_path / "d.jsonl", [[{"image": "a.png"}]])
    picture = tmp_path / "a.png"
    picture.write_bytes(bytes(size))
    before, times = fingerprints(listed(tmp_path).documents), picture.stat()
    assert fingerprints(listed(tmp_path).documents) == before
    with picture.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"x")
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert picture.stat().st_mtime_ns == times.st_mtime_ns and picture.stat().st_size == size
    assert fingerprints(listed(tmp_path).documents) != before


def test_equal_documents_are_taken_once_so_that_none_is_in_both_splits(tmp_path: Path) -> None:
    """The same picture under two names and in two formats, with the same words."""
    from PIL import Image

    for i in range(4):
        write_png(tmp_path / f"a{i}.png", i)
        with Image.open(tmp_path / f"a{i}.png") as picture:
            picture.save(tmp_path / f"copy{i}.bmp")
    rows = [
        [{"text": f"picture {i}"}, {"image": name}]
        for i in range(4)
        for name in (f"a{i}.png", f"copy{i}.bmp")
    ]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    config = own_config(source, tmp_path, setting="transfusion", validation_fraction=0.5)
    bundle = prepare(config)
    captions = {e.caption for e in bundle.validation_examples}
    assert len(bundle.validation_examples) == len(captions) == 2
    assert bundle.train.tokens_by_modality()["image"] == 2 * 64
    (note,) = bundle.facts["notes"]
    assert note == (
        f"left out: 4 documents of a content that others have, first: {source}:2, as {source}:1"
    )


def test_a_second_run_from_the_cache_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", 0)
    stem(tmp_path, "notes.md")
    (tmp_path / ".cache").mkdir()
    rows = [[{"text": f"words {i}"}, {"image": "a.png"}] for i in range(4)]
    write_jsonl(tmp_path / "d.jsonl", [*rows, rows[0], [{"image": "nowhere.png"}]])
    config = own_config(tmp_path, tmp_path / ".cache", setting="transfusion", skip_bad=True)
    said = []
    for _ in range(2):
        build(config.data, config.modalities)
        lines = [line.split(" s  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
        said.append([line for line in lines if line.startswith(("left out", "not read"))])
    assert said[0] == said[1]
    starts = [line.split(", first", 1)[0].split(", namely", 1)[0] for line in said[1]]
    assert starts == [
        "not read: 1 hidden or backup",
        "not read: 1 files that belong to no document",
        "left out: 1 documents of a content that others have",
        "left out: 1 bad documents",
    ]
