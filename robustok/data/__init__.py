"""Images and tokens: where they come from, how they are cut to size, in which order they are given out."""
