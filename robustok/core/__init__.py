"""The ground floor: what every room needs. Imports nothing of the rooms above."""
