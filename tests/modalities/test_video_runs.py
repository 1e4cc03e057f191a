"""Videos from a user's files to a trained model and back to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.modalities.video_files import VIDEO, read_clip
from tests.factories.clips import moving_square
from tests.factories.vq_networks import save_network

CONFIG: dict[str, Any] = {
    "modalities": {
        "text": {"codec": "bpe", "vocabulary": 300},
        "image": {"codec": "vq", "size": 8, "codes": 16, "steps": 3},
        "video": {
            "codec": "frames",
            "frames": 5,
            "image": {"codec": "vq", "size": 8, "codes": 16, "steps": 3},
        },
    },
    "data": {"window": 64, "validation_fraction": 0.2},
    "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
    "train": {
        "steps": 4,
        "batch_size": 2,
        "warmup": 1,
        "evaluate_every": 2,
        "log_every": 1,
        "samples": 1,
        "tensorboard": True,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model of text, images and videos, trained from a folder of files."""
    base = tmp_path_factory.mktemp("video")
    (base / "clips").mkdir()
    for i in range(16):
        suffix = (".gif", ".mp4", ".webm")[i % 3]
        clip = moving_square(3 + i % 4, size=(24, 16), rate=8.0 if i % 2 else 4.0, seed=i)
        VIDEO.write(base / "clips" / f"{i:02}{suffix}", clip)
        (base / "clips" / f"{i:02}.txt").write_text(f"square {i} goes to the right")
        VIDEO.write(base / "clips" / f"{i:02}.png", clip._replace(frames=clip.frames[:1]))
    data = {**CONFIG["data"], "source": str(base / "clips"), "cache": str(base / "cache")}
    (base / "video.yaml").write_text(yaml.safe_dump({**CONFIG, "data": data}, sort_keys=False))
    assert main(["train", "-c", str(base / "video.yaml"), "--out", str(base / "run")]) == 0
    return base / "run"


def test_files_become_a_trained_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {"text", "image", "video"}
    recorded = yaml.safe_load((run / "config.yaml").read_text())["modalities"]["video"]
    assert recorded["image"] == {"codec": "vq", "size": 8, "codes": 16, "steps": 3}
    assert main(["tokenizer", "inspect", str(run)]) == 0
    assert "video: discrete, vocabulary 18" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4", ".webm"])
def test_the_model_makes_files(run: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"made{suffix}"
    command = ["generate", str(run), "--text", "square 3", "--to", "video", "--out", str(out)]
    assert main(command) == 0
    made = read_clip(out)
    assert 1 <= len(made.frames) <= 5 and made.frames.shape[1:] == (8, 8, 3)


def test_a_file_is_a_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(run), "--to", "text", "--max_tokens", "8", "--item"]
    for file in ("00.gif", "01.mp4", "02.webm"):
        assert main([*command, f"video={run.parent / 'clips' / file}"]) == 0
    assert "longer" not in capsys.readouterr().err
    VIDEO.write(tmp_path / "long.mp4", moving_square(12))
    assert main([*command, f"video={tmp_path / 'long.mp4'}"]) == 0
    said = capsys.readouterr().err
    assert "long.mp4: longer than 5 frames at 4 a second: frames are taken evenly from" in said
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert main([*command, f"video={tmp_path / 'bad.mp4'}"]) == 1
    assert "bad.mp4 cannot be read (it is no video, or damaged)" in capsys.readouterr().err


def _documents(folder: Path, damaged: bool) -> Path:
    rows = []
    for i in range(12):
        VIDEO.write(folder / f"{i}.webp", moving_square(12 if i < 2 else 4, seed=i))
        rows.append([{"text": f"square {i}"}, {"video": f"{i}.webp"}])
    if damaged:
        (folder / "7.webp").write_bytes((folder / "7.webp").read_bytes()[:200])
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "documents.jsonl"


