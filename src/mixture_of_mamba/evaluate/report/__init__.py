"""report.html: one self-contained page about a comparison."""

from .page import write_report

__all__ = ["write_report"]
