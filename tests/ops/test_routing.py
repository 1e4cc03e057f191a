"""The plan of a batch: a stable sort by modality, its inverse, and document starts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixture_of_mamba import Routing


@settings(max_examples=40, deadline=None)
@given(b=st.integers(0, 4), t=st.integers(0, 9), m=st.integers(1, 5), seed=st.integers(0, 99))
def test_rows_are_a_stable_sort_and_come_back(b: int, t: int, m: int, seed: int) -> None:
    ids = torch.randint(0, m, (b, t), generator=torch.Generator().manual_seed(seed))
    plan = Routing.build(ids, m)
    position = torch.arange(b * t).view(b, t)
    rows = plan.to_rows(position)
    key = ids.reshape(-1)[rows] * (b * t) + rows  # modality first, then position
    assert torch.equal(key, key.sort().values)
    assert torch.equal(plan.to_time(rows), position)
    assert plan.offsets.tolist() == [(ids <= i).sum().item() for i in range(m)]


def test_resets_mark_changes_and_never_the_first_token() -> None:
    documents = torch.tensor([[5, 5, 2, 2, 5], [1, 2, 3, 3, 3]])
    plan = Routing.build(torch.zeros(2, 5, dtype=torch.long), 1, documents)
    assert plan.resets.tolist() == [[False, False, True, False, True], [False, True, True, 0, 0]]
    again = Routing.build(
        torch.zeros(2, 5, dtype=torch.long),
        1,
        documents,
        previous_document=torch.tensor([5, 9]),
    )
    assert again.resets[:, 0].tolist() == [False, True]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.tensor([[0, 4]]), ValueError, r"contains 4, but there are 3 modalities"),
        (torch.tensor([[0, -2]]), ValueError, "contains -2"),
        (torch.tensor([0, 1]), ValueError, r"shape \(2,\)"),
        (torch.tensor([[0.0]]), TypeError, "integers are needed"),
    ],
)
def test_bad_ids(ids: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Routing.build(ids, 3)
