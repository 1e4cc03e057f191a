"""A user's own documents: real PNG and WAV files, every layout, and clear errors for bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.data.errors import DataError
from mixture_of_mamba.training.config import RunConfig
from tests.data.conftest import documents, write_jsonl, write_png, write_wav
from tests.factories.data import own_config, prepare


@pytest.fixture(scope="module")
def own(media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataBundle, RunConfig]:
    """Ten documents from JSONL, with paths relative to the file."""
    rows = [
        [{k: v.replace(str(media) + "/", "") for k, v in s.items()} for s in row]
        for row in documents(media)
    ]
    source = write_jsonl(media / "documents.jsonl", rows)
    config = own_config(source, tmp_path_factory.mktemp("cache"))
    return prepare(config), config


def test_jsonl_documents_become_windows(own: tuple[DataBundle, RunConfig]) -> None:
    bundle, _ = own
    counts = {
        name: bundle.train.tokens_by_modality()[name] + bundle.validation.tokens_by_modality()[name]
        for name in ("image", "speech")
    }
    assert counts["image"] == 9 * 65
    assert counts["speech"] == 9 * (1.2 * 25 + 1)  # 1.2 s at 25 units, and the end token
    assert bundle.facts["train"]["documents"] + bundle.facts["validation"]["documents"] == 10
    assert bundle.facts["skipped"] == 0


def test_examples_are_the_users_own_files(own: tuple[DataBundle, RunConfig], media: Path) -> None:
    from PIL import Image

    bundle, _ = own
    for example in bundle.validation_examples:
        if not example.caption.startswith("picture number"):
            continue
        number = example.caption.split()[2]
        with Image.open(media / f"picture{number}.png") as picture:
            square = picture.crop((5, 0, 45, 40)).resize((32, 32), Image.Resampling.LANCZOS)
        assert np.abs(example.items["image"].astype(int) - np.asarray(square)).mean() < 2
        wave, rate = example.items["speech"]
        assert rate == 22_050
        assert len(wave) == pytest.approx(1.2 * 22_050, abs=2)


def test_parquet_holds_the_same_documents(
    own: tuple[DataBundle, RunConfig], media: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    segment = pa.struct([(kind, pa.string()) for kind in ("text", "image", "audio")])
    table = pa.table({"segments": pa.array(documents(media), pa.list_(segment))})
    parquet.write_table(table, tmp_path / "documents.parquet")
    bundle = prepare(own_config(tmp_path / "documents.parquet", tmp_path))
    np.testing.assert_array_equal(bundle.train.tokens, own[0].train.tokens)
    np.testing.assert_array_equal(bundle.validation.tokens, own[0].validation.tokens)


def test_a_folder_of_files_groups_them_by_stem(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(4):
        (folder / f"item{i}.txt").write_text(f"the caption of {i}")
        write_png(folder / f"item{i}.png", i)
    (folder / "notes.txt").write_text("words alone")
    (folder / "ignored.bin").write_bytes(b"x")
    config = own_config(folder, tmp_path, setting="transfusion")
    bundle = prepare(config)
    total = bundle.facts["train"]["documents"] + bundle.facts["validation"]["documents"]
    assert total == 5
    assert bundle.train.tokens_by_modality()["image"] in (3 * 64, 4 * 64)


def test_tokenizers_can_be_reused(
    own: tuple[DataBundle, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, config = own
    bundle.tokenizers.save(tmp_path / "tokenizers")
    monkeypatch.setattr("mixture_of_mamba.data.build.fit_tokenizers", None)
    again = prepare(
        own_config(Path(config.data.source), tmp_path, tokenizers=str(tmp_path / "tokenizers"))
    )
    np.testing.assert_array_equal(again.train.tokens, bundle.train.tokens)


def test_tokenizers_of_another_setting_are_refused(
    own: tuple[DataBundle, RunConfig], media: Path, tmp_path: Path
) -> None:
    own[0].tokenizers.save(tmp_path / "tokenizers")
    source = write_jsonl(tmp_path / "d.jsonl", [[{"text": "a"}], [{"text": "b"}]])
    config = own_config(
        source, tmp_path, setting="chameleon", tokenizers=str(tmp_path / "tokenizers")
    )
    with pytest.raises(ValueError, match="choose the modalities that they were made for"):
        prepare(config)


def test_a_changed_picture_is_noticed(tmp_path: Path) -> None:
    rows = [[{"text": f"words {i}"}, {"image": f"p{i}.png"}] for i in range(3)]
    for i in range(3):
        write_png(tmp_path / f"p{i}.png", i)
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    config = own_config(source, tmp_path / "cache", setting="transfusion", image={"patch": 8})
    before = prepare(config)
    for i in range(3):
        write_png(tmp_path / f"p{i}.png", i + 40, size=(60, 60))
    after = prepare(config)
    assert not np.array_equal(before.train.values["image"], after.train.values["image"])


BAD = {
    "malformed": ('[{"text": "unfinished', "is no valid JSON"),
    "not a list": ('"text"', "a document is a list"),
    "empty": ("[]", "a document is a list"),
    "two keys": ('[{"text": "a", "image": "b.png"}]', "a segment is one of"),
    "unknown kind": ('[{"video": "a.mp4"}]', "a segment is one of"),
    "no string": ('[{"text": 3}]', "not a filled string"),
    "missing image": ('[{"image": "nowhere.png"}]', "there is no such file"),
    "unreadable image": ('[{"image": "broken.png"}]', "broken.png cannot be read"),
    "missing audio": ('[{"audio": "nowhere.wav"}]', "nowhere.wav cannot be read"),
    "unreadable audio": ('[{"audio": "broken.wav"}]', "broken.wav cannot be read"),
    "empty audio": ('[{"audio": "empty.wav"}]', "has a header but no samples"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (folder / "broken.wav").write_bytes(b"RIFF and then nothing")
    write_wav(folder / "empty.wav", 0, seconds=0.0)
    return folder


@pytest.mark.parametrize("kind", BAD)
def test_bad_documents_name_file_and_line(kind: str, broken: Path, tmp_path: Path) -> None:
    line, message = BAD[kind]
    source = broken / f"{kind.replace(' ', '-')}.jsonl"
    source.write_text(f'[{{"text": "good"}}]\n\n{line}\n[{{"text": "fine"}}]\n')
    with pytest.raises(DataError, match=message) as error:
        prepare(own_config(source, tmp_path))
    assert str(error.value).startswith(f"{source}:3: ")
    assert "data.skip_bad" in str(error.value)


def test_skip_bad_counts_and_goes_on(broken: Path, tmp_path: Path) -> None:
    write_png(broken / "fine.png", 0)
    good = [json.dumps([{"text": f"good {i}"}, {"image": "fine.png"}]) for i in range(6)]
    source = broken / "mixed.jsonl"
    source.write_text("\n".join([*good[:3], *(line for line, _ in BAD.values()), *good[3:]]))
    config = own_config(source, tmp_path, setting="transfusion", image={"patch": 8}, skip_bad=True)
    facts = prepare(config).facts
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 6
    assert facts["skipped"] == len(BAD)
    assert any("no valid JSON" in reason for reason in facts["skipped_because"])


def test_a_kind_that_the_setting_lacks_is_refused(media: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "d.jsonl", [[{"audio": str(media / "sound0.wav")}]] * 2)
    with pytest.raises(DataError, match=r"segment 1 is \{'audio': .* the modalities of the run"):
        prepare(own_config(source, tmp_path, setting="chameleon"))


def test_sources_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no documents"):
        prepare(own_config(empty, tmp_path))
    (tmp_path / "words.doc").write_text("x")
    with pytest.raises(DataError, match=r"neither \.jsonl nor \.parquet"):
        prepare(own_config(tmp_path / "words.doc", tmp_path))
    one = write_jsonl(tmp_path / "one.jsonl", [[{"text": "alone"}]])
    with pytest.raises(DataError, match="at least 2 are needed"):
        prepare(own_config(one, tmp_path))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="no readable Parquet"):
        prepare(own_config(tmp_path / "bad.parquet", tmp_path))


def test_text_alone_needs_a_setting_it_can_fill(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "d.jsonl", [[{"text": f"words {i}"}] for i in range(5)])
    with pytest.raises(ValueError, match="hold no image"):
        prepare(own_config(source, tmp_path, setting="chameleon"))
