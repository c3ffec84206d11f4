"""The page of a run and its plots as pictures."""

from kerasdl.report.contents import (
    BatchPicture,
    ErrorExample,
    RunReport,
    worst_errors,
)
from kerasdl.report.formats import UNKNOWN
from kerasdl.report.page import write_report
from kerasdl.report.pictures import mosaic, picture_bytes
from kerasdl.report.plots import save_plots, summary_picture

__all__ = [
    "UNKNOWN",
    "BatchPicture",
    "ErrorExample",
    "RunReport",
    "mosaic",
    "picture_bytes",
    "save_plots",
    "summary_picture",
    "worst_errors",
    "write_report",
]
