"""Whether several threads are worth it for a step, found by timing the steps themselves.

A step of a small model takes less than a millisecond, in which threads meet many times. On an idle
machine two of them halve the time; where another process has one of the cores, each meeting waits
until the scheduler lets the other thread go on, and a step takes up to a hundred times as long. Which
of the two a machine is changes while a program runs, so it cannot be decided once.
"""

from __future__ import annotations

__all__ = ["Pace"]

FIRST_PAUSE, LONGEST_PAUSE = 8, 4096  # steps on one thread before another attempt
GAIN = 0.95  # several threads are kept where they take less than this share of one thread's time
STALL = 2.0  # so many times one thread's time, and the other core is busy
FORGET = 256  # steps without a stall until earlier ones count no more


class Pace:
    """Chooses the threads of the next step from the times of the steps before it.

    Steps begin on one thread. After a pause several threads get an attempt of three steps (in the
    first of them they have to wake up). Where an attempt pays off they stay, until a step stalls.
    After an attempt that failed, or a stall, the pause doubles. So on a busy machine the attempts
    take a vanishing share of the time. Threads do not change results.

    Args:
        most: threads of an attempt; with 1 nothing is tried.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone = float("inf")  # seconds of a step on one thread, the lowest of late
        self._pause = FIRST_PAUSE
        self._rest = FIRST_PAUSE  # steps on one thread until the next attempt
        self._tried: list[float] = []
        self._several = False  # whether the last attempt paid off
        self._calm = 0  # steps since the last stall

    def threads(self) -> int:
        """Threads of the next step."""
        return self.most if self._several or self._rest <= 0 else 1

    def took(self, threads: int, seconds: float) -> None:
        """Note how long a step took on so many threads."""
        if self.most == 1:
            return
        if threads == 1:
            # The lowest counts, since a time can only be too long; it is forgotten slowly.
            self._alone = min(self._alone * 1.01, seconds)
            self._rest -= 1
        elif seconds > STALL * self._alone:
            self._give_up()
        elif self._several:
            self._calm += 1
            if self._calm == FORGET:
                self._pause = FIRST_PAUSE
        else:
            self._tried.append(seconds)
            if len(self._tried) == 3:
                if min(self._tried[1:]) < GAIN * self._alone:
                    self._several, self._calm, self._tried = True, 0, []
                else:
                    self._give_up()

    def _give_up(self) -> None:
        self._several, self._calm, self._tried = False, 0, []
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._rest = self._pause
