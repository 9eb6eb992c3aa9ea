"""A study as a page, in sentences and as Markdown."""

from situs.report.study.page import study, write_page

__all__ = ["study", "write_page"]
