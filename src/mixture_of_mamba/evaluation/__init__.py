"""Evaluation: comparisons of trained runs, their figures and reports."""
