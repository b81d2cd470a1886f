"""A training step for a CPU as compiled functions, without a graph: loss, gradients, clip and AdamW in fp32.

`compiled_step` is the step. `forward_backward` is the network and its gradients, written out; `layer_kernels`,
`attention_kernels` and `loss_kernels` are its parts, made of `row_kernels`; `update_kernels` is the optimizer,
`matrix_product` the product that all use, and `crew` the threads. MindSpore's graph (`training.step`) computes the
same, and is the oracle.
"""
