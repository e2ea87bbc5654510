"""Other people's checkpoint layouts: one file a source, which recognises a layout, reads its sizes and maps its keys."""
