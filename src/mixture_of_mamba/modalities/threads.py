"""How many threads networks of codecs compute with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

__all__ = ["each_alone", "one_thread"]

#: Items that are in work at the same time; each takes the memory of a forward pass.
AT_ONCE = 16


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread inside the block, so that results, whose last digits decide
    between codes, do not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def each_alone(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`make` of every item, in order, without gradients, several at the same time and each on one
    thread; no more items are drawn than are in work.

    The last digits of a sum decide between codes, and they depend on the batch and on the number of
    threads. So neither has a say.
    """

    def alone(item: Any) -> Any:
        with torch.inference_mode():
            return make(item)

    workers = min(torch.get_num_threads(), AT_ONCE)
    with one_thread():
        if workers == 1:
            yield from map(alone, items)
            return
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            waiting: deque[Future[Any]] = deque()
            for item in items:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(alone, item))
            while waiting:
                yield waiting.popleft().result()
