"""The recipe of the bundled reader: text, training, export. Run it with ``python -m models.recipe``."""
