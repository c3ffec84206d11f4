"""The page of a run and its plots as pictures."""

from kerasdl.report.contents import ErrorExample, RunReport, worst_errors
from kerasdl.report.page import UNKNOWN, write_report
from kerasdl.report.plots import save_plots, summary_picture

__all__ = [
    "UNKNOWN",
    "ErrorExample",
    "RunReport",
    "save_plots",
    "summary_picture",
    "worst_errors",
    "write_report",
]
