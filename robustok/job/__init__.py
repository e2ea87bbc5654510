"""The main job on one run folder: settings checked, stages in order, and the judgement at the end."""
