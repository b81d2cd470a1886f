"""Drop duplicates: exact, near, paragraphs, substrings."""
