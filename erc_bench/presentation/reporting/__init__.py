"""The figures as files, and one self-contained HTML report."""

from erc_bench.presentation.reporting.data import open_data, write_data
from erc_bench.presentation.reporting.files import Gallery, write_figures
from erc_bench.presentation.reporting.html import write_report

__all__ = ["Gallery", "open_data", "write_data", "write_figures", "write_report"]
