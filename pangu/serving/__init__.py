"""Serve a model over HTTP in OpenAI's protocol.

Read in this order: `protocol` (what may be asked), `scheduler` (continuous batching on one engine thread),
`application` (routes and answers), `guard` (who may ask, and how much), `statistics` (what Prometheus reads),
`playground.html`.
"""
