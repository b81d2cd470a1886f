"""Clean documents by the paper's rules."""
