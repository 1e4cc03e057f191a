"""The installed Trainer against loops written out here: losses, gradients, scales, resuming."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel

from .hf_models import IMAGE, TEXT, greedy, logits_alone, our_name, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import (  # noqa: E402
    MixtureOfMambaForCausalLM,
    from_multimodal,
    to_multimodal,
)

RATE = 0.5
CLOSE = {"atol": 2e-6, "rtol": 1e-5}  # float32 weights after a few steps


@pytest.fixture
def documents() -> list[Tensor]:
    """Of different lengths, so that a mean of means is not the mean."""
    return [torch.randint(0, TEXT + IMAGE, (n,)) for n in (9, 3, 2, 6)]


def padded(features: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows padded in turn on the left and on the right; labels say -100 there, and at the first
    token, which the Trainer would count behind padding."""
    longest = max(len(f["input_ids"]) for f in features)
    batch: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for f in features:
        ids = f["input_ids"]
        size = longest - len(ids)
        pad = (0, size) if len(ids) % 2 else (size, 0)
        for name, x, value in [
            ("input_ids", ids, 0),
            ("labels", torch.cat([ids.new_full((1,), -100), ids[1:]]), -100),
            ("attention_mask", torch.ones_like(ids), 0),
        ]:
            batch[name].append(torch.nn.functional.pad(x, pad, value=value))
    return {name: torch.stack(rows) for name, rows in batch.items()}


def trainer(  # type: ignore[no-untyped-def]
    model, documents: list[Tensor], folder: Path, *, steps: int, collate=padded, **arguments
):
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            **{
                "output_dir": str(folder),
                "max_steps": steps,
                "per_device_train_batch_size": len(documents),
                "max_grad_norm": 0.0,
                "report_to": [],
                "use_cpu": True,
                "disable_tqdm": True,
                "save_strategy": "no",
                "logging_steps": 1,
            }
            | arguments
        ),
        train_dataset=[{"input_ids": d, "labels": d} for d in documents],
        data_collator=collate,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
    )


def own_loop(  # type: ignore[no-untyped-def]
    mine: MultimodalModel, documents: list[Tensor], steps: int, loss_of=None
) -> list[float]:
    """SGD on the mean over all targets of all documents, each read alone; the losses."""
    loss_of = loss_of or (lambda logp, targets: -logp.gather(1, targets[:, None])[:, 0])
    optimizer = torch.optim.SGD(mine.parameters(), lr=RATE, momentum=0.5)
    losses = []
    for _ in range(steps):
        each = [loss_of(logits_alone(mine, d)[:-1].log_softmax(-1), d[1:]) for d in documents]
        loss = torch.cat(each).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def assert_same_weights(model: MixtureOfMambaForCausalLM, mine: MultimodalModel) -> None:
    expected = dict(mine.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, expected[our_name(name)], msg=name, **CLOSE)


def logged(run: Any, key: str = "loss") -> list[float]:
    return [row[key] for row in run.state.log_history if key in row]


@pytest.mark.parametrize(
    ("size", "accumulate"), [(4, 1), (2, 2), (1, 4)], ids=["whole", "halves", "each alone"]
)
def test_steps_are_those_of_a_plain_loop(documents, tmp_path, size: int, accumulate: int) -> None:
    """However a batch is divided: the loss is the mean over its tokens, and not of means."""
    mine = ours()
    model = from_multimodal(mine)
    run = trainer(
        model,
        documents,
        tmp_path,
        steps=3,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulate,
    )
    run.train()
    losses = own_loop(mine, documents, 3)
    assert logged(run) == pytest.approx(losses, rel=1e-3)  # the Trainer rounds them
    assert_same_weights(model, mine)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_label_smoothing_shifts_the_labels(documents, tmp_path, accumulate: int) -> None:
    mine, epsilon = ours(), 0.2
    model = from_multimodal(mine)
    trainer(
        model,
        documents,
        tmp_path,
        steps=2,
        label_smoothing_factor=epsilon,
        per_device_train_batch_size=4 // accumulate,
        gradient_accumulation_steps=accumulate,
    ).train()
    own_loop(
        mine,
        documents,
        2,
        lambda logp, targets: (
            -((1 - epsilon) * logp.gather(1, targets[:, None])[:, 0] + epsilon * logp.mean(1))
        ),
    )
    assert_same_weights(model, mine)


