"""PanGu-α: the model, and everything that is done with one."""
