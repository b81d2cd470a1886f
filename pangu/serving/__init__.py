"""Serve a model over HTTP in OpenAI's protocol.

Read in this order: `protocol` (what may be asked), `scheduler` (continuous batching on one engine thread, which tells
`events`), `prefix_cache` and `word_filter` (what a row keeps, what an answer may not say), `application` and `answers`
(routes, and the form of answers), `guard` and `connection` (who may ask, and how much), `statistics` (what Prometheus
reads), `playground.html`.
"""
