"""One module a verb: `add_arguments(parser)` declares its flags, `run(arguments)` does it and returns an exit code."""
