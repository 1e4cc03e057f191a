"""Any failure of one document is named with file and line, and `skip_bad` leaves out just that."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from mixture_of_mamba.data.errors import DataError
from mixture_of_mamba.modalities.text import TextTokenizer
from tests.data.conftest import listed, write_jsonl
from tests.factories.data import own_config, prepare
from tests.factories.sounds import bad_sounds

BASE64 = base64.b64encode(bytes(range(256)) * 12).decode()
BAD = {
    "base64 of a picture": ([{"image": BASE64}], "4,096 characters, which is no path"),
    "short base64": ([{"image": BASE64[:900].replace("/", "_")}], "File name too long"),
    "data address": ([{"image": "data:image/png;base64,AAAA"}], "which is no path"),
    "lone surrogate": ([{"text": "a \ud83d b"}], r"lone surrogate U\+D83D at character 3"),
    "surrogate in a path": ([{"image": "\ud83d.png"}], r"lone surrogate U\+D83D"),
    "zero in a path": ([{"audio": "a\0b.wav"}], "there is no such file|null"),
    "a folder": ([{"image": "."}], "it is no file"),
    "a device": ([{"audio": "/dev/zero"}], "it is no file"),
}
RAW = {
    "twice": ('[{"text": "a", "text": "b"}]', "two values for one of"),
    "too deep": ("[" * 200_000, "no valid JSON"),
    "many digits": ("[" + "1" * 10_000 + "]", "no valid JSON"),
    "Latin-1": (b'[{"text": "caf\xe9"}]', "no valid JSON"),
}


def lines() -> list[tuple[str, bytes, str]]:
    """(kind, line, message)."""
    found = [(kind, json.dumps(value).encode(), m) for kind, (value, m) in BAD.items()]
    for kind, (raw, message) in RAW.items():
        found.append((kind, raw if isinstance(raw, bytes) else raw.encode(), message))
    return found


@pytest.mark.parametrize(("kind", "line", "message"), lines(), ids=[kind for kind, *_ in lines()])
def test_each_names_its_line_and_says_what_helps(
    tmp_path: Path, kind: str, line: bytes, message: str
) -> None:
    source = tmp_path / "d.jsonl"
    source.write_bytes(b'[{"text": "good"}]\n' + line + b'\n[{"text": "fine"}]\n')
    with pytest.raises(DataError, match=message) as error:
        prepare(own_config(source, tmp_path))
    assert str(error.value).startswith(f"{source}:2: ")
    assert "data.skip_bad" in str(error.value)
    assert len(str(error.value)) < 600


def test_all_together_are_left_out_and_the_rest_is_there(media: Path, tmp_path: Path) -> None:
    """Bad lines, bad sounds, a picture that is too large, a table that breaks off, twins."""
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(media / "picture0.png", folder / "ok.png")
    shutil.copy(media / "sound0.wav", folder / "ok.wav")
    sounds = bad_sounds(folder)
    rows = [
        json.dumps([{"text": f"good {i}"}, {"image": "ok.png"}, {"audio": "ok.wav"}]).encode()
        for i in range(6)
    ]
    bad = [line for _, line, _ in lines()]
    bad += [json.dumps([{"audio": name}]).encode() for name in sounds]
    (folder / "d.jsonl").write_bytes(b"\n".join([*rows[:3], *bad, *rows[3:], rows[0]]))
    (folder / "e.PARQUET").write_bytes(b"PAR1 and no more")
    bundle = prepare(own_config(folder, tmp_path, skip_bad=True))
    facts = bundle.facts
    assert facts["skipped"] == len(bad) + 1
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 6
    assert any("e.PARQUET: is no readable Parquet" in why for why in facts["skipped_because"])
    (twins,) = [line for line in facts["notes"] if "content that others have" in line]
    assert "left out: 1 documents" in twins
    assert twins.endswith(f"d.jsonl:{len(bad) + 7}, as {folder / 'd.jsonl'}:1")


def test_a_picture_above_the_limit_is_a_bad_document(media: Path, tmp_path: Path) -> None:
    rows = [[{"text": "a"}], [{"image": str(media / "picture0.png")}], [{"text": "b"}]]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    config = own_config(source, tmp_path, max_pixels=50 * 40 - 1)
    with pytest.raises(DataError, match=r"d\.jsonl:2: image .* 50 x 40 pixels, but at most 1,999"):
        prepare(config)
    rows = [[{"text": "a"}], [{"audio": str(media / "sound0.wav")}], [{"text": "b"}]]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=r"d\.jsonl:2: audio .* lasts 1 s, but at most 1 s"):
        prepare(own_config(source, tmp_path, max_seconds=1.1))


def test_a_text_that_the_tokenizer_cannot_take_is_its_documents_failure(
    media: Path, tmp_path: Path
) -> None:
    """A word vocabulary without a token for the unknown fails on other words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["a", "b", "c", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "words.json"))
    image, audio = {"image": str(media / "picture0.png")}, {"audio": str(media / "sound0.wav")}
    rows = [[{"text": text}, image, audio] for text in ("a", "b", "a zebra", "b a", "a b")]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    fields = {"text": {"vocabulary": 280, "tokenizer": str(tmp_path / "words.json")}}
    facts = prepare(own_config(source, tmp_path, **fields)).facts
    assert facts["train"]["unknown"] + facts["validation"]["unknown"] == 1
    assert any("1 stretches of text that" in line for line in facts["notes"])
    plain = json.loads((tmp_path / "words.json").read_text())
    plain["model"]["unk_token"] = "<missing>"
    (tmp_path / "words.json").write_text(json.dumps(plain))
    config = own_config(source, tmp_path, **fields)
    with pytest.raises(ValueError, match=r"words\.json cannot encode"):
        prepare(config)


