"""Serve all three packages: errors, files that appear whole. Imports nothing of the project and nothing heavy."""
