"""One module a verb: `add_arguments(parser)` declares its flags, `run(arguments)` does the work and returns an exit code."""
