"""Bytes of one file -> pieces of text; one file per kind of format, none knows of paths, processes or passages."""
