"""Whether several threads are worth it for a step, found by timing the steps themselves.

A step of a small model takes less than a millisecond, in which threads meet many times. On an idle
machine two of them halve the time; where another process has one of the cores, each meeting waits
until the scheduler lets the other thread go on, and a step takes up to a hundred times as long.
Which of the two a machine is changes while a program runs, so it cannot be decided once.
"""

from __future__ import annotations

__all__ = ["Pace"]

#: Steps on one thread before another attempt.
FIRST_PAUSE, LONGEST_PAUSE = 8, 1024
#: Several threads are kept where they take less than this share of one thread's time.
GAIN = 0.95
#: So many times one thread's time, and the other core is busy.
STALL = 2.0
#: Steps within which a second stall counts: one alone may be anything.
NEAR = 16
#: Steps without a stall until earlier ones count no more.
FORGET = 64
#: Seconds without a step, after which threads sleep and caches are cold.
IDLE = 0.02


class Pace:
    """Chooses the threads of the next step from the times of the steps before it.

    Steps begin on one thread. After a pause several threads get an attempt of three steps (in the
    first of them they have to wake up). Where an attempt pays off they stay, until steps stall.
    After an attempt that failed, or stalls, the pause doubles. So on a busy machine the attempts
    take a small share of the time. A step after a break of the caller is not judged. Threads do not
    change results.

    Args:
        most: threads of an attempt; with 1 nothing is tried.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone = float("inf")  # seconds of a step on one thread, the recent minimum
        self._pause = FIRST_PAUSE
        self._rest = FIRST_PAUSE  # steps on one thread until the next attempt
        self._tried: list[float] = []
        self._several = False  # whether the last attempt paid off
        self._calm = NEAR  # steps on several threads since the last stall
        self._end = float("-inf")

    def threads(self) -> int:
        """Threads of the next step."""
        return self.most if self._several or self._rest <= 0 else 1

    def took(self, threads: int, start: float, end: float) -> None:
        """Note a step on so many threads, and when it ran, in seconds of any clock."""
        seconds, idle, self._end = end - start, start - self._end > IDLE, end
        if self.most == 1 or idle:
            return
        if threads == 1:
            # The lowest counts, since a time can only be too long; it is forgotten slowly.
            self._alone = min(self._alone * 1.01, seconds)
            self._rest -= 1
        elif not self._several:
            self._tried.append(seconds)
            if seconds > STALL * self._alone or len(self._tried) >= 3:
                self._decide()
        elif seconds > STALL * self._alone:
            if self._calm < NEAR:
                self._give_up()
            self._calm = 0
        else:
            self._calm += 1
            if self._calm == FORGET:
                self._pause = FIRST_PAUSE

    def _decide(self) -> None:
        """At the end of an attempt."""
        tried = self._tried  # another thread may begin the next attempt meanwhile
        if len(tried) >= 3 and min(tried[1:]) < GAIN * self._alone:
            self._several, self._calm, self._tried = True, NEAR, []
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._several, self._calm, self._tried = False, NEAR, []
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._rest = self._pause
