"""`mom generate` on a run folder: files in, files out, and one clear line where it cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mixture_of_mamba import Modality
from mixture_of_mamba.cli import generate
from mixture_of_mamba.cli.main import main
from mixture_of_mamba.cli.samples import show_samples
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.modalities.codec import Codec
from mixture_of_mamba.modalities.image.files import grid, read_image, write_image
from mixture_of_mamba.modalities.media import TEXT
from mixture_of_mamba.modalities.options import CodecOptions
from mixture_of_mamba.modalities.speech.files import read_sound, write_sound
from mixture_of_mamba.ops import decode_step, native
from mixture_of_mamba.training.folder import write_config
from mixture_of_mamba.training.loop import Evaluation
from tests.factories.data import tiny_config
from tests.factories.models import make_model
from tests.helpers.toy_codecs import toy_tokenizers


class Letters(Codec):
    """A second modality of texts: "0" and the characters behind it, one token each."""

    codec = "letters"
    media = TEXT
    Options = CodecOptions
    kind = "discrete"
    size = 49  # with the end

    def __init__(self) -> None:
        self.options = CodecOptions()

    def encode(self, prepared: Sequence[str]) -> list[np.ndarray]:
        return [np.array([ord(c) - ord("0") for c in text.strip()]) for text in prepared]

    def decode(self, tokens: Sequence[np.ndarray]) -> list[str]:
        return ["".join(chr(ord("0") + i) for i in ids) for ids in tokens]

    fit = save = load = None  # type: ignore[assignment]


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """What `mom generate` finds in any folder: 34 words, whose special tokens begin with 34, and
    notes."""
    tokenizers = toy_tokenizers(34, notes=Letters())
    model = make_model(*(Modality(*m) for m in tokenizers.modalities))
    generator = Generator(model, tokenizers)
    monkeypatch.setattr(Generator, "from_run", lambda *_, **__: generator)
    return generator


@pytest.fixture(scope="module")
def run_folder(
    learnt: tuple[Generator, list[Example]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder as training leaves it, with a picture and a sound beside it."""
    generator, (example, _) = learnt
    folder = tmp_path_factory.mktemp("run")
    write_config(folder, tiny_config())
    generator.model.save_pretrained(folder / "model")
    generator.tokenizers.save(folder / "tokenizers")
    write_image(folder / "scene.png", example.items["image"])
    write_sound(folder / "scene.wav", example.items["speech"])
    return folder


