"""Scores of answers: formulas, judges and people produce the same record."""
