"""The operator graph of a model, and the program that one rank runs under a strategy."""
