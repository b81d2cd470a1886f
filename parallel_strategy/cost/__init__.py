"""What an operator, a collective and a byte of memory cost on a cluster under a framework."""