def test_text_to_picture(learnt, run_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    generator, (example, _) = learnt
    out = tmp_path / "new" / "three.png"
    base = ["generate", str(run_folder), "--text", example.caption, "--to", "image"]
    assert main([*base, "--out", str(out), "--temperature", "0"]) == 0
    (wanted,) = generator.to_image([example.caption], temperature=0)
    assert np.array_equal(read_image(out), wanted)
    assert main([*base, "--out", str(out), "--count", "3", "--seed", "5"]) == 0
    many = generator.to_image([example.caption] * 3, seed=5)
    assert np.array_equal(read_image(out), grid(many))


def test_text_to_speech(learnt, run_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    generator, (example, _) = learnt
    base = ["generate", str(run_folder), "--text", example.caption, "--to", "speech"]
    assert main([*base, "--out", str(tmp_path / "a.wav"), "--temperature", "0"]) == 0
    wave, rate = read_sound(tmp_path / "a.wav")
    ((wanted, wanted_rate),) = generator.to_speech([example.caption], temperature=0)
    assert rate == wanted_rate
    np.testing.assert_allclose(wave, np.clip(wanted, -1, 1), atol=1e-4)  # 16 bits
    assert main([*base, "--out", str(tmp_path / "a.wav"), "--count", "2"]) == 0
    assert (tmp_path / "a-0.wav").exists()
    assert (tmp_path / "a-1.wav").exists()


@pytest.mark.parametrize("prompt", [["--image", "scene.png"], ["--speech", "scene.wav"]])
@pytest.mark.parametrize("way", ["printed", "streamed", "written"])
def test_to_text(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prompt: list[str],
    way: str,
) -> None:
    flag, name = prompt
    _, (example, _) = learnt
    out = tmp_path / "caption.txt"
    how = {"printed": [], "streamed": ["--stream"], "written": ["--out", str(out)]}[way]
    arguments = ["generate", str(run_folder), flag, str(run_folder / name), "--to", "text"]
    assert main([*arguments, *how]) == 0
    text = out.read_text() if way == "written" else capsys.readouterr().out
    assert text.strip() == example.caption


def test_prompts_of_any_modality_by_name(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a flag of its own does, for a modality that has none."""
    _, (example, _) = learnt
    base = ["generate", str(run_folder), "--to"]
    assert main([*base, "text", "--item", f"image={run_folder / 'scene.png'}"]) == 0
    assert capsys.readouterr().out.strip() == example.caption
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for prompt, out in zip(
        (["--text", example.caption], ["--item", f"text={example.caption}"]), files, strict=True
    ):
        assert main([*base, "image", *prompt, "--out", str(out), "--temperature", "0"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    capsys.readouterr()
    for prompt, words in (
        ("image", "--item 'image' names no modality and file; give NAME=FILE"),
        ("smell=a", "this model has no modality 'smell'; it has text, image, speech"),
    ):
        assert main([*base, "text", "--item", prompt]) == 1
        assert words in capsys.readouterr().err


def test_another_modality_of_texts_is_read_from_files_and_streamed(
    noted: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("KLM\n")
    base = ["generate", "run", "--item", f"notes={tmp_path / 'a.txt'}", "--to", "notes"]
    prompt, drawn = [("notes", "KLM")], set()
    for seed in range(6):
        options = {"seed": seed, "temperature": 1.0}
        made = [token for _, token in noted.stream(prompt, to="notes", **options)]
        (wanted,) = noted.to("notes", [prompt], **options)
        assert len(wanted) == len(made) - (made[-1] == noted.tokenizers.end["notes"])
        drawn |= set(made)
        for how in ([], ["--stream"]):
            assert main([*base, "--temperature", "1", "--seed", str(seed), *how]) == 0
            assert capsys.readouterr().out == f"{wanted}\n"
    # of text these ids are special, here they are letters, but for the end
    assert drawn & noted.tokenizers.special and noted.tokenizers.end["notes"] in drawn


def test_samples_at_evaluations_are_of_the_documents_with_a_caption(
    learnt: tuple[Generator, list[Example]], capsys: pytest.CaptureFixture[str]
) -> None:
    generator, (example, other) = learnt
    shown: dict[str, str] = {}
    writer = SimpleNamespace(
        add_text=lambda tag, text, step: shown.update({tag: text}),
        add_image=lambda *_, **__: None,
        add_audio=lambda *_, **__: None,
    )
    bare = Example({"image": example.items["image"]})
    data = SimpleNamespace(
        tokenizers=generator.tokenizers, validation_examples=[bare, example, bare, other, example]
    )
    show_samples(2)(Evaluation(7, generator.model, data, writer))  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    captions = [example.caption, other.caption]
    assert shown == {f"{n}/{i}": captions[i] for n in ("image", "speech") for i in range(2)}


def test_formats_of_weights_are_those_of_the_decode_step() -> None:
    assert generate.FORMATS == decode_step.FORMATS


def test_without_a_target_the_document_goes_on(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, (example, _) = learnt
    base = ["generate", str(run_folder), "--image", str(run_folder / "scene.png")]
    assert main([*base, "--out", str(tmp_path / "all"), "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == example.caption
    base[2:] = ["--text", example.caption]
    assert main([*base, "--out", str(tmp_path / "all"), "--temperature", "0"]) == 0
    written = re.findall(r"\[(.*)\]", capsys.readouterr().out)
    assert written
    assert all(Path(file).is_file() for file in written)


def test_an_image_is_as_long_as_images_are(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator, (example, _) = learnt
    base = ["generate", str(run_folder), "--text", example.caption, "--to", "image"]
    out = tmp_path / "a.png"
    assert main([*base, "--temperature", "0", "--max_tokens", "5", "--out", str(out)]) == 0
    assert np.array_equal(read_image(out), *generator.to_image([example.caption], temperature=0))
    said = capsys.readouterr().err
    assert "without effect: --max_tokens (every image has 64 tokens)" in said


def test_documents_that_break_off_or_hold_nothing_are_named(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, (example, _) = learnt
    base = ["generate", str(run_folder), "--out", str(tmp_path / "all"), "--temperature", "0"]
    # behind a caption both an image and an utterance were learnt
    many = ["--count", "8", "--temperature", "1", "--text", example.caption]
    assert main([*base, *many, "--max_tokens", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    start = r"sample \d: the document was cut after 1 new tokens; its last "
    ends = {re.sub(start, "", line) for line in lines}
    assert ends == {
        "image holds 0 of its 64 tokens and is left out; give more --max_tokens",
        "speech holds nothing yet and is left out; give more --max_tokens",
    }
    assert main([*base, *many, "--max_tokens", "6"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert 0 < len(lines) < 8  # five units of speech can be heard
    assert all("image holds 5 of its 64 tokens and is left out" in line for line in lines)
    # behind the picture and its caption, the documents that were learnt end
    picture = ["--image", str(run_folder / "scene.png"), "--speech", str(run_folder / "scene.wav")]
    assert main([*base, "--text", example.caption, *picture]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "sample 0: the model ended the document at once, with nothing in it" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the prompt is empty; give --text, --image, --speech or --item"),
        (["--text", " ", "--to", "image"], "text of prompt 0 is empty"),
        (["--text", "x", "--to", "video"], "no modality 'video'; it has text, image, speech"),
        (
            ["--image", "nowhere.png", "--to", "text"],
            "nowhere.png cannot be read (there is no such",
        ),
        (
            ["--speech", "nowhere.wav", "--to", "text"],
            "nowhere.wav cannot be read (there is no such",
        ),
        (
            ["--image", "RUN/config.yaml", "--to", "text"],
            "config.yaml cannot be read (cannot identify",
        ),
        (
            ["--speech", "RUN/config.yaml", "--to", "text"],
            "config.yaml cannot be read (Error opening",
        ),
        (["--text", "x", "--to", "image", "--out", "a.txt"], "names no picture format"),
        (["--text", "x", "--to", "speech", "--out", "a.png"], "names no sound format"),
        (["--text", "x", "--to", "image", "--temperature", "-1"], "temperature is -1"),
        (["--text", "x", "--to", "image", "--count", "0"], "--count is 0"),
        (["--text", "x", "--to", "image", "--max_tokens", "0"], "--max_tokens is 0"),
        (["--text", "x", "--to", "image", "--guidance", "-1"], "guidance is -1"),
        (["--text", "x", "--to", "image", "--stream"], "--stream prints one sample of --to text"),
        (["--text", "x", "--to", "image", "--temprature", "1"], "no option --temprature"),
    ],
)
def test_errors_are_one_clear_line(
    run_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    arguments = [a.replace("RUN", str(run_folder)) for a in arguments]
    assert main(["generate", str(run_folder), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_several_captions_are_drawn_one_is_the_most_likely(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With what each option does, or a line where it does nothing."""
    generator, (example, _) = learnt
    base = ["generate", str(run_folder), "--image", str(run_folder / "scene.png"), "--to", "text"]
    assert main([*base, "--count", "3", "--seed", "5"]) == 0
    said = capsys.readouterr()
    drawn = generator.to_text(images=[example.items["image"]] * 3, seed=5, temperature=1.0)
    assert said.out.splitlines() == drawn and said.err == ""
    assert main([*base, "--top_k", "20"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == example.caption
    assert said.err == (
        "mom generate: without effect: --top_k (temperature is 0: the most likely token is taken; "
        "give --temperature 1)\n"
    )
    assert main([*base, "--top_k", "20", "--temperature", "1", "--seed", "3"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    (wanted,) = generator.to_text(
        images=[example.items["image"]], seed=3, temperature=1.0, top_k=20
    )
    assert said.out.strip() == wanted
    assert main([*base, "--count", "2", "--temperature", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [example.caption] * 2
    assert (
        "--count (temperature is 0: the most likely token is taken, the same in every" in said.err
    )


@pytest.mark.parametrize(
    ("to", "most"), [("text", 100), ("speech", 400), ("image", 64), (None, 400)]
)
def test_the_command_line_and_python_stop_at_the_same_token(
    learnt,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    run_folder: Path,
    tmp_path: Path,
    to: str | None,
    most: int,
) -> None:
    generator, (example, _) = learnt
    asked: list[int] = []

    def stop(*args: object, max_tokens: int, **kwargs: object) -> list[object]:
        asked.append(max_tokens)
        raise ValueError("far enough")

    monkeypatch.setattr("mixture_of_mamba.generation.generator.Decoding", stop)
    prompt = [("text", example.caption)]
    for call in (
        lambda: generator.complete([prompt], to=to),
        lambda: list(generator.stream(prompt, to=to)),
        *([lambda: generator.to_text(texts=["a"])] if to == "text" else []),
        *([lambda: generator.to_speech(["a"])] if to == "speech" else []),
        *([lambda: generator.to_image(["a"])] if to == "image" else []),
    ):
        with pytest.raises(ValueError, match="far enough"):
            call()
    target = ["--to", to] if to else []
    out = str(tmp_path / "a")
    assert main(["generate", str(run_folder), "--text", "a", *target, "--out", out]) == 1
    assert len(asked) >= 3 and set(asked) == {most}


def test_a_comparison_is_answered_with_the_names_of_its_runs(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dense-seed0", "mom-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text((run_folder / "config.yaml").read_text())
    (tmp_path / "plan.json").write_text("{}")
    assert main(["generate", str(tmp_path), "--text", "x", "--to", "image"]) == 1
    said = capsys.readouterr().err
    assert said.endswith(f"in it: {tmp_path / 'dense-seed0'}, {tmp_path / 'mom-seed0'}\n")
    assert said.count("\n") == 1
    assert main(["report", str(tmp_path / "mom-seed0")]) == 1
    assert f"give {tmp_path}, of which this is a run" in capsys.readouterr().err
    for i in range(10):
        (tmp_path / f"mom-seed{i}").mkdir(exist_ok=True)
        (tmp_path / f"mom-seed{i}" / "config.yaml").write_text("")
    assert main(["generate", str(tmp_path), "--text", "x", "--to", "image"]) == 1
    assert capsys.readouterr().err.endswith("mom-seed6 and 3 more\n")


def test_without_out_files_go_where_the_help_says(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, (example, _) = learnt
    monkeypatch.chdir(tmp_path)
    base = ["generate", str(run_folder), "--text", example.caption, "--temperature", "0"]
    for more in (["--to", "image"], ["--to", "speech"], []):
        assert main([*base, *more]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "generated.png", "generated.wav", "generated"}  # fmt: skip
    assert any((tmp_path / "generated").iterdir())
    capsys.readouterr()
    assert main(["generate", "--help"]) == 0
    help_ = " ".join(capsys.readouterr().out.split())
    for name in ("generated.png", "generated.wav", "the folder generated/"):
        assert name in help_


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path), "--text", "x", "--to", "image"]) == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_narrow_weights_give_the_caption_too(
    learnt,  # type: ignore[no-untyped-def]
    run_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = ["generate", str(run_folder), "--image", str(run_folder / "scene.png"), "--to", "text"]
    for form in ("bfloat16", "int8"):
        assert main([*base, "--weights", form]) == 0
        assert capsys.readouterr().out.strip() == learnt[1][0].caption
    assert main([*base, "--weights", "int3"]) == 1
    assert "int8" in capsys.readouterr().err
