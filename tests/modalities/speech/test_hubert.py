"""Units of a HuBERT: the hidden states of the class itself, clusters fitted to the training speech,
and sounds of the frames where a unit occurred."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.modalities.speech import hubert
from mixture_of_mamba.modalities.speech.hubert import HubertCodec, HubertOptions
from mixture_of_mamba.modalities.speech.mel import MELS, log_mel
from tests.helpers.audio_networks import save_network
from tests.modalities.speech.test_codebooks import RATE, configured, speech

ITEMS = [(speech(n, n), RATE) for n in (300, 12_000, 9_000, 12_000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_network("hubert", tmp_path_factory.mktemp("hubert") / "network")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(made)
    return made


def fit(folder: Path, **options: Any) -> HubertCodec:
    chosen = HubertOptions(pretrained=str(folder), **{"units": 12, **options})
    chosen.check_files()
    items = [HubertCodec.prepare(item, chosen) for item in ITEMS]
    return HubertCodec.fit(items, chosen, seed=0, report=lambda line: None)


@pytest.fixture(scope="module")
def codec(folder: Path) -> HubertCodec:
    return fit(folder, layer=1)


def prepared(codec: HubertCodec) -> list[np.ndarray]:
    return [codec.prepare(item, codec.options) for item in ITEMS]


def test_units_are_equal_one_at_a_time_and_25_a_second(codec: HubertCodec) -> None:
    ids = codec.encode(prepared(codec))
    for samples, found in zip(prepared(codec), ids, strict=True):
        assert found.dtype == np.int64 and len(found) == -(-len(samples) // 640)
        np.testing.assert_array_equal(codec.encode([samples])[0], found)
    assert len(set(np.concatenate(ids).tolist())) > 6 and codec.size == 13


def test_states_are_those_of_the_class_and_its_feature_extractor(
    codec: HubertCodec, folder: Path
) -> None:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    network = transformers.HubertModel.from_pretrained(folder).eval()
    samples = prepared(codec)[1][: 10 * 320]
    heard = extractor(samples / np.float32(32767), sampling_rate=16_000, return_tensors="pt")
    values = torch.nn.functional.pad(heard["input_values"], (0, 80))  # the last frame hears 400
    with torch.inference_mode():
        states = network(values, output_hidden_states=True).hidden_states[1][0].numpy()
    assert states.shape == (10, 16)
    wanted = states.reshape(5, 2, 16).mean(1)
    np.testing.assert_allclose(codec._states(samples), wanted, rtol=1e-4, atol=1e-5)
    distances = ((wanted[:, None] - codec.centres) ** 2).sum(-1)
    np.testing.assert_array_equal(codec.encode([samples])[0], distances.argmin(1))


def test_long_sounds_go_through_in_pieces(
    codec: HubertCodec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = prepared(codec)[1][: 21 * 320]
    monkeypatch.setattr(hubert, "PIECE", 8)
    wave = samples / np.float32(32767)
    wave = np.append((wave - wave.mean()) / wave.std(), np.zeros(80)).astype(np.float32)
    network = transformers.HubertModel.from_pretrained(folder).eval()
    states = []
    with torch.inference_mode():
        for first, last in ((0, 8), (8, 16), (16, 21)):  # a frame hears 80 samples of the next
            heard = torch.from_numpy(wave[320 * first : 320 * last + 80])[None]
            states.append(network(heard, output_hidden_states=True).hidden_states[1][0].numpy())
    wanted = np.concatenate(states)
    averages = [wanted[at : at + 2].mean(0) for at in range(0, 21, 2)]
    np.testing.assert_allclose(codec._states(samples), averages, rtol=1e-3, atol=1e-4)


def test_without_do_normalize_loudness_counts(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "loud")
    file = tmp_path / "loud" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_normalize": False}))
    samples = np.asarray(speech(9_000) * 8_000, np.int16)
    loud, even = fit(tmp_path / "loud"), fit(folder)
    np.testing.assert_allclose(even._states(samples), even._states(samples * 2), atol=1e-3)
    assert np.abs(loud._states(samples) - loud._states(samples * 2)).max() > 1e-2


def test_a_unit_sounds_like_the_places_where_it_was(codec: HubertCodec) -> None:
    items, ids = prepared(codec), codec.encode(prepared(codec))
    unit = int(np.bincount(np.concatenate(ids)).argmax())
    frames = []
    for (wave, _), units, samples in zip(ITEMS, ids, items, strict=True):
        mel = log_mel(wave)
        whole = np.flatnonzero(units == unit)
        frames += [mel[2 * at : 2 * at + 2] for at in whole if 2 * at + 2 <= len(samples) // 320]
    wanted = np.mean(frames, 0)
    # once more through 16 kHz and 16 bits, and with the last, broken frames
    assert np.abs(codec.mels[unit].reshape(2, MELS) - wanted).mean() < 0.3
    (wave, rate), *_ = codec.decode(ids[1:])
    assert rate == RATE and abs(len(wave) / rate - len(ITEMS[1][0]) / RATE) < 0.05
    assert 0.5 < np.abs(wave).max() <= 1
    with pytest.raises(ValueError, match=r"speech units lie in 0\.\.11, but 0\.\.12 were given"):
        codec.decode([np.array([0, 12])])


def test_units_that_occur_nowhere_borrow_their_sound(folder: Path) -> None:
    codec = fit(folder, units=30, stride=1)
    assert np.isfinite(codec.mels).all() and codec.mels.shape == (30, MELS)
    assert not np.any(np.all(codec.mels == 0, axis=1))


def test_a_saved_codec_is_complete_and_gives_the_same(codec: HubertCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    loaded = HubertCodec.load(tmp_path / "moved")
    assert loaded.options == codec.options and loaded.options.pretrained is None
    ids = codec.encode(prepared(codec))
    for found, wanted in zip(loaded.encode(prepared(loaded)), ids, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(loaded.decode(ids)[1][0], codec.decode(ids)[1][0])


def test_equal_speech_gives_equal_units(codec: HubertCodec, folder: Path) -> None:
    again = fit(folder, layer=1)
    np.testing.assert_array_equal(again.centres, codec.centres)
    np.testing.assert_array_equal(again.mels, codec.mels)


def test_trained_on_files_kept_and_back_to_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path, folder, "hubert", units=10, layer=1)
    run, out = tmp_path / "run", tmp_path / "x.wav"
    assert main(["train", "-c", str(config), "--out", str(run)]) == 0
    assert "HuBERT units: 10 clusters" in capsys.readouterr().err
    recorded = yaml.safe_load((run / "config.yaml").read_text())["modalities"]["speech"]
    assert (recorded["units"], recorded["layer"], recorded["stride"]) == (10, 1, 2)
    command = ["generate", str(run), "--speech", str(tmp_path / "source" / "1.wav"), "--to"]
    assert main([*command, "speech", "--max_tokens", "20", "--out", str(out)]) == 0
    assert len(soundfile.read(out)[0])
    # another window: the data are made anew, the fit is not
    more = ["--data.window", "128", "--out", str(tmp_path / "other")]
    assert main(["train", "-c", str(config), *more]) == 0
    assert "HuBERT units" not in capsys.readouterr().err
    made = [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert sorted(made) == ["data", "data", "hubert"]


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"layer": 3}, {}, "^layer is 3, but the HubertModel has 2 layers; choose 0 to 2"),
        ({}, {"model_type": "wav2vec2"}, "^pretrained: .* this codec is for HubertModel"),
        ({}, {"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "^pretrained: .*160 samples apart, 320"),
        ({}, {"num_hidden_layers": 3}, "^pretrained: .*HubertModel .*lack 16 tensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    made = tmp_path / "network"
    shutil.copytree(folder, made)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        HubertOptions(pretrained=str(made), **options).check_files()


def test_another_sampling_rate_is_refused(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "network"
    shutil.copytree(folder, made)
    (made / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(ValueError, match="for 8000 samples a second; a HuBERT hears 16000"):
        HubertOptions(pretrained=str(made)).check_files()


def test_too_little_speech_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"lasts 1\.\d s, too little for 200 units; give more"):
        fit(folder, units=200)
