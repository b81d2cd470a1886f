"""Drop the text of evaluation sets."""
