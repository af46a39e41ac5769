"""The figures as files, and one self-contained HTML report."""

from erc_bench.report.files import Gallery, write_figures
from erc_bench.report.html import write_report

__all__ = ["Gallery", "write_figures", "write_report"]
