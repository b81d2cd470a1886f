"""The kept lines of a page as text or Markdown: what they are in, blocks of them, the two writers."""
