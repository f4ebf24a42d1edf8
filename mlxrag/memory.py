"""The budget: what is held, what is reserved, what would fit."""
