"""Judging a sample of documents by hand, in a web page that only this machine sees.

`session` draws the sample and keeps the verdicts, `server` is the web page's other side, `page.html` the page.
"""
