"""The whole network: modality order inside, one loss, presets, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mixture_of_mamba as mom

MODALITIES = [
    mom.Modality("text", "discrete", 23),
    mom.Modality("image", "discrete", 11),
    mom.Modality("speech", "discrete", 7),
]


def config(**kw) -> mom.ModelConfig:
    return mom.ModelConfig(
        **({"d_model": 12, "n_layers": 2, "modalities": MODALITIES, "d_state": 4} | kw)
    )


def batch(b: int = 2, t: int = 19, **kw) -> mom.Batch:
    ids = torch.randint(0, 3, (b, t))
    sizes = torch.tensor([m.size for m in MODALITIES])
    tokens = (torch.rand(b, t) * sizes[ids]).long()
    documents = torch.arange(t).expand(b, t) // 8
    return mom.Batch(**({"modality_ids": ids, "tokens": tokens, "document_ids": documents} | kw))


def model(**kw) -> mom.MultimodalModel:
    return mom.MultimodalModel(config(**kw)).double()


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_losses_are_cross_entropy_of_the_next_token_by_modality(vocabulary: str) -> None:
    made, data = model(vocabulary=vocabulary), batch()
    out = made(data, return_logits=True)
    starts = [0, 23, 34, 41]
    sums, numbers = [0.0] * 3, [0] * 3
    for b in range(2):
        for t in range(18):
            if data.document_ids[b, t] != data.document_ids[b, t + 1]:
                continue
            m = int(data.modality_ids[b, t + 1])
            logits = out.logits[b, t]
            target = int(data.tokens[b, t + 1])
            if vocabulary == "shared":
                target += starts[m]
            else:
                logits = logits[starts[m] : starts[m + 1]]
            sums[m] += float(F.cross_entropy(logits.detach(), torch.tensor(target)))
            numbers[m] += 1
    for m, modality in enumerate(MODALITIES):
        assert int(out.counts[m]) == numbers[m]
        assert float(out.losses[modality.name]) == pytest.approx(sums[m] / numbers[m], rel=1e-9)
    assert float(out.loss.detach()) == pytest.approx(sum(sums) / sum(numbers), rel=1e-9)


def test_loss_weights_and_masks() -> None:
    data = batch()
    weighted = [
        mom.Modality("text", "discrete", 23, loss_weight=0.0),
        mom.Modality("image", "discrete", 11, loss_weight=2.0),
        MODALITIES[2],
    ]
    plain, other = model()(data), model(modalities=weighted)(data)
    n = dict(zip(plain.names, plain.counts.tolist(), strict=True))
    expected = 2 * n["image"] * plain.losses["image"] + n["speech"] * plain.losses["speech"]
    torch.testing.assert_close(other.loss.detach(), expected / sum(n.values()))
    hidden = batch(
        modality_ids=data.modality_ids, tokens=data.tokens, loss_mask=data.modality_ids != 1
    )
    assert int(model()(hidden).counts[1]) == 0


def test_a_document_does_not_depend_on_what_is_packed_with_it() -> None:
    made, data = model(), batch(b=1, t=24)
    packed = made(data, return_logits=True).logits
    for start in (0, 8, 16):
        part = slice(start, start + 8)
        alone = mom.Batch(modality_ids=data.modality_ids[:, part], tokens=data.tokens[:, part])
        torch.testing.assert_close(made(alone, return_logits=True).logits, packed[:, part])


def test_dense_model_does_not_see_modality_ids_through_projections() -> None:
    """With no split and the same joint tokens, sorting rows by modality changes nothing."""
    made = model(split=frozenset())
    data = batch(document_ids=None)
    joint = data.tokens + torch.tensor([0, 23, 34])[data.modality_ids]
    one = mom.MultimodalModel(
        mom.ModelConfig(
            d_model=12,
            n_layers=2,
            d_state=4,
            modalities=[mom.Modality("all", "discrete", 41)],
        )
    ).double()
    one.load_state_dict(made.state_dict())
    single = mom.Batch(modality_ids=torch.zeros_like(joint), tokens=joint)
    torch.testing.assert_close(
        one(single, return_logits=True).logits, made(data, return_logits=True).logits
    )


def test_carried_state_equals_the_whole() -> None:
    made, data = model(), batch(document_ids=None)
    whole = made(data, return_logits=True).logits
    state, parts = None, []
    for part in (slice(0, 7), slice(7, 8), slice(8, 19)):
        piece = mom.Batch(modality_ids=data.modality_ids[:, part], tokens=data.tokens[:, part])
        out = made(piece, state=state, return_state=True, return_logits=True)
        state = out.state
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("mixer", ["mamba", "attention"])
def test_variants_start_from_shared_values_and_every_parameter_learns(mixer: str) -> None:
    kw = {"mixer": mixer, "head_dim": 4}
    dense, mixture = model(split=frozenset(), **kw), model(**kw)
    for name, p in dense.named_parameters():
        q = mixture.get_parameter(name)
        assert torch.equal(p, q[: len(p)] if "_proj" in name else q), name
    mixture(batch()).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in mixture.parameters())


def test_attention_is_causal_and_stays_in_its_document() -> None:
    made, data = model(mixer="attention", head_dim=4), batch(b=1, t=24)
    before = made(data, return_logits=True).logits
    changed = data.tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 7
    after = made(
        batch(modality_ids=data.modality_ids, tokens=changed, document_ids=data.document_ids),
        return_logits=True,
    ).logits
    same = (before == after).all(-1)[0] | torch.isclose(before, after).all(-1)[0]
    assert same[:12].all() and not same[12:16].any() and same[16:].all()
    with pytest.raises(ValueError, match="carry no state"):
        made(data, state=[1, 1])  # type: ignore[list-item]


def test_files_round_trip_and_name_every_misfit(tmp_path: Path) -> None:
    for tie in (False, True):
        made = mom.MultimodalModel(config(tie_embeddings=tie))
        made.save_pretrained(tmp_path)
        again = mom.MultimodalModel.from_pretrained(tmp_path)
        assert again.config == made.config
        for name, p in made.named_parameters():
            assert torch.equal(p, again.get_parameter(name))
        data = batch()
        assert torch.equal(again(data).loss, made(data).loss)
    plain = json.loads((tmp_path / "config.json").read_text())
    plain["n_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"missing backbone\.blocks\.2\.mixer\.A_log \(24, 4\)"):
        mom.MultimodalModel.from_pretrained(tmp_path)
    plain["n_layers"], plain["d_modle"] = 2, 7
    (tmp_path / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"unknown fields \['d_modle'\]"):
        mom.MultimodalModel.from_pretrained(tmp_path)
    del plain["d_modle"]
    (tmp_path / "config.json").write_text(json.dumps(plain))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is damaged: its content is not what .*SHA256SUMS says"):
        mom.MultimodalModel.from_pretrained(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="damaged or truncated"):
        mom.MultimodalModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        mom.MultimodalModel.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.full((2, 19), 22)}, "vocabulary has 11 entries"),
        ({"modality_ids": torch.full((2, 19), 3)}, "contains 3, but this model has 3 modalities"),
    ],
)
def test_bad_batches_get_a_clear_error(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model()(batch(**change))


def test_bad_configs_get_a_clear_error() -> None:
    for change, message in [
        ({"modalities": []}, "at least one modality"),
        ({"modalities": [MODALITIES[0], MODALITIES[0]]}, "appear twice"),
        ({"mixer": "rnn"}, "choose 'mamba' or 'attention'"),
        ({"vocabulary": "one"}, "choose 'shared' or 'separate'"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"split": {"q"}}, "unknown projections"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(**change)
    with pytest.raises(ValueError, match="choose 'discrete' or 'continuous'"):
        mom.Modality("text", "words", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no preset 'big'"):
        mom.preset("big")


# What the widths and depths give (dense, untied, state-spaces layout), in millions.
DERIVED = {
    "chameleon-37m": (37, 37.1),
    "chameleon-94m": (94, 94.2),
    "chameleon-443m": (443, 454),
    "chameleon-880m": (880, 917),
    "chameleon-1.5b": (1500, 1540),
    "transfusion-163m": (163, 170),
    "transfusion-760m": (760, 814),
    "transfusion-1.4b": (1400, 1400),
}


@pytest.mark.parametrize("name", DERIVED)
def test_presets_have_the_size_of_their_name(name: str) -> None:
    named, derived = DERIVED[name]
    with torch.device("meta"):
        made = mom.MultimodalModel(mom.preset(name, split=frozenset()))
        mixture = mom.MultimodalModel(mom.preset(name))
    millions = made.parameter_count() / 1e6
    assert millions == pytest.approx(named, rel=0.08)
    assert millions == pytest.approx(derived, rel=0.01)
    assert mixture.parameter_count() > made.parameter_count()
    assert mixture.parameter_count(active=True) == made.parameter_count()


def test_a_continuous_modality_weighs_five_unless_told_otherwise() -> None:
    assert mom.Modality("image", "continuous", 4).loss_weight == 5.0
    assert mom.Modality("text", "discrete", 4).loss_weight == 1.0
    assert mom.Modality("image", "continuous", 4, 2.0).loss_weight == 2.0
