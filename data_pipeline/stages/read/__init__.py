"""Read documents of every format."""
