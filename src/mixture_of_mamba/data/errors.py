"""The error of a document that cannot be used, and the one place that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..modalities.input_checks import reason

__all__ = ["BadDocuments", "DataError", "data_error"]


class DataError(ValueError):
    """Names the file, the line where there is one, what is wrong there and what helps."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class BadDocuments:
    """What becomes of documents that fail, at any stage: an error, or a line in `skipped`.

    Attributes:
        skipped: of each document that was left out, its file and line and why.
    """

    def __init__(self, skip: bool) -> None:
        """skip: whether they are left out; else the first one ends the preparation."""
        self._skip = skip
        self.skipped: list[str] = []

    @contextmanager
    def document(self, where: str) -> Iterator[None]:
        """One document's work; where that fails and documents may be left out, the block ends.

        Raises:
            DataError: it failed, and `skip` is off.
        """
        try:
            yield
        except (ImportError, MemoryError):  # of the machine, not of the document
            raise
        except Exception as error:
            bad = data_error(where, error)
            if not self._skip:
                raise DataError(
                    bad.where,
                    f"{bad.what}; repair it, or leave such documents out with data.skip_bad",
                ) from error
            self.skipped.append(str(bad))


def data_error(where: str, error: Exception) -> DataError:
    """Any failure of one document as its DataError."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, (ValueError, OSError)):
        return DataError(where, reason(error))
    return DataError(where, f"{type(error).__name__}: {reason(error)}")
