"""Drop documents by rules, languages and address lists."""
