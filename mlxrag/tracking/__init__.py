"""MLflow's side of tracking; with `track.py` the only place that knows it."""
