"""A strategy written down for those who launch it: MindSpore, msrun, HCCL, MindFormers, Megatron and MindSpeed."""
