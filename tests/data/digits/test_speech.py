"""Speech of the embedded scenes for codecs that take the sound itself."""

from __future__ import annotations

import numpy as np

from mixture_of_mamba.data.digits import source
from mixture_of_mamba.data.digits.voices import Speaking
from mixture_of_mamba.modalities.registry import codec_class
from tests.factories.data import tiny_config


def test_every_utterance_is_prepared_and_only_the_examples_keep_their_sound() -> None:
    """The samples of all beside what they became would need twice the memory."""
    speech = {"codec": "mimi", "sampling_rate": 24_000}
    config = tiny_config(speech=speech, digits={"scenes": 30, "text_fraction": 0.0})
    scenes = source.DigitScenes(config.data, config.modalities)
    scenes.finish()
    held, train = scenes.validation.items["speech"], scenes.training.items["speech"]
    assert (len(held), len(train)) == (6, 24)
    assert len(scenes._waveforms) == 6
    assert all(wave.base is None for wave in scenes._waveforms), "no part of all the sound"

    seed, every = config.data.seed, list(scenes._scenes.items())
    captions = [scene.caption for _, found in every for scene in found]
    voices = [
        source.choose_voice(seed, number, i)
        for number, (_, found) in enumerate(every)
        for i in range(len(found))
    ]
    spoken = Speaking(captions, voices, len(captions)).result()
    assert all(map(np.array_equal, scenes._waveforms, spoken.waveforms))
    codec, options = codec_class("mimi"), config.modalities["speech"].options
    for mine, wave in zip([*held, *train], spoken.waveforms, strict=True):
        assert mine.dtype == np.int16
        np.testing.assert_array_equal(mine, codec.prepare(source._sound(wave), options))
    examples = scenes.examples()
    assert all("speech" in example.items for example in examples) and len(examples) == 6
