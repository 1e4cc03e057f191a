"""Speaks captions with espeak-ng, loaded through the `espeakng-loader` wheel and ctypes.

espeak-ng keeps hidden state between utterances: the same sentence gives other samples after other
sentences. Speaking therefore happens in fresh processes, in a fixed order, in a fixed number of
shares, whatever the machine: `python -m mixture_of_mamba.data.digits.voices JOB RESULT`.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import needs
from ...modalities.speech.mel import SAMPLE_RATE, log_mel
from ...processes import adopting, end_with_parent

__all__ = ["Speaking", "Spoken", "Voice", "choose_voice"]

SHARES = 2
VOICES = ("en-us", "en-us+f1", "en-us+f4", "en-us+m3", "en-gb-x-rp", "en-gb-scotland+m7")
"""None with breath in it (+f2, +f3, +f5 ...): its noise differs from process to process."""
SPEEDS = (220, 250, 280)
"""Words a minute: brisk, so that a caption stays short in units."""

_PCM, _RATE, _PITCH, _UTF8 = 2, 1, 3, 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """A name from VOICES, words a minute, pitch 0..100."""

    name: str
    speed: int
    pitch: int


@dataclass(frozen=True)
class Spoken:
    """Utterances in the order of their captions.

    Attributes:
        items: of each its log-mel frames, (frames, MELS) float16, or what `prepare` made of it.
        waveforms: of the first `keep` utterances their samples, int16 at SAMPLE_RATE.
    """

    items: list[Any]
    waveforms: list[np.ndarray]


def choose_voice(seed: int, split: int, index: int) -> Voice:
    """The voice of one caption, drawn from its own seed."""
    rng = np.random.default_rng([seed, 5, split, index])
    return Voice(
        VOICES[rng.integers(len(VOICES))],
        SPEEDS[rng.integers(len(SPEEDS))],
        int(rng.integers(35, 66)),
    )


class Speaking:
    """Captions being spoken by SHARES processes in the background; `result()` waits for them.

    Args:
        captions, voices: of every utterance.
        keep: of how many, from the first on, the samples are kept.
        prepare: what is made of every utterance's samples here; None: the processes make log-mel
            frames of them.
    """

    def __init__(
        self,
        captions: Sequence[str],
        voices: Sequence[Voice],
        keep: int = 0,
        prepare: Callable[[np.ndarray], Any] | None = None,
    ) -> None:
        with needs("speech of the embedded scenes", "speech"):
            import espeakng_loader  # noqa: F401  the processes need it: say so before they start
        self._folder = tempfile.TemporaryDirectory(prefix="mom-speech-")
        self._count, self._keep, self._prepare = len(captions), keep, prepare
        self._shares = min(SHARES, len(captions))
        self._processes: list[subprocess.Popen[bytes]] = []
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with adopting():
            environment = {**os.environ, **one_thread, "PYTHONPATH": path}
        try:
            self._start(captions, voices, environment)
        except BaseException:
            self.stop()
            raise

    def _start(
        self, captions: Sequence[str], voices: Sequence[Voice], environment: dict[str, str]
    ) -> None:
        for share in range(self._shares):
            job = [
                [text, voice.name, voice.speed, voice.pitch]
                for text, voice in zip(captions, voices, strict=True)
            ][share :: self._shares]
            count = len(range(share, min(self._keep, len(captions)), self._shares))
            frames = self._prepare is None
            job_file = self._path(share, "json")
            job_file.write_text(
                json.dumps({"say": job, "frames": frames, "waves": count if frames else len(job)})
            )
            command = [sys.executable, "-m", __name__, str(job_file), str(self._path(share, "npz"))]
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
                )
            )

    def _path(self, share: int, suffix: str) -> Path:
        return Path(self._folder.name) / f"share{share}.{suffix}"

    def result(self, report: Callable[[str], None] | None = None) -> Spoken:
        """Waits, and puts the shares together again.

        Args:
            report: called every second with a line of progress.

        Raises:
            RuntimeError: a speaking process failed; its last words are quoted.
        """
        items: list[Any] = [None] * self._count
        waveforms: list[np.ndarray] = [np.empty(0)] * min(self._keep, self._count)
        try:
            for share, process in enumerate(self._processes):
                words = self._wait(process, report)
                if process.returncode:
                    tail = words.decode(errors="replace").strip()[-800:]
                    raise RuntimeError(f"speaking the captions failed: {tail}")
                with np.load(self._path(share, "npz"), allow_pickle=False) as part:
                    waves = _pieces(part, "waves")
                    made = (
                        _pieces(part, "frames")
                        if self._prepare is None
                        else map(self._prepare, waves)
                    )
                    mine = slice(share, None, self._shares)
                    items[mine] = list(made)
                    # copies: the share's samples, of which they are parts, may be gigabytes
                    waveforms[mine] = [w.copy() for w in waves[: len(waveforms[mine])]]
                del waves, made
        finally:
            self.stop()
        return Spoken(items, waveforms)

    def _wait(
        self, process: subprocess.Popen[bytes], report: Callable[[str], None] | None
    ) -> bytes:
        """What a process wrote to standard error until its end."""
        while True:
            try:
                return process.communicate(timeout=1)[1]
            except subprocess.TimeoutExpired:
                if report is not None:
                    report(f"{self._count:,} captions are being spoken")

    def stop(self) -> None:
        """Ends what still runs and removes the temporary files."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stderr:
                process.stderr.close()
        self._folder.cleanup()


class _Espeak:
    """One espeak-ng engine; there can be only one in a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self._library.espeak_Initialize(_PCM, 0, data, 0)
        if rate != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng answered rate {rate}; {SAMPLE_RATE} was expected")
        self._pieces: list[np.ndarray] = []
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """(samples,) int16."""
        if voice.name != self._voice:
            if self._library.espeak_SetVoiceByName(voice.name.encode()):
                raise RuntimeError(f"espeak-ng has no voice {voice.name!r}")
            self._voice = voice.name
        self._library.espeak_SetParameter(_RATE, voice.speed, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        self._pieces.clear()
        words = text.encode()
        self._library.espeak_Synth(words, len(words) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._pieces:
            raise RuntimeError(f"espeak-ng spoke nothing for {text!r}")
        return np.concatenate(self._pieces)


def _speak(job: Path, result: Path) -> None:
    engine = _Espeak()
    asked = json.loads(job.read_text())
    frames, waves = [], []
    for i, (text, name, speed, pitch) in enumerate(asked["say"]):
        wave = engine.say(text, Voice(name, speed, pitch))
        if asked["frames"]:
            frames.append(log_mel(wave).astype(np.float16))
        if i < asked["waves"]:
            waves.append(wave)
    np.savez(
        result,
        frames=np.concatenate(frames) if frames else np.zeros(0, np.float16),
        frames_lengths=np.array([len(f) for f in frames], np.int64),
        waves=np.concatenate(waves) if waves else np.zeros(0, np.int16),
        waves_lengths=np.array([len(w) for w in waves], np.int64),
    )


def _pieces(part: Any, kind: str) -> list[np.ndarray]:
    """Arrays of one kind in a share's file."""
    lengths = part[f"{kind}_lengths"]
    return np.split(part[kind], np.cumsum(lengths)[:-1]) if len(lengths) else []


if __name__ == "__main__":
    end_with_parent()
    _speak(Path(sys.argv[1]), Path(sys.argv[2]))
