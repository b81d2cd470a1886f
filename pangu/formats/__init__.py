"""Weights of PanGu-α from one form into another: released shards, MindSpore, safetensors, the PyTorch port's names.

    source.py                what all readers have in common, and finding out which one a path needs
    released.py              512 `filerted_*.ckpt`, their strategy file and three `.npy`
    mindspore_checkpoint.py  one `.ckpt`
    safetensors_file.py      `.safetensors`
    torch_file.py            `pytorch_model.bin`, without PyTorch
    strategy.py, layout.py   which part of which parameter a rank holds
    names.py                 the one table of parameter names
    model_shape.py           the sizes that the weights themselves tell
    plan.py, write.py        what goes where; writing it with one parameter in memory

None of it imports MindSpore.
"""
