"""Tools of the tests that a person may run too."""
