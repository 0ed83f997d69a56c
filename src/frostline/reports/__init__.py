"""The report of a study folder as one HTML page: needs no torch, no network and no image file.

display_names                          names from users, fit for display
study_reader                           the folder's contents
prediction_table, tried_strategies     metrics of predictions; a row for each strategy
network_chart, conclusions             learning rates by stage; the study in ten sentences
chart_parts, charts                    Vega-Lite specifications
section, *_section, sections, page     the sections, and the page rendered from them
writer, live_page                      the file; the page of a running study
check_page                             the page of `frostline check`
notebook                               results in a notebook
"""

from frostline.reports.writer import NAME, Report, report

__all__ = ["NAME", "Report", "report"]
