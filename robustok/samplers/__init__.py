"""Sampling algorithms over small protocols; they know no model."""
