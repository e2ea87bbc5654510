"""Recipes: what a figure is expected to be and what it depends on, measured again and compared field by field."""
