"""The choice of a backend: a preference holds for a while, and a wrong name says what is there."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

import mixture_of_mamba as mom
from mixture_of_mamba.ops import dispatch

ALL = {"selective_scan": "reference", "causal_conv1d": "reference", "modality_linear": "reference"}


def test_the_reference_may_be_preferred_for_a_whole_model() -> None:
    block = mom.MambaBlock(mom.MambaConfig(d_model=8, n_modalities=2)).double()
    x, ids = torch.randn(2, 7, 8, dtype=torch.float64), torch.randint(0, 2, (2, 7))
    usual = block(x, ids)
    with mom.use_backend(**ALL):
        plain = block(x, ids)
    torch.testing.assert_close(plain, usual, atol=1e-12, rtol=1e-12)


def test_a_preference_ends_with_its_block() -> None:
    called = []
    from mixture_of_mamba.ops.selective_scan import chunked

    forward = chunked.forward

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        called.append(1)
        return forward(*args, **kwargs)

    u = torch.rand(1, 3, 4)
    call = (u, u, -torch.ones(4, 2), torch.rand(1, 3, 2), torch.rand(1, 3, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "forward", counted)
        with mom.use_backend(selective_scan="torch"):
            mom.selective_scan(*call)
            with mom.use_backend(selective_scan="reference"):
                mom.selective_scan(*call)
            mom.selective_scan(*call)
        assert len(called) == 2


def test_a_preference_does_not_reach_the_backward_of_an_earlier_call() -> None:
    u = torch.rand(1, 40, 4, requires_grad=True)
    others = (-torch.ones(4, 2), torch.rand(1, 40, 2), torch.rand(1, 40, 2))
    (alone,) = torch.autograd.grad(mom.selective_scan(u, u, *others)[0].sum(), u)
    y, _ = mom.selective_scan(u, u, *others)
    with mom.use_backend(selective_scan="torch"):  # its checkpoints are not those of the forward
        (inside,) = torch.autograd.grad(y.sum(), u)
    assert torch.equal(inside, alone)


def test_names_that_do_not_exist() -> None:
    with (
        pytest.raises(mom.BackendError, match=r"no op 'scan'; choose from"),
        mom.use_backend(scan="cpu"),
    ):
        pass
    with pytest.raises(mom.BackendError, match=r"no backend 'cuda'; choose from \['triton', 'cpu'"):
        mom.selective_scan(
            *(torch.rand(1, 3, 4),) * 2,
            -torch.ones(4, 2),
            *(torch.rand(1, 3, 2),) * 2,
            backend="cuda",
        )


def test_a_preference_holds_in_its_own_thread_and_task_only() -> None:
    async def preferring(name: str, others: asyncio.Barrier) -> list[str]:
        found = []
        with mom.use_backend(selective_scan=name):
            for _ in range(2):
                await others.wait()
                found.append(dispatch.preferred("selective_scan", None))
        await others.wait()
        return [*found, dispatch.preferred("selective_scan", None)]

    async def tasks() -> list[list[str]]:
        others = asyncio.Barrier(2)
        return await asyncio.gather(preferring("torch", others), preferring("reference", others))

    with mom.use_backend(selective_scan="cpu"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(dispatch.preferred, "selective_scan", None).result() == ""
        assert asyncio.run(tasks()) == [["torch"] * 2 + ["cpu"], ["reference"] * 2 + ["cpu"]]
    assert dispatch.preferences() == {}


def test_a_compiled_call_takes_the_preference_of_its_own_thread() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def named(x: torch.Tensor) -> torch.Tensor:
        return x + len(dispatch.preferred("selective_scan", None))

    zero = torch.zeros(())
    with ThreadPoolExecutor(1) as pool:
        assert named(zero) == 0
        with mom.use_backend(selective_scan="torch"):
            assert named(zero) == len("torch")
            assert pool.submit(named, zero).result() == 0
            with mom.use_backend(selective_scan="reference"):
                assert named(zero) == len("reference")
        assert named(zero) == 0


def test_tasks_that_take_turns_leave_no_preference_to_compiled_calls() -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def named(x: torch.Tensor) -> torch.Tensor:
        return x + len(dispatch.preferred("selective_scan", None))

    zero, seen = torch.zeros(()), []

    async def preferring(name: str, leave: asyncio.Event, then: asyncio.Event) -> None:
        with mom.use_backend(selective_scan=name):
            await leave.wait()
        seen.append(int(named(zero)))
        then.set()

    async def tasks() -> None:
        first, second, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        both = asyncio.gather(preferring("cpu", first, second), preferring("torch", second, end))
        await asyncio.sleep(0)  # both have entered, "torch" last
        first.set()
        await both

    asyncio.run(tasks())
    assert seen == [len("torch"), 0]
    assert named(zero) == 0


def test_a_choice_says_why_none_can_serve() -> None:
    found, reasons = dispatch.active(
        "modality_linear", SimpleNamespace(device_type="xpu", host_offsets=None)
    )
    assert found is None and len(reasons) == 2
