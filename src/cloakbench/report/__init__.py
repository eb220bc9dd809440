"""The report: one HTML file with the scores and the pictures of an experiment."""

from cloakbench.report.page import make_report

__all__ = ["make_report"]
