"""A study folder as one page, told from what it holds: no torch, no network, no image file needed.

naming                                       names from users, fit to be shown
reading ── judged · tried ── flow · words    the folder read; what follows from it
charting ── charts                           Vega-Lite as data
section ── opening · trials · outcomes · closing ── sections ── page
making ── watching                           the file; the page that follows a study at work
notebook                                     results in a notebook
"""

from frostline.reports.notebook import Progress
from frostline.reports.writer import NAME, Report, report

__all__ = ["NAME", "Progress", "Report", "report"]
