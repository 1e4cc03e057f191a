"""Codes of audio networks, every class of them tiny and with random weights: as transformers itself
encodes and decodes, the same after saving, and refused with a reason where it does not fit."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.modalities.registry import codec_class
from mixture_of_mamba.modalities.speech import codebooks
from mixture_of_mamba.modalities.speech.resampling import resample
from tests.helpers.audio_networks import CODECS, NEED_TORCHAUDIO, save_network

NETWORKS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in NEED_TORCHAUDIO and importlib.util.find_spec("torchaudio") is None,
            reason="transformers runs this class with torchaudio only",
        ),
    )
    for name in CODECS
]
RATE = 22_050


def speech(samples: int, seed: int = 0) -> np.ndarray:
    """A gliding tone in rising noise, so that frames differ."""
    t = np.arange(samples) / RATE
    noise = np.random.default_rng(seed).standard_normal(samples) * (t % 0.5)
    return (0.3 * np.sin(2 * np.pi * t * (200 + 900 * t)) + 0.3 * noise).astype(np.float32)


ITEMS = [(speech(n, n), RATE) for n in (3_000, 24_000, 3_000, 24_100)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tmp_path_factory.mktemp("networks")
    return cache(lambda name: save_network(name, base / name))


@pytest.fixture(scope="module")
def fitted(folders: Any) -> Any:
    @cache
    def fit(name: str) -> Any:
        codec, books = CODECS[name]
        options = codec_class(codec).Options(pretrained=str(folders(name)), codebooks=books)
        options.check_files()
        return codec_class(codec).fit([], options, seed=0, report=lambda line: None)

    return fit


def prepared(codec: Any) -> list[np.ndarray]:
    return [codec.prepare(item, codec.options) for item in ITEMS]


@pytest.mark.parametrize("name", NETWORKS)
def test_ids_are_whole_frames_and_equal_one_at_a_time(name: str, fitted: Any) -> None:
    codec, books = fitted(name), CODECS[name][1]
    ids = codec.encode(prepared(codec))
    for item, found in zip(prepared(codec), ids, strict=True):
        assert found.dtype == np.int64 and len(found) % books == 0
        np.testing.assert_array_equal(codec.encode([item])[0], found)
        for book, (low, high) in enumerate(codec.cycle or [(0, codec.size - 1)]):
            assert low <= found[book::books].min() and found[book::books].max() < high
    assert len(set(ids[1].tolist())) > 4 * books, "the codes are used"
    assert codec.size == codec.facts.codes * books + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_sound_comes_back_as_long_as_it_was(name: str, fitted: Any) -> None:
    codec = fitted(name)
    for (wave, rate), (back, its) in zip(
        ITEMS, codec.decode(codec.encode(prepared(codec))), strict=True
    ):
        assert back.dtype == np.float32 and back.ndim == 1 and np.isfinite(back).all()
        assert -0.01 < len(back) / its - len(wave) / rate < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_codec_is_complete_and_gives_the_same(
    name: str, fitted: Any, tmp_path: Path
) -> None:
    codec = fitted(name)
    codec.save(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    loaded = type(codec).load(tmp_path / "moved")
    assert (loaded.options, loaded.size, loaded.cycle) == (codec.options, codec.size, codec.cycle)
    assert loaded.options.pretrained is None and loaded.options.sampling_rate
    np.testing.assert_array_equal(prepared(loaded)[1], prepared(codec)[1])
    ids = codec.encode(prepared(codec)[1:2])
    np.testing.assert_array_equal(loaded.encode(prepared(codec)[1:2])[0], ids[0])
    np.testing.assert_array_equal(loaded.decode(ids)[0][0], codec.decode(ids)[0][0])


def reference(name: str, folder: Path, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (codebooks, frames) and sound of the library's own classes, called as their pages say;
    of as much as has whole frames, at their own rate."""
    written = json.loads((folder / "config.json").read_text())["architectures"][0]
    network = getattr(transformers, written).from_pretrained(folder).eval()
    x, books = torch.from_numpy(wave)[None, None], CODECS[name][1]
    with torch.inference_mode():
        if name == "mimi":
            codes = network.encode(x, num_quantizers=books).audio_codes
            sound = network.decode(codes).audio_values
        elif name == "encodec":
            found = network.encode(x, bandwidth=1.5)
            codes = found.audio_codes[0][:, :books]
            sound = network.decode(codes[None], found.audio_scales).audio_values
        elif name == "dac":
            codes = network.encode(x, n_quantizers=books).audio_codes
            sound = network.decode(audio_codes=codes).audio_values
        elif name == "higgs":
            codes = network.encode(x, bandwidth=0.5).audio_codes[:, :books]
            sound = network.decode(codes).audio_values
        elif name == "wavtokenizer":
            codes = network.encode(x).audio_codes
            sound = network.decode(codes).audio_values
        else:
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
            heard = extractor(wave, sampling_rate=16_000, return_tensors="pt")
            codes = network.encode(**heard).audio_codes[..., : len(wave) // 320]
            sound = network.decode(codes).audio_values
    return codes[0].numpy(), sound.flatten().numpy()


@pytest.mark.parametrize("name", [n for n in NETWORKS if "48" not in str(n.values[0])])
def test_codes_and_sound_are_those_of_the_class_itself(
    name: str, fitted: Any, folders: Any
) -> None:
    codec, books = fitted(name), CODECS[name][1]
    facts = codec.facts
    whole = 12 * facts.frame
    samples = codec.prepare((speech(RATE * 2), RATE), codec.options)[:whole]
    ids = codec.encode([samples])[0]
    codes, sound = reference(name, folders(name), samples.astype(np.float32) / 32767)
    wanted = codes + facts.codes * np.arange(books)[:, None]
    np.testing.assert_array_equal(ids.reshape(-1, books).T, wanted)
    np.testing.assert_allclose(codec.decode([ids])[0][0], sound, rtol=1e-5, atol=1e-6)


def test_chunks_of_encodec_are_those_of_its_own_feature_extractor(
    fitted: Any, folders: Any
) -> None:
    """At 48 kHz: two channels, chunks that overlap, each divided by its loudness."""
    codec, folder = fitted("encodec 48 kHz"), folders("encodec 48 kHz")
    network = transformers.EncodecModel.from_pretrained(folder).eval()
    length = 2 * 47_520 + 48_000  # three whole chunks
    samples = codec.prepare((speech(RATE * 3), RATE), codec.options)[:length]
    x = torch.from_numpy(samples.astype(np.float32) / 32767).expand(1, 2, -1)
    with torch.inference_mode():
        found = network.encode(x, bandwidth=3.0)
        codes = found.audio_codes[:3, 0, :3]
        louder = [scale / scale * 0.1 for scale in found.audio_scales[:3]]
        sound = network.decode(codes[:, None], louder).audio_values[0].mean(0)
    ids = codec.encode([samples])[0]
    assert len(ids) == 3 * 150 * 3
    wanted = codes.transpose(1, 2).reshape(-1, 3).numpy() + 32 * np.arange(3)
    np.testing.assert_array_equal(ids.reshape(-1, 3), wanted)
    np.testing.assert_allclose(codec.decode([ids])[0][0], sound.numpy(), rtol=1e-5, atol=1e-6)
    # generation may end anywhere; a frame that lies in the overlap adds nothing
    for many, samples in ((1, 320), (149, 47_680), (151, 48_000), (299, 47_520 + 47_680)):
        assert len(codec.decode([ids[: 3 * many]])[0][0]) == samples


@pytest.mark.parametrize("seconds", [0.001, 0.985, 0.991, 0.999, 1.0, 1.001, 1.98, 1.995])
def test_chunks_of_every_length_have_the_frames_that_are_counted(
    fitted: Any, seconds: float
) -> None:
    codec = fitted("encodec 48 kHz")
    samples = codec.prepare((speech(int(RATE * seconds) + 1), RATE), codec.options)
    (ids,) = codec.encode([samples])
    facts = codec.facts
    assert len(ids) == 3 * facts.frames(facts.padded(len(samples)))
    assert len(codec.decode([ids])[0][0]) >= len(samples)


@pytest.mark.parametrize("name", ["mimi", "encodec 48 kHz"])
def test_long_sounds_go_through_in_pieces(
    name: str, fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = fitted(name)
    samples = codec.prepare((speech(RATE * 3), RATE), codec.options)
    whole = codec.encode([samples])[0]
    back = codec.decode([whole])[0][0]
    monkeypatch.setattr(codebooks, "SECONDS", 1)
    found = codec.encode([samples])[0]
    assert len(found) == len(whole) and len(codec.decode([found])[0][0]) == len(back)
    if codec.facts.chunk is not None:  # which hears a second at a time anyway
        np.testing.assert_array_equal(found, whole)
        return
    step = 12 * codec.facts.frame
    pieces = codec.encode([samples[at : at + step] for at in range(0, len(samples), step)])
    np.testing.assert_array_equal(found, np.concatenate(pieces))


def test_ids_that_no_network_gives_are_refused(fitted: Any) -> None:
    codec = fitted("mimi")  # three codebooks of 32
    for ids, message in (
        ([0, 32], r"\(2,\) ids are no whole frames of 3"),
        ([0, 31, 64], "place 1 is 31, but codebook 1, whose place it is, has 32..63"),
        ([0, 32, 96], "place 2 is 96, but codebook 2, whose place it is, has 64..95"),
        ([0, 32, 64, -1, 32, 64], "place 3 is -1, but codebook 0, whose place it is, has 0..31"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.decode([np.array(ids)])
    assert len(codec.decode([np.zeros(0, np.int64)])[0][0]) == 0


def test_sound_of_another_rate_is_resampled_once(fitted: Any) -> None:
    codec = fitted("mimi")
    wave = speech(16_000)
    kept = codec.prepare((wave, 16_000), codec.options)
    assert kept.dtype == np.int16
    wanted = np.clip(resample(wave, 16_000, 24_000), -1, 1)
    np.testing.assert_allclose(kept / 32767, wanted, atol=0.51 / 32767)


def test_sound_files_are_read_at_their_own_rate(fitted: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(4_800), 48_000)
    wave, rate = fitted("mimi").media.read(tmp_path / "a.wav")
    assert (len(wave), rate) == (4_800, 48_000)


def configured(tmp_path: Path, folder: Path | None, codec: str = "mimi", **options: Any) -> Path:
    """A config of text and speech, with eight spoken documents."""
    source = tmp_path / "source"
    source.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        soundfile.write(source / f"{i}.wav", speech(9_000 + 500 * i, i), RATE)
        (source / f"{i}.txt").write_text(f"somebody says the number {i}, and then another")
    chosen = {"codec": codec, **options}
    if folder is not None:
        chosen["pretrained"] = str(folder)
    config = {
        "modalities": {"text": {"codec": "bpe", "vocabulary": 300}, "speech": chosen},
        "data": {"source": str(source), "cache": str(tmp_path / "cache"), "window": 256},
        "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
        "train": {"steps": 2, "batch_size": 2, "warmup": 1, "evaluate_every": 2, "log_every": 1},
    }
    if folder is None:  # tokenizers are used again, that of text too
        config["modalities"]["text"] = {"codec": "bpe"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_on_files_and_back_to_a_file(name: str, folders: Any, tmp_path: Path) -> None:
    codec, books = CODECS[name]
    config = configured(tmp_path, folders(name), codec, codebooks=books)
    run, out = tmp_path / "run", tmp_path / "x.wav"
    assert main(["train", "-c", str(config), "--out", str(run)]) == 0
    recorded = yaml.safe_load((run / "config.yaml").read_text())["modalities"]["speech"]
    assert recorded["codec"] == codec and recorded["codebooks"] == books
    command = ["generate", str(run), "--text", "somebody", "--to", "speech"]
    command += [
        "--speech",
        str(tmp_path / "source" / "1.wav"),
        "--max_tokens",
        "40",
        "--temperature",
        "1.5",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    wave, _ = soundfile.read(out)
    assert len(wave) and np.isfinite(wave).all()


def test_trained_on_spoken_scenes(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded source keeps the waveforms for codecs that are not its own."""
    config = yaml.safe_load(configured(tmp_path, folders("mimi"), codebooks=2).read_text())
    digits = {"scenes": 20, "text_fraction": 0.0}
    config["data"] = {"digits": digits, "cache": str(tmp_path / "cache"), "window": 512}
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run, out = tmp_path / "run", tmp_path / "x.wav"
    assert main(["train", "-c", str(tmp_path / "digits.yaml"), "--out", str(run)]) == 0
    said = capsys.readouterr().err
    command = ["generate", str(run), "--text", "a red three", "--to", "speech", "--out", str(out)]
    assert main([*command, "--max_tokens", "30"]) == 0
    assert soundfile.info(out).samplerate == 24_000
    (tokens,) = re.findall(r"training windows \(.*speech ([\d,]+)\)", said)
    assert int(tokens.replace(",", "")) > 19 * 25, "scenes last a second and more"


def test_a_mimi_without_its_decoder_can_be_trained_on_but_does_not_speak(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = transformers.MimiModel.from_pretrained(folders("mimi"))
    config = transformers.MimiConfig(**{**whole.config.to_dict(), "decoder_config": None})
    half = transformers.MimiModel(config)
    half.load_state_dict(whole.state_dict(), strict=False)
    half.save_pretrained(tmp_path / "half")
    config = configured(tmp_path, tmp_path / "half", codebooks=2)
    assert main(["train", "-c", str(config), "--out", str(tmp_path / "run")]) == 0
    command = ["generate", str(tmp_path / "run"), "--text", "a", "--to", "speech"]
    assert main([*command, "--out", str(tmp_path / "x.wav")]) == 1
    said = capsys.readouterr().err
    assert "no speech can be generated: this MimiModel was saved without its decoder" in said


def test_tokenizers_of_a_run_are_used_again_without_the_network(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path / "a", folders("mimi"), codebooks=2)
    out = tmp_path / "tokenizers"
    assert main(["tokenizer", "train", "-c", str(config), "--out", str(out)]) == 0
    assert "speech: discrete, vocabulary 65, mimi" in capsys.readouterr().out
    other = configured(tmp_path / "b", None)
    command = ["train", "-c", str(other), "--data.tokenizers", str(out)]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--modalities.speech.codebooks", "3"]) == 1
    assert "modalities.speech.codebooks is 3, but the tokenizers" in capsys.readouterr().err
    assert main(command) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["modalities"]
    assert recorded["speech"]["codebooks"] == 2 and recorded["speech"]["pretrained"] is None


def damaged(folder: Path, base: Path, damage: str) -> Path:
    """A copy of a network's folder with something wrong."""
    made = base / damage
    shutil.copytree(folder, made)
    weights = made / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "incomplete":
        tensors = load_file(weights)
        tensors.pop(next(name for name in tensors if name.startswith("encoder")))
        save_file(tensors, weights, {"format": "pt"})
    elif damage == "without weights":
        weights.unlink()
    elif damage == "without config":
        (made / "config.json").unlink()
    else:
        config = json.loads((made / "config.json").read_text())
        changes = {
            "code": {"auto_map": {"AutoModel": "a.B"}, "model_type": "own"},
            "list": {"model_type": ["a"]},
        }
        (made / "config.json").write_text(json.dumps({**config, **changes[damage]}))
    return made


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "the MimiModel in .*truncated cannot be loaded .*incomplete"),
        ("incomplete", "the MimiModel in .*incomplete cannot be loaded .*lack 1 tensors"),
        ("without weights", "the MimiModel in .*without weights cannot be loaded .*no file named"),
        ("without config", "config.json is missing"),
        ("list", r"config\.json: model_type is \['a'\], which is no string; save the network"),
        ("code", "needs code of its own folder .auto_map., which is never run"),
    ],
)
def test_damaged_networks_are_refused_before_anything_is_trained(
    damage: str, message: str, folders: Any, tmp_path: Path
) -> None:
    folder = damaged(folders("mimi"), tmp_path, damage)
    options = codec_class("mimi").Options(pretrained=str(folder))
    with pytest.raises((ValueError, FileNotFoundError), match=f"^pretrained: .*{message}"):
        options.check_files()


@pytest.mark.parametrize("wrong", [{"codes": 1}, {"frame": 960}])
def test_a_network_that_is_not_as_its_config_says_is_refused(
    wrong: dict[str, int], fitted: Any, folders: Any
) -> None:
    codec = fitted("mimi")
    network = type(codec._network)(codec._network.network, replace(codec.facts, **wrong), 3)
    with pytest.raises(
        ValueError, match=r"mimi cannot be loaded .* samples became \(3, \d\) codes"
    ):
        network.try_out(folders("mimi"))
    codec._network.try_out(folders("mimi"))


@pytest.mark.parametrize("name", ["mimi", "encodec"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_codebooks_that_are_no_numbers_are_refused(
    name: str, number: float, folders: Any, tmp_path: Path
) -> None:
    """They are buffers. NaN is nearest to nothing, and what is chosen then looks like a code."""
    folder = tmp_path / "network"
    shutil.copytree(folders(name), folder)
    tensors = load_file(folder / "model.safetensors")
    book = next(part for part in tensors if part.endswith((".embed", "embed_sum")))
    tensors[book] = torch.full_like(tensors[book], number)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"its weights {re.escape(book)} hold NaN or infinite"):
        codec_class(CODECS[name][0]).Options(pretrained=str(folder)).check_files()


def test_a_network_whose_sound_is_no_number_is_refused(
    fitted: Any, folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose weights are finite, and run over in its decoder."""
    network = fitted("mimi")._network
    monkeypatch.setattr(network, "decode", lambda codes: torch.full((1, 9), torch.nan))
    with pytest.raises(ValueError, match=r"mimi cannot be loaded .*of silence is NaN or infinite"):
        network.try_out(folders("mimi"))


def test_what_does_not_fit_is_refused_before_anything_is_read(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mimi, dac = folders("mimi"), folders("dac")
    for codec, folder, options, message in (
        ("mimi", mimi, {"codebooks": 5}, "codebooks is 5, but the MimiModel has 4; choose 1 to 4"),
        ("mimi", mimi, {"codebooks": 0}, "codebooks is 0; it must be at least 1"),
        ("mimi", mimi, {"sampling_rate": 16_000}, "MimiModel hears 24000 samples a second"),
        ("mimi", dac, {}, "holds a DacModel, but this codec is for MimiModel; choose the codec"),
        ("audio", mimi, {}, "choose the codec mimi; or give another folder"),
        ("audio", folders("pocket tts"), {}, "this one makes vectors, which have no codebook"),
        ("encodec", tmp_path / "nowhere", {}, "nowhere does not exist; give the folder"),
        ("mimi", None, {}, "modalities.speech.pretrained is missing"),
    ):
        config = configured(tmp_path, folder, codec, **options)
        assert main(["train", "-c", str(config), "--out", str(tmp_path / "run")]) == 1
        said = capsys.readouterr().err
        assert message in said and "modalities.speech." in said
        assert "preparing" not in said, "found before any data were touched"


def test_a_class_that_needs_features_asks_for_its_feature_extractor(tmp_path: Path) -> None:
    transformers.Xcodec2Config().save_pretrained(tmp_path / "x")
    options = codec_class("audio").Options(pretrained=str(tmp_path / "x"))
    with pytest.raises(FileNotFoundError, match="features of its own Xcodec2FeatureExtractor"):
        options.check_files()


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is not None, reason="it is installed")
def test_a_class_that_needs_torchaudio_says_so(tmp_path: Path) -> None:
    transformers.HiggsAudioV2TokenizerConfig().save_pretrained(tmp_path / "x")
    options = codec_class("audio").Options(pretrained=str(tmp_path / "x"))
    with pytest.raises(ImportError, match="HiggsAudioV2TokenizerModel requires the torchaudio"):
        options.check_files()
