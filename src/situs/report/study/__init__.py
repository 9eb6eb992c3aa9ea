"""A study as a page, in sentences and as Markdown."""

from situs.report.study.page import run_study, write_page

__all__ = ["run_study", "write_page"]
