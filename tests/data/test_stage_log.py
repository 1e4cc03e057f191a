"""Preparation that takes long says that it goes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mixture_of_mamba.data import stage_log
from mixture_of_mamba.data.digits.voices import Speaking, choose_voice
from mixture_of_mamba.data.stage_log import StageLog


def test_a_line_comes_after_every_stretch_of_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(stage_log.time, "monotonic", lambda: now[0])
    say = StageLog()
    for second in range(36):
        now[0] = float(second)
        if second == 15:
            say.say("a stage")
        say.still(f"at {second}")
    lines = [line.split("s  ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["at 10", "a stage", "at 25", "at 35"]
    quiet = StageLog(enabled=False)
    now[0] += 100
    quiet.still("nothing")
    assert capsys.readouterr().err == ""


def test_waiting_for_speech_says_so() -> None:
    speaking = Speaking(["a red three"], [choose_voice(0, 0, 0)])
    lines: list[str] = []
    command = [sys.executable, "-c", "import sys, time; time.sleep(1.5); sys.exit('last words')"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as slow:
        assert speaking._wait(slow, lines.append).strip() == b"last words"
    assert "1 captions are being spoken" in lines
    speaking.stop()
