"""Weights as small numbers: int8 with a scale a row, int4 with a scale for every 32 inputs of a row.

Read in this order: `rounding` (numbers to codes and back), `gptq` (rounding that makes up for its own error), `smooth`
(moving large inputs into the weights), `calibration` (the inputs of every layer, without MindSpore), `quantized_file`
(the format, writing it layer by layer), `dequantized` (full precision again, for every other program).

The large matrices of the layers are quantised, and a copy of the word table as the output matrix. Tables, norms and
biases stay. None of it imports MindSpore.
"""
