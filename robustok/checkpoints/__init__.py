"""Our own checkpoints on disk: written whole or not at all, verified before they are read."""
