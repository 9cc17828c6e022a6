"""Trainings: the loop that all share, what it keeps, and what it shows."""
