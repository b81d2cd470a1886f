"""Adapt a trained model: instruction data, what is trained, what is minimised, and their files.

Read in this order: `records` (data of every form), `template` (records to text), `record_rows` (text to rows with loss
weights), `methods` (what is trained, a file each), `aims` (what is minimised), `tuning_run` (the run), `finetune` (its
door), `adapter_file` and `soft_prompt` (what it leaves, as PEFT writes it), `adapted` (a base with what it left).
"""
