"""The report of a training: facts in, one self-contained page out. Needs jinja2, so no daemon imports it."""

from azaion.report.page import render

__all__ = ["render"]
