"""The figures as files, and one self-contained HTML report."""

from erc_bench.report.files import save_figure, write_figures
from erc_bench.report.html import write_report

__all__ = ["save_figure", "write_figures", "write_report"]
