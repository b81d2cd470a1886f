"""What each kernel of a program's blocks does. Importing this fills `values.KERNELS` and `values.EXCHANGES`."""

from parallel_strategy.virtual.kernels import attention, ends, feed_forward, linear

__all__ = ["attention", "ends", "feed_forward", "linear"]
