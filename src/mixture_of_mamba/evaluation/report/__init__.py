"""report.html: one self-contained page about a comparison; gallery.png: its generated pictures."""

from .gallery import write_gallery
from .page import write_report

__all__ = ["write_gallery", "write_report"]
