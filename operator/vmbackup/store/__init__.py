"""The location's directory, the copies into it, the overlays, and the node journal: all that touches files."""
