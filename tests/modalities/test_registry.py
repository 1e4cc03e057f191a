"""Codecs by name: built-in, registered, from entry points, by path; options without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from mixture_of_mamba.modalities import Codec, codec_class, register, registry
from mixture_of_mamba.modalities.image.patches import PatchOptions
from mixture_of_mamba.modalities.image.vq import VQImageTokenizer, VQOptions
from mixture_of_mamba.modalities.options import CodecOptions
from mixture_of_mamba.modalities.registry import name_of, names, options_of
from tests.helpers.toy_codecs import ToyCodec


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize("name", sorted(registry._BUILT_IN))
def test_a_built_in_codec_knows_its_name_and_options(name: str) -> None:
    codec = codec_class(name)
    assert codec.codec == name and name in names() and name_of(codec) == name
    assert codec.Options is options_of(name)
    assert codec.Options().kind == codec.kind
    assert codec.media.suffixes[0].startswith(".")


def test_a_registered_class_is_found_under_its_name() -> None:
    assert register(ToyCodec) is ToyCodec
    assert codec_class("toy") is register(ToyCodec)
    assert "toy" in names() and name_of(ToyCodec) == "tests.helpers.toy_codecs:ToyCodec"
    assert options_of("toy") is ToyCodec.Options


def test_a_class_is_found_by_its_path() -> None:
    path = "tests.helpers.toy_codecs:ToyCodec"
    assert codec_class(path) is ToyCodec
    assert name_of(ToyCodec) == path
    with pytest.raises(ValueError, match="has no 'Nothing'; give package"):
        codec_class("tests.helpers.toy_codecs:Nothing")
    with pytest.raises(ImportError):
        codec_class("no_such_package:Codec")


def test_an_entry_point_is_loaded_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "tests.helpers.toy_codecs:ToyCodec", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"theirs": point})
    assert "theirs" in names() and codec_class("theirs") is ToyCodec
    assert name_of(ToyCodec) == "tests.helpers.toy_codecs:ToyCodec"
    point = EntryPoint("toy", "tests.helpers.toy_codecs:ToyCodec", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"toy": point})
    assert name_of(ToyCodec) == "toy", "another process finds it under this name"


def test_a_class_that_no_import_leads_to_keeps_the_name_it_is_registered_under() -> None:
    class Inner(ToyCodec):
        codec = "inner"

    register(Inner)
    assert name_of(Inner) == "inner"
    script = type("Script", (ToyCodec,), {"codec": "script", "__module__": "__main__"})
    register(script)
    assert name_of(script) == "script"


#: A module of somebody else; importing it registers what other processes do not know then.
THEIRS = """
from mixture_of_mamba.modalities import register
from mixture_of_mamba.modalities.text import TextTokenizer
from tests.modalities.test_toy_modality import DepthLevels

@register
class Levels(DepthLevels):
    pass

class Words(TextTokenizer):
    pass
"""
SAVE = """
import sys
from mixture_of_mamba.modalities import codec_class
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
levels = codec_class("their_codecs:Levels")
text = codec_class("their_codecs:Words").train(["a wall", "stairs"], 280)
TokenizerSet(text, {"depth": levels(levels.Options(levels=5))}).save(sys.argv[1])
"""
LOAD = """
import sys
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
tokenizers = TokenizerSet.load(sys.argv[1])
print(*(type(tokenizers.codec(name)) for name in tokenizers.names))
"""
REUSE = """
import sys
from mixture_of_mamba.training.config import RunConfig

def run(codec):
    depth = {"levels": 5} if codec is None else {"codec": codec}
    data = {"tokenizers": sys.argv[1], "source": sys.argv[1], "window": 128}
    return RunConfig.from_dict({"modalities": {"depth": depth}, "data": data}).resolved()

by_path = run("their_codecs:Levels")
assert by_path.modalities["depth"].to_dict() == {"codec": "their_codecs:Levels", "levels": 5}
assert run(None) == by_path
assert run("levels") == by_path, "registered by now"
try:
    run("vq")
except ValueError as error:
    assert "codec is 'vq', but the tokenizers in" in str(error), error
else:
    sys.exit("another codec is taken for theirs")
"""


def test_another_process_finds_the_codecs_of_saved_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "their_codecs.py").write_text(THEIRS)
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root / "src", root, tmp_path)))
    folder = str(tmp_path / "tokenizers")

    def python(code: str) -> str:
        command = [sys.executable, "-c", code, folder]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python(SAVE)
    inspect = "import sys; from mixture_of_mamba.cli.main import main; "
    said = python(f"{inspect} sys.exit(main(['tokenizer', 'inspect', sys.argv[1]]))")
    assert "depth: discrete, vocabulary 6, 16 an item, levels" in said
    shown = python(LOAD)
    assert shown.split("'")[1::2] == ["their_codecs.Words", "their_codecs.Levels"]
    python(REUSE)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no codec 'patch'; did you mean 'patches'"):
        codec_class("patch")
    with pytest.raises(ValueError, match=f"no codec 'x'; choose from {', '.join(names())}, or"):
        options_of("x")


def test_a_name_is_taken_once() -> None:
    class Other(ToyCodec):
        codec = "vq"

    with pytest.raises(ValueError, match="there is a codec 'vq' already"):
        register(Other)
    register(ToyCodec)

    class Twin(ToyCodec):
        pass

    with pytest.raises(ValueError, match="there is a codec 'toy' already"):
        register(Twin)


def test_what_is_no_codec_is_refused() -> None:
    with pytest.raises(TypeError, match="is no codec; derive it from"):
        register(dict)  # type: ignore[type-var]

    class Nameless(Codec):
        pass

    with pytest.raises(TypeError, match="has no class attribute 'codec'; set it"):
        register(Nameless)


def test_a_codec_and_its_options_are_of_one_kind() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Vectors(CodecOptions):
        kind: ClassVar[str] = "continuous"

    class Ids(ToyCodec):
        codec = "ids"
        kind = "discrete"
        Options = Vectors

    with pytest.raises(TypeError, match="Ids is discrete, but its Options say continuous"):
        register(Ids)


def test_options_are_known_without_torch() -> None:
    code = (
        "import sys; from mixture_of_mamba.modalities.registry import names, options_of; "
        "[options_of(n)() for n in names()]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("bpe", {"vocabulary": 100}, "vocabulary is 100; it must be at least 270"),
        ("vq", {"size": 30}, "size is 30; it must be a multiple of 8 pixels"),
        ("vq", {"size": 0}, "size is 0; it must be at least 8"),
        ("vq", {"codes": 1}, "codes is 1; it must be at least 2"),
        ("vq", {"steps": 0}, "steps is 0; it must be at least 1"),
        ("patches", {"patch": 3}, "patch is 3; choose 2, 4 or 8 pixels"),
        ("patches", {"order": "snake"}, "order is 'snake'; choose from rows, z"),
        ("autoencoder", {"steps": 0}, "steps is 0; it must be at least 1"),
        ("units", {"units": 1}, "units is 1; it must be at least 2"),
    ],
)
def test_options_out_of_range_are_refused(name: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options_of(name)(**given)


def test_options_know_the_length_of_an_item() -> None:
    assert VQOptions(size=32).fixed_length == 64 == VQImageTokenizer.Options().fixed_length
    assert PatchOptions(size=32, patch=8).fixed_length == 16
    assert options_of("units")().fixed_length is None
