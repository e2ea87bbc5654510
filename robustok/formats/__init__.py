"""Checkpoint layouts of other people: one file a source, which recognises it, reads its sizes and maps its keys."""
