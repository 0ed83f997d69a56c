"""What to do with these images: experience, a forecast from it, and advice with its reasons.

knowledge (what was tried) → forecast (what to expect) → advising (what to do, and why) → planning
"""

from frostline.advice.planner import Planned, plan
from frostline.advice.recommendation import Advice, Budget, Case, Option, advise
from frostline.advice.text import TIME_MARGIN, outlook

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
