"""Evaluate a model: the tasks of the PanGu-α paper, zero-, one- and few-shot.

Read in this order: `tasks/*.yaml` (what a task is), `task` (their schema), `document_forms` (data files to documents),
`requests` (documents and shots to what is asked of the model), `metrics`, `evaluate` (the loop), `published` (the
paper's figures), `page` (the HTML report).
"""