def _train(source: Path, out: Path, *more: str) -> int:
    plain = {
        **CONFIG,
        "modalities": {k: v for k, v in CONFIG["modalities"].items() if k != "image"},
    }
    plain["data"] = {**CONFIG["data"], "source": str(source), "cache": str(out / "cache")}
    (out / "video.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    flags = ["--modalities.video.image.codes", "12", "--train.samples", "0"]
    return main(["train", "-c", str(out / "video.yaml"), "--out", str(out / "run"), *flags, *more])


def test_long_clips_of_a_list_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(_documents(tmp_path, damaged=False), tmp_path) == 0
    said = capsys.readouterr().err
    assert "video longer than 5 frames at 4 a second: frames are taken evenly" in said
    assert f"2 of them, first: {tmp_path / 'documents.jsonl'}:1" in said
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["modalities"]["video"]
    assert recorded["image"] == {"codec": "vq", "size": 8, "codes": 12, "steps": 3}
    (bundle,) = [p.parent for p in (tmp_path / "cache").rglob("train.safetensors")]
    for example in DataBundle.load(bundle).validation_examples:
        clip = example.items["video"]
        assert clip.rate == 4.0 and clip.frames.shape[1:] == (8, 8, 3) and len(clip.frames) <= 5


def test_a_damaged_video_stops_the_preparation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _documents(tmp_path, damaged=True)
    assert _train(source, tmp_path) == 1
    said = capsys.readouterr().err
    assert f"{source}:8: video {tmp_path / '7.webp'} cannot be read" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert _train(source, tmp_path, "--data.skip_bad", "true") == 0
    assert "left out: 1 bad documents" in capsys.readouterr().err


def test_clips_that_do_not_fit_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _documents(tmp_path, damaged=False)
    assert _train(source, tmp_path, "--data.window", "28") == 1
    said = capsys.readouterr().err
    assert "window is 28, but an item of 'video' with its begin and end takes 29 positions" in said


@pytest.mark.parametrize("codec", ["janus", "chameleon"])
def test_frames_of_other_people_s_networks(
    codec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also moved: tokenizers are complete without the network's folder."""
    network = save_network(codec, tmp_path / "network")
    source = _documents(tmp_path, damaged=False)
    image = {"codec": codec, "size": 16}
    video = {"codec": "frames", "frames": 5, "image": image}
    plain = {
        **CONFIG,
        "modalities": {"text": {"codec": "bpe"}, "video": video},
        "data": {"window": 128, "source": str(source), "cache": str(tmp_path / "cache")},
    }
    (tmp_path / "video.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    command = ["train", "-c", str(tmp_path / "video.yaml"), "--out", str(tmp_path / "run")]
    given = ["--modalities.video.image.pretrained", str(tmp_path / "gone")]
    assert main([*command, *given]) == 1
    assert "modalities.video.image.pretrained" in capsys.readouterr().err
    given[1] = str(network)
    assert main([*command, *given]) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded["modalities"]["video"]["image"]["pretrained"] == str(network)
    network.rename(tmp_path / "elsewhere")
    again = [
        "--data.tokenizers",
        str(tmp_path / "run" / "tokenizers"),
        "--out",
        str(tmp_path / "b"),
    ]
    assert main([*command[:-2], *again]) == 0
    recorded = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    assert recorded["modalities"]["video"]["image"] == {**image, "pretrained": None}
    capsys.readouterr()
    out = tmp_path / "made.gif"
    made = ["generate", str(tmp_path / "b"), "--text", "square", "--to", "video", "--out", str(out)]
    if codec == "janus":
        assert main(made) == 0
        assert read_clip(out).frames.shape[1:] == (16, 16, 3)
    else:
        assert main(made) == 1
        said = capsys.readouterr().err
        assert "no video can be generated: its frames are of chameleon: " in said


def test_a_check_of_the_tokenizers(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    clip = str(run.parent / "clips" / "01.mp4")
    assert main(["tokenizer", "check", str(run), clip, "--out", str(page)]) == 0
    found = json.loads(page.with_suffix(".json").read_text())
    assert "PSNR" in json.dumps(found) and page.read_text().count("data:image/webp") == 2
