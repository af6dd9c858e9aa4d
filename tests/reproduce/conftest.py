"""The small paper of tests/papers, for what reproduces it."""

from tests.papers.conftest import paper_file

__all__ = ["paper_file"]
