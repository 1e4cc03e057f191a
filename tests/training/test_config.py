"""Configs: what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.training.config import ModelSettings, RunConfig, TrainConfig, model_config

MODALITIES = [("text", "discrete", 30), ("image", "continuous", 48)]


def test_yaml_round_trip() -> None:
    config = RunConfig(
        model=ModelSettings(loss_weights={"text": 0.5}, split="in_proj+x_proj"),
        train=TrainConfig(steps=7, threads=2),
    )
    assert (
        RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict(), sort_keys=False)))
        == config
    )


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            {"train": {"step": 3}},
            "c.yaml has unknown field 'train.step' (did you mean train.steps?)",
        ),
        ({"trian": {"steps": 3}}, "unknown field 'trian.steps' (did you mean train.steps?)"),
        ({"model": {"d_modle": 3}}, "'model.d_modle' (did you mean model.d_model?)"),
        ({"train": {"d_state": 3}}, "'train.d_state' (did you mean model.d_state?)"),
        ({"train": {"zzz": 1}}, "c.yaml has unknown field 'train.zzz'"),
        ({"train": {"zzz": 1, "stepz": 2}}, "unknown fields 'train.zzz', 'train.stepz'"),
        ({"steps": 3}, "unknown field 'steps' (did you mean train.steps?)"),
    ],
)
def test_unknown_fields_name_the_nearest(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        RunConfig.from_dict(plain, "c.yaml")
    assert message in str(error.value)


#: Modalities of a wrong form, and what is said about them.
WRONG_FORMS = [
    (["text"], "modalities is ['text']; give a codec and options by name"),
    ("bpe", "modalities is 'bpe'; give a codec and options by name"),
    (5, "modalities is 5; give a codec and options by name"),
    ({"text": "bpe"}, "modalities.text is 'bpe'; give its codec and options"),
    ({"text": ["bpe"]}, "modalities.text is ['bpe']; give its codec and options"),
    ({"text": {"codec": "bpe"}, "image": 5}, "modalities.image is 5; give its codec and options"),
    ({"text": {"codec": 5}}, "modalities.text.codec is 5; give the name of a codec"),
    ({"text": {"codec": ["bpe"]}}, "modalities.text.codec is ['bpe']; give the name of a codec"),
]


@pytest.mark.parametrize(("modalities", "message"), WRONG_FORMS)
@pytest.mark.parametrize("data", [{}, {"setting": "transfusion"}, {"tokenizers": "nowhere"}])
def test_modalities_of_a_wrong_form(modalities: Any, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        RunConfig.from_dict({"modalities": modalities, "data": data})
    assert message in str(error.value)
    with pytest.raises(ValueError) as error:
        RunConfig(modalities=modalities)
    assert message in str(error.value)


def test_names_that_no_setting_has_are_listed() -> None:
    plain = {"modalities": {7: {"codec": "bpe"}}, "data": {"setting": "transfusion"}}
    with pytest.raises(ValueError, match=r"data\.setting transfusion, which has no 7; leave"):
        RunConfig.from_dict(plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "train.steps is 0; it must be at least 1"),
        ({"stop_after": 0}, "train.stop_after is 0; it must be at least 1"),
        ({"precision": "fp8"}, "train.precision is 'fp8'; choose from float32, bf16"),
        ({"strategy": "zero"}, "choose from auto, ddp, fsdp"),
        ({"learning_rate": float("nan")}, "train.learning_rate is nan; it must be finite"),
        ({"beta2": 1.0}, "train.beta2 is 1.0"),
        ({"batch_size": 6, "gradient_accumulation_steps": 2, "devices": 2}, "use a multiple of 4"),
    ],
)
def test_values_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        TrainConfig(**fields)
    assert message in str(error.value)


def test_model_config_takes_modalities_from_the_data() -> None:
    settings = ModelSettings(d_model=32, n_layers=1, split="none", loss_weights={"image": 5.0})
    config = model_config(settings, MODALITIES)
    assert config.names == ("text", "image") and config.split == frozenset()
    assert [m.loss_weight for m in config.modalities] == [1.0, 5.0]
    with pytest.raises(ValueError, match="loss_weights names speech, but the data has text, image"):
        model_config(ModelSettings(loss_weights={"speech": 1.0}), MODALITIES)
    with pytest.raises(ValueError, match="split has unknown projections"):
        model_config(ModelSettings(split="in_prj"), MODALITIES)


def test_differences_leave_out_what_may_change() -> None:
    one = RunConfig()
    two = RunConfig(
        train=TrainConfig(log_every=3, max_grad_norm=0.5), model=ModelSettings(split="none")
    )
    assert one.differences(two) == [
        "model.split: 'all' -> 'none'",
        "train.max_grad_norm: 1.0 -> 0.5",
    ]


def test_files_may_be_named_elsewhere_but_not_taken_away() -> None:
    def config(path: str | None, tokenizer: str | None) -> RunConfig:
        frames = {"codec": "frames", "image": {"codec": "janus", "pretrained": path, "size": 16}}
        text = {"codec": "bpe", "tokenizer": tokenizer}
        return RunConfig(modalities={"text": text, "video": frames})  # type: ignore[arg-type]

    before, names = config("a", "t"), {"modalities.text.tokenizer"}
    assert before.moved(config("b", "u")) == names | {"modalities.video.image.pretrained"}
    assert before.moved(config(None, "u")) == names
    assert config("a", None).moved(config("a", "t")) == {"modalities.video.image.pretrained"}


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [
        ("video", "vq", "'vq', which is for image, but video of .* is video; .* such as frames"),
        ("speech", "vq", "'vq', which is for image, but speech of .* is sound; .* such as units"),
        ("image", "units", "'units', which is for sound, but image of .* is image; .* such as vq"),
        ("text", "vq", "'vq', which is for image, but text of .* is text; .* such as bpe"),
    ],
)
def test_a_codec_of_another_medium_is_refused(name: str, codec: str, message: str) -> None:
    modalities = {"text": {"codec": "bpe"}, name: {"codec": codec}}
    with pytest.raises(ValueError, match=rf"modalities\.{name}\.codec is {message}"):
        RunConfig(modalities=modalities)  # type: ignore[arg-type]
    own = DataConfig(source="my.jsonl")  # where any name will do
    assert RunConfig(modalities=modalities, data=own)  # type: ignore[arg-type]


def test_old_names_are_read() -> None:
    old = {
        "train": {"accumulate": 2, "clip": 0.5, "recompute": True},
        "model": {"start": "dense", "diffusion": {"level_power": 0.5, "caption_dropout": 0.2}},
    }
    new = {
        "train": {
            "gradient_accumulation_steps": 2,
            "max_grad_norm": 0.5,
            "activation_checkpointing": True,
        },
        "model": {
            "init_from": "dense",
            "diffusion": {"timestep_power": 0.5, "cond_drop_prob": 0.2},
        },
    }
    assert RunConfig.from_dict(old) == RunConfig.from_dict(new)


def test_an_old_and_a_new_name_must_agree() -> None:
    both = {"train": {"accumulate": 2, "gradient_accumulation_steps": 2}}
    assert RunConfig.from_dict(both).train.gradient_accumulation_steps == 2
    both["train"]["accumulate"] = 3
    with pytest.raises(ValueError, match=r"c.yaml gives train.accumulate as 3 and train"):
        RunConfig.from_dict(both, "c.yaml")
