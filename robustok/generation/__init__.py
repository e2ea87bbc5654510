"""Sampling a generator: in batches, at scale in shards shared by processes, and as pairs for post-training."""
