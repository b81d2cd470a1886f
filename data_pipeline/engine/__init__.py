"""Runs the stages of a recipe: what a step is, what is up to date, who does the work, and how files appear whole."""
