"""The report of a run: one HTML page that needs nothing else. `collect` reads the run, `page` writes the page."""