def test_label_smoothing_of_separate_vocabularies_is_refused(documents, tmp_path) -> None:
    """The Trainer would take one softmax over all of them."""
    model = from_multimodal(ours(vocabulary="separate"))
    run = trainer(model, documents, tmp_path, steps=1, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="each modality has its own softmax"):
        run.train()


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_accumulation_divides_by_all_targets(documents, vocabulary: str) -> None:
    """num_items_in_batch: parts add up to the whole, in the loss and in the gradients."""
    mine = ours(vocabulary=vocabulary)
    model = from_multimodal(mine)

    def gradients() -> list[Tensor]:
        found = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return found

    whole = padded([{"input_ids": d} for d in documents])
    loss = model(**whole).loss
    loss.backward()
    expected = gradients()
    count = sum(len(d) - 1 for d in documents)
    for number in (count, torch.tensor(count)):
        parts = [
            model(**padded([{"input_ids": d}]), num_items_in_batch=number).loss for d in documents
        ]
        torch.testing.assert_close(sum(parts), loss)
        sum(parts).backward()
        for a, b in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_labels_that_are_shifted_already(documents, vocabulary: str) -> None:
    model = from_multimodal(ours(vocabulary=vocabulary))
    batch = padded([{"input_ids": d} for d in documents])
    batch["labels"] = batch["input_ids"]  # also at padding, where they do not count
    expected = model(**batch).loss
    following = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(**batch, shift_labels=following).loss, expected)
    marked = following.masked_fill(following == -100, -7)
    loss = model(**batch, shift_labels=marked, ignore_index=-7).loss
    torch.testing.assert_close(loss, expected)


def test_labels_that_are_counted_and_are_no_targets_are_named(documents) -> None:
    model = from_multimodal(ours())
    batch = padded([{"input_ids": d} for d in documents])
    plain = batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
    expected = model(**batch, num_items_in_batch=18).loss
    with pytest.warns(UserWarning, match="2 labels are counted in num_items_in_batch"):
        loss = model(**plain, num_items_in_batch=18).loss
    assert torch.equal(loss, expected)


def test_rows_without_padding_train_as_documents_alone(documents, tmp_path) -> None:
    mine = ours()
    model = from_multimodal(mine)
    collate = transformers.DataCollatorWithFlattening()
    trainer(model, documents, tmp_path, steps=2, collate=collate).train()
    own_loop(mine, documents, 2)
    assert_same_weights(model, mine)


def test_a_resumed_run_is_the_uninterrupted_one(documents, tmp_path) -> None:
    def fresh(**arguments):  # type: ignore[no-untyped-def]
        model = from_multimodal(ours())
        return model, trainer(model, documents, tmp_path, steps=4, **arguments)

    whole, run = fresh()
    run.train()
    _, first = fresh(save_strategy="steps", save_steps=2)
    first.train()
    again, second = fresh()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(second) == logged(run)
    for a, b in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    saved = MixtureOfMambaForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    for a, b in zip(saved.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_evaluation_and_prediction_give_loss_and_logits(documents, tmp_path) -> None:
    """The state is not among the predictions."""
    mine = ours()
    model = from_multimodal(mine)
    run = trainer(model, documents, tmp_path, steps=1, per_device_eval_batch_size=4)
    data = [{"input_ids": d, "labels": d} for d in documents]
    found = run.predict(data)
    assert found.predictions.shape == (4, 9, TEXT + IMAGE)
    batch = padded([{"input_ids": d} for d in documents])
    for row, d in enumerate(documents):
        kept = torch.from_numpy(found.predictions[row])[batch["attention_mask"][row] > 0]
        torch.testing.assert_close(kept, logits_alone(mine, d).detach(), **CLOSE)
    expected = own_loop(to_multimodal(model), documents, 1)[0]
    assert found.metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert run.evaluate(data)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_text_pipeline_knows_the_class(caplog, monkeypatch) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    mine = ours()
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"w{i}": i for i in range(TEXT + IMAGE)}, unk_token="w0")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipe = transformers.pipeline(
        "text-generation", model=from_multimodal(mine), tokenizer=tokenizer, device="cpu"
    )
    (output,) = pipe("w3 w40 w7", max_new_tokens=4, do_sample=False, return_full_text=False)
    expected = greedy(mine, torch.tensor([3, 40, 7]), 4)
    assert output["generated_text"].split() == [f"w{i}" for i in expected.tolist()]
    assert "is not supported" not in caplog.text
