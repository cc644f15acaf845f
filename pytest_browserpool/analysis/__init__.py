"""What a history says: best ways to run a model, regressions, imbalance, and what to do about it. Pure."""

from pytest_browserpool.analysis.examine import Analysis, examine, top_recommendation

__all__ = ["Analysis", "examine", "top_recommendation"]
