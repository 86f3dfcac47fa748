"""Distances between samples and data, the features they are measured in, and the metric card."""
