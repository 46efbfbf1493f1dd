"""Destination kind `files`: versioned directories with an atomic switch."""
