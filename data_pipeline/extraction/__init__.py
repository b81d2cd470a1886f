"""Main text of Chinese web pages: patterns, features of text lines, and the choice of the lines that are the text."""
