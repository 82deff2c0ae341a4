"""Runs against each other, from their files alone: paired by question, with intervals that a reviewer may check.

Nothing here imports torch. The formulas and their sources stand in docs/statistics.md.
"""
