"""Datasets, which models are trained on: read, checked as a whole, and kept."""
