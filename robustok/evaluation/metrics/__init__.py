"""Metrics of features and of images."""
