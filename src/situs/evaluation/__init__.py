"""Metrics of predictions, and what a comparison of them can say."""
