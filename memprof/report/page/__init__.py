"""A stored run as one page: HTML with its style, script, charts and data inside, that asks nothing of any network."""

from memprof.report.page.render import html

__all__ = ["html"]
