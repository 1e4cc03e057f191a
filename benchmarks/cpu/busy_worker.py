"""The process that the benchmark `busy` times: reads "CASE SECONDS", answers milliseconds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module

__all__ = ["CASES"]


def token() -> Callable[[], object]:
    """A token of a model of 0.75M parameters."""
    return _stepping(d_model=96, n_layers=6)


def token_of_a_larger_model() -> Callable[[], object]:
    """A token of a model of 29M parameters."""
    return _stepping(d_model=512, n_layers=16)


def _stepping(d_model: int, n_layers: int) -> Callable[[], object]:
    import torch

    import mixture_of_mamba as mom
    from mixture_of_mamba.generation.choice import decoder_maker
    from mixture_of_mamba.generation.sequence import TokenSequence

    modalities = [mom.Modality("text", "discrete", 1024), mom.Modality("image", "discrete", 257)]
    config = mom.ModelConfig(d_model=d_model, n_layers=n_layers, modalities=modalities)
    decoder = decoder_maker(mom.MultimodalModel(config).eval())()
    prompt = TokenSequence()
    for i in range(8):
        prompt.append(0, i)
    decoder.start([prompt])
    ids, text = torch.tensor([5]), torch.tensor([0])
    return lambda: decoder.step(ids, text)


def block() -> Callable[[], object]:
    """A block of width 256 on 4 x 512 tokens, forward and backward."""
    import torch

    import mixture_of_mamba as mom

    module = mom.MambaBlock(mom.MambaConfig(d_model=256, n_modalities=2))
    x, ids = torch.randn(4, 512, 256, requires_grad=True), torch.randint(2, (4, 512))
    return lambda: module(x, ids).sum().backward()


def elementwise() -> Callable[[], object]:
    """exp of a million numbers: a loop of torch itself."""
    import torch

    x = torch.randn(1 << 20)
    return lambda: torch.exp(x)


CASES = {
    "token, 0.75M": token,
    "token, 29M": token_of_a_larger_model,
    "block, width 256, 4 x 512": block,
    "exp of a million": elementwise,
}


def main() -> int:
    for name in ("torch", "mixture_of_mamba")[:: 1 if "--torch-first" in sys.argv else -1]:
        import_module(name)
    import torch

    made = cache(lambda name: CASES[name]())
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        name, _, seconds = line.strip().rpartition(" ")
        call = made(name)
        call()
        times: list[float] = []
        end = time.perf_counter() + float(seconds)
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
        # The mean: a wait now and then is what a busy machine costs.
        print(statistics.fmean(times), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
