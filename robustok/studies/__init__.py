"""Studies: runs of the main job that differ in named settings, and what their figures say together."""
