"""Put a cell in the place of another one of a network, from outside: no file of `pangu.model` knows adapters."""

from collections.abc import Callable, Iterable, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from pangu.model import PanguAlpha


def stand_in(network: nn.Cell, place: str, make: Callable[[nn.Cell], nn.Cell]) -> nn.Cell:
    """Put `make(cell)` where the cell of a name is, and return it. Every other parameter keeps its name.

    added: an attribute of the new cell, the parameters that it adds, as (name, parameter).
    """
    parent, _, attribute = place.rpartition(".")
    cells = dict(network.cells_and_names())
    base = cells[place]
    # MindSpore names a parameter after the attribute alone, so that all adapters would have one name.
    names = {parameter: parameter.name for parameter in base.get_parameters()}
    cell = make(base)
    names |= {one: f"{place}.{name}" for name, one in cell.added}
    setattr(cells[parent], attribute, cell)
    for parameter, name in names.items():
        parameter.name = name
    return cell


def freeze(network: PanguAlpha, is_trained: Callable[[str], bool]) -> None:
    """Train only the parameters whose names pass."""
    for parameter in network.get_parameters():
        parameter.requires_grad = is_trained(parameter.name)


def arrays_of(parameters: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """Return copies of parameters, by name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in parameters}


def load_arrays(parameters: Iterable[Parameter], arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into parameters, by name."""
    for parameter in parameters:
        parameter.set_data(ms.Tensor(arrays[parameter.name]))


def weight(values: np.ndarray) -> Parameter:
    """Return a parameter that begins with these values, fp32."""
    return Parameter(Tensor(np.ascontiguousarray(values, np.float32)))
