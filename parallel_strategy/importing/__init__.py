"""A model or a whole job as others describe it, read into our files: Hugging Face, Megatron-LM, MindFormers."""
