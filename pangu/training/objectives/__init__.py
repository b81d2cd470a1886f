"""What a batch asks of the network. An objective makes the batch; the network knows no objective.

    rows int32 [B, S+1] + seed -> ids, labels, loss weights, positions, query positions, attention bias

`causal` predicts the next token, and is the special case of every other.
"""
