"""Models that say how good a text is: a classifier of hashed n-grams, and the perplexity of an n-gram language model.

`reading` turns texts into what both see, `classifier` and `ngram_model` are the two models, `model_file` keeps them
on disk, `documents` reads the user's examples, `curves` and `drawing` show what a classifier is worth.
"""