def test_one_failing_text_among_many_is_found(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TextTokenizer.encode

    def encode(self: TextTokenizer, texts: list[str]) -> list[object]:
        if any("seven" in text for text in texts):
            raise RuntimeError("no seven")
        return whole(self, texts)  # type: ignore[return-value]

    monkeypatch.setattr(TextTokenizer, "encode", encode)
    image, audio = {"image": str(media / "picture0.png")}, {"audio": str(media / "sound0.wav")}
    rows = [[{"text": text}, image, audio] for text in ("six", "seven", "eight", "nine")]
    source = write_jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=rf"^{source}:2: RuntimeError: no seven; repair it"):
        prepare(own_config(source, tmp_path))
    facts = prepare(own_config(source, tmp_path, skip_bad=True)).facts
    assert facts["skipped_because"] == [f"{source}:2: RuntimeError: no seven"]
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 3


def test_messages_show_only_the_beginning_of_what_they_quote(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    pictures = pa.array([[{"image": b"\x89PNG" + bytes(100_000)}], [{"image": b"ab"}]])
    parquet.write_table(pa.table({"segments": pictures}), tmp_path / "d.parquet")
    first, second = listed(tmp_path / "d.parquet").documents
    assert len(str(first.error)) < 500 + len(str(tmp_path))
    assert "image is bytes b'\\x89PNG" in str(first.error)
    assert "(100,004 long), not a filled string" in str(first.error)
    assert "image is b'ab'" in str(second.error)
    rows = [{"text": ["word"] * 100_000}, {"sound": "x" * 100_000}, {"text": {"a": "x" * 9999}}]
    write_jsonl(tmp_path / "e.jsonl", [[row] for row in rows])  # type: ignore[list-item]
    for document in listed(tmp_path / "e.jsonl").documents:
        assert len(str(document.error)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["DATA.JSONL", "Data.JsonL", "DATA.PARQUET"])
def test_capitals_in_a_suffix_change_nothing(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if name.lower().endswith("jsonl"):
        write_jsonl(tmp_path / name, [[{"text": "a"}]])
    else:
        parquet.write_table(pa.table({"segments": [[{"text": "a"}]]}), tmp_path / name)
    for source in (tmp_path / name, tmp_path):
        (document,) = listed(source).documents
        assert document.segments == (("text", "a"),)
