"""The main text of Chinese web pages: the page as lines, the lines measured, the lines that are the text chosen."""
