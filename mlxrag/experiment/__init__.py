"""Compare systems with statistics, and say what to change next."""
