"""The description of tensors in a PyTorch file, read by a machine that can do nothing else.

A pickle is a program for a stack machine. This one knows the opcodes that torch.save emits for a dictionary of tensors
(protocols 2 to 5); the only things it "calls" are an OrderedDict and the two functions that put a tensor together, and
its only dictionary keys are strings. Anything else is an error, and nothing of the file is ever executed.
"""

import pickletools
from dataclasses import dataclass, field

from pangu.formats.data_types import BY_TORCH_STORAGE, DataType

INTEGERS = frozenset(["BININT", "BININT1", "BININT2", "LONG1"])
STRINGS = frozenset(["BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"])
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
SMALL_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ORDERED_DICT = ("collections", "OrderedDict")
REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")


class PickleError(ValueError):
    """The pickle is damaged, or wants more than to describe tensors."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to; it is never looked up."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    data_type: DataType
    key: str


@dataclass(frozen=True)
class View:
    """A tensor: a window of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_views(content: bytes) -> dict[str, View]:
    """Return {name: tensor} of data.pkl. What else stands in the dictionary is left out. Raises PickleError."""
    try:
        document = Machine().run(content)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"damaged: {' '.join(str(error).split())}") from None
    if isinstance(document, dict) and isinstance(document.get("state_dict"), dict):
        document = document["state_dict"]
    if not isinstance(document, dict):
        raise PickleError("it holds no dictionary of tensors")
    return {name: view for name, view in document.items() if isinstance(view, View)}


@dataclass
class Machine:
    """The stack machine. marks: the stacks set aside by MARK, as in Python's own unpickler."""

    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def run(self, content: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise PickleError("it has no end")

    def step(self, name: str, argument: object) -> None:
        stack = self.stack
        if name in INTEGERS or name in STRINGS or name == "BINFLOAT":
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in SMALL_TUPLES:
            count = SMALL_TUPLES[name]
            items = tuple(stack.pop() for _ in range(count))[::-1]
            stack.append(items)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(str(argument))] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(str(argument))])
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name == "TUPLE":
            items = tuple(self.pop_mark())
            self.stack.append(items)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "APPEND":
            self.extend(stack.pop())
        elif name == "APPENDS":
            self.extend(*self.pop_mark())
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self.update([key, value])
        elif name == "SETITEMS":
            self.update(self.pop_mark())
        elif name == "GLOBAL":
            stack.append(Global(*str(argument).split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(str(module), str(attribute)))
        elif name == "REDUCE":
            arguments, callee = stack.pop(), stack.pop()
            stack.append(call(callee, arguments))
        elif name == "BINPERSID":
            stack.append(storage(stack.pop()))
        elif name == "BUILD":
            # The attributes of an OrderedDict: `_metadata`, which a module's state carries and nobody needs here.
            stack.pop()
            if not isinstance(stack[-1], dict):
                raise PickleError("it sets attributes of something that is no dictionary")
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"opcode {name}, which no file of weights needs")

    def pop_mark(self) -> list:
        """Return what was pushed since the last MARK."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def extend(self, *items: object) -> None:
        if not isinstance(self.stack[-1], list):
            raise PickleError("it appends to something that is no list")
        self.stack[-1].extend(items)

    def update(self, items: list) -> None:
        target, keys, values = self.stack[-1], items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise PickleError("it has a dictionary whose keys are not names")
        target.update(zip(keys, values, strict=True))


def call(callee: object, arguments: object) -> object:
    """Return the value of one of the three calls that describe tensors."""
    if not isinstance(callee, Global) or not isinstance(arguments, tuple):
        raise PickleError("it calls something that is no function")
    if (callee.module, callee.name) == ORDERED_DICT and not arguments:
        return {}
    if (callee.module, callee.name) == REBUILD_PARAMETER and arguments and isinstance(arguments[0], View):
        return arguments[0]
    if (callee.module, callee.name) == REBUILD_TENSOR:
        match arguments:
            case (Storage() as held, int(offset), tuple(shape), tuple(stride), *_):
                if all(type(number) is int and number >= 0 for number in (offset, *shape, *stride)):
                    return View(held, offset, shape, stride)
        raise PickleError("a tensor is not described as PyTorch does")
    raise PickleError(f"it wants to call {callee.module}.{callee.name}, which no file of weights needs"[:200])


def storage(identifier: object) -> Storage:
    match identifier:
        case ("storage", Global(module="torch" | "torch.storage", name=str(name)), str(key), str(), int()):
            if name in BY_TORCH_STORAGE:
                return Storage(BY_TORCH_STORAGE[name], key)
            raise PickleError(f"a tensor of type {name[:40]}")
    raise PickleError("a tensor's storage is not described as PyTorch does")
