"""Ask your documents with a local model, make it better at them, and prove it."""

__version__ = "0.1.0"
