"""Sampling at scale: images shared out in shards over any number of processes, to tokens, images and features."""
