"""The error of a document that cannot be read."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """Names the file, the line where there is one, what is wrong there and what helps."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
