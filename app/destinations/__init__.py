"""Where certificates go. One module per kind; each keeps one slot per lineage."""
