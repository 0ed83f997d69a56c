"""Recommend a strategy for given images, from earlier trials.

knowledge (earlier trials) → forecast (expected accuracy) → recommendation (with reasons) → planner (`plan`)
"""

from frostline.advice.advice_wording import TIME_MARGIN, outlook
from frostline.advice.planner import Planned, plan
from frostline.advice.recommendation import Advice, Budget, Case, Option, advise

__all__ = [
    "TIME_MARGIN",
    "Advice",
    "Budget",
    "Case",
    "Option",
    "Planned",
    "advise",
    "outlook",
    "plan",
]
