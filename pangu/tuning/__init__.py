"""Adapt a trained model: instruction data, low-rank adapters, and their files.

Read in this order: `records` (data of every form), `template` (records to text), `record_rows` (text to rows with loss
weights), `methods` (what is trained), `finetune` (the run), `adapter_file` (what it leaves, as PEFT writes it).
"""
