"""Training: a run, its steps, its optimizer, its data and its metrics."""
