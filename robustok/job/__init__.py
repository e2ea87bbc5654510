"""The main job on one run folder: its settings and their check, its stages in order, and the final evaluation."""
