"""A safe interpreter for the pickle inside a PyTorch checkpoint.

A pickle is a program for a stack machine, and Python's own interpreter imports and calls whatever the program
names. This one knows only the opcodes that `torch.save` emits (protocol 2). A name such as
`torch._utils._rebuild_tensor_v2` is compared as text and never imported; calling it yields a record of numbers
that were checked against the archive. The work is linear in the size of the program, which is bounded.
"""

import itertools
import math
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import CheckpointError
from ..storage import names

_MOST_OPCODES = 1 << 18
_MOST_ITEMS = 1 << 16
_DEEPEST = 64
_LONGEST_GLOBAL = 256
_LARGEST_KEY = 1 << 31  # larger integers could be chosen to collide in a dict

_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
# The type of the values in the file, and that of the array they become; <u2 holds the bits of a bfloat16.
_STORAGES = {
    "torch.FloatStorage": ("<f4", "f4"), "torch.DoubleStorage": ("<f8", "f8"),
    "torch.HalfStorage": ("<f2", "f4"), "torch.BFloat16Storage": ("<u2", "f4"),
    "torch.LongStorage": ("<i8", "i8"), "torch.IntStorage": ("<i4", "i8"),
}
_GLOBALS = {_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_STORAGES}


class Global(NamedTuple):
    """One of the names that a checkpoint may use."""

    name: str


class Storage(NamedTuple):
    """Record `key` of the archive: `numel` values of type `stored` in the file, of type `native` once read."""

    key: str
    stored: str
    native: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage: the element at an index is at `offset` + Σ index · stride. All elements lie inside the
    storage, and there are no more of them than it has."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Container:
    """A tuple, list, dict or OrderedDict. Once inside another container it can no longer change (`closed`): so none
    contains itself, and `depth` and `plain` (only values and tensors inside) need no second look."""

    __slots__ = ("kind", "items", "depth", "closed", "plain")

    def __init__(self, kind: str, items: Any) -> None:
        self.kind = kind
        self.items = items
        self.depth = 1
        self.closed = False
        self.plain = True

    @property
    def is_dict(self) -> bool:
        return self.kind in ("dict", "OrderedDict")


def loads(data: bytes, sizes: Mapping[str, int], place: str) -> Any:
    """The object that `data` describes: None, bool, int, float, str, Tensor, or a Container of such.

    `sizes` is the size in bytes of each storage record, by key. Raises CheckpointError, beginning with `place`, for
    an opcode, a global, a persistent id or a call that a checkpoint of tensors does not have; for tensors that
    exceed their record; and for more than 4,096 tensors, 64 levels, or 262,144 opcodes.
    """
    return _Machine(data, sizes, place).run()


class _Machine:
    def __init__(self, data: bytes, sizes: Mapping[str, int], place: str) -> None:
        self.data = data
        self.sizes = sizes
        self.place = place
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.tensors = 0

    def run(self) -> Any:
        if self._bytes(2) != b"\x80\2":
            self._refuse("a pickle of protocol 2", repr(self.data[:2]))
        for count in itertools.count():
            opcode = self._bytes(1)
            if opcode == pickle.STOP:
                break
            if opcode not in _OPCODES:
                self._refuse("an opcode of torch.save", repr(opcode))
            if count == _MOST_OPCODES:
                self._refuse(f"at most {_MOST_OPCODES} opcodes", "more")
            _OPCODES[opcode](self)
        if self.marks or len(self.stack) != 1 or self.position != len(self.data):
            self._refuse("one object and the end", f"{len(self.stack)}, {len(self.marks)} marks")
        return self.stack[0]

    def _refuse(self, expected: str, found: str) -> NoReturn:
        raise CheckpointError(f"{self.place}: byte {self.position}: expected {expected}, found {found:.300}")

    # The program and the stack.

    def _bytes(self, count: int) -> bytes:
        data = self.data[self.position : self.position + count]
        if len(data) < count:
            self._refuse(f"{count} more bytes", str(len(data)))
        self.position += count
        return data

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """The topmost `count` values, none of which may lie below the last mark."""
        first = len(self.stack) - count
        if first < (self.marks[-1] if self.marks else 0):
            self._refuse(f"{count} values on the stack", "fewer")
        values = self.stack[first:]
        del self.stack[first:]
        return values

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self._refuse("a mark on the stack", "none")
        values = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def put(self, layout: str) -> None:
        index = self._number(layout)
        if index >= _MOST_OPCODES:
            self._refuse(f"a memo of at most {_MOST_OPCODES}", str(index))
        (value,) = self.pop(1)
        self.push(value)
        self.memo[index] = value

    def get(self, layout: str) -> None:
        index = self._number(layout)
        if index not in self.memo:
            self._refuse("a memo that was set", str(index))
        self.push(self.memo[index])

    # Values.

    def number(self, layout: str) -> None:
        self.push(self._number(layout))

    def long(self) -> None:
        count = self._number("B")
        if count > 8:
            self._refuse("an integer of 64 bits", f"{count} bytes")
        self.push(int.from_bytes(self._bytes(count), "little", signed=True))

    def text(self) -> None:
        raw = self._bytes(self._number("<I"))
        try:
            self.push(raw.decode())
        except UnicodeDecodeError:
            self._refuse("text in UTF-8", repr(raw[:50]))

    def global_name(self) -> None:
        end = self.position
        for _ in range(2):
            end = self.data.find(b"\n", end, self.position + _LONGEST_GLOBAL) + 1
            if not end:
                self._refuse("the name of a global", repr(self.data[self.position :][:20]))
        module, attribute, _ = self._bytes(end - self.position).decode(errors="replace").split("\n")
        name = f"{module}.{attribute}"
        if name not in _GLOBALS:
            self._refuse("the globals of a state of tensors", f"the global {name!r}")
        self.push(Global(name))

    # Containers.

    def empty(self, kind: str) -> None:
        self.push(Container(kind, [] if kind == "list" else {}))

    def pack(self, items: list[Any]) -> None:
        made = Container("tuple", items)
        self._adopt(made, items)
        self.push(made)

    def append(self, items: list[Any]) -> None:
        target = self._target(("list",))
        self._adopt(target, items)
        target.items += items
        self._require_few(target)

    def set_items(self, items: list[Any]) -> None:
        target = self._target(("dict", "OrderedDict"))
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            self._refuse("pairs of key and value", f"{len(items)} objects")
        for key in keys:
            if type(key) is not str and not (type(key) is int and 0 <= key < _LARGEST_KEY):
                self._refuse("keys of text or small integers", described(key))
        self._adopt(target, values)
        before = len(target.items)
        target.items.update(zip(keys, values, strict=True))
        if len(target.items) != before + len(keys):
            self._refuse("each key of a dict once", "one twice")
        self._require_few(target)

    def _target(self, kinds: tuple[str, ...]) -> Container:
        (target,) = self.pop(1)
        if not isinstance(target, Container) or target.kind not in kinds:
            self._refuse(f"{' or '.join(kinds)} to add to", described(target))
        self.push(target)
        return target

    def _adopt(self, parent: Container, children: Iterable[Any]) -> None:
        for child in children:
            if isinstance(child, Container):
                child.closed = True
                parent.depth = max(parent.depth, child.depth + 1)
            plain = not isinstance(child, Global | Storage | Container) or (
                isinstance(child, Container) and child.plain
            )
            parent.plain = parent.plain and plain
            if not parent.plain and parent.kind != "tuple":
                self._refuse("plain values and tensors", described(child))
        if parent.closed:
            self._refuse("no change to what is inside another container", f"one to a {parent.kind}")
        if parent.depth > _DEEPEST:
            self._refuse(f"at most {_DEEPEST} levels", "more")

    def _require_few(self, container: Container) -> None:
        if len(container.items) > _MOST_ITEMS:
            self._refuse(f"at most {_MOST_ITEMS} items in a {container.kind}", "more")

    # Calls.

    def build(self) -> None:
        """Sets attributes of an object: on a state's OrderedDict, the versions of its modules, which are ignored."""
        (attributes,) = self.pop(1)
        target = self._target(("OrderedDict",))
        if not isinstance(attributes, Container) or attributes.kind != "dict" or target.closed:
            self._refuse("a dict of attributes of an OrderedDict", described(attributes))

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(arguments, Container) or arguments.kind != "tuple":
            self._refuse("a tuple of arguments", described(arguments))
        match function, arguments.items:
            case Global(name), [] if name == _ORDERED_DICT:
                self.push(Container("OrderedDict", {}))
            case Global(name), [Storage() as storage, offset, shape, strides, bool(), hooks] if (
                name == _REBUILD_TENSOR and _is_no_hooks(hooks)
            ):
                self.push(self._tensor(storage, offset, shape, strides))
            case Global(name), [Tensor() as tensor, bool(), hooks] if (
                name == _REBUILD_PARAMETER and _is_no_hooks(hooks)
            ):
                self.push(tensor)
            case _:
                found = f"{described(function)} of ({_listed(arguments.items)})"
                self._refuse("a call that makes a tensor", found)

    def persistent_id(self) -> None:
        (identity,) = self.pop(1)
        match identity.items if isinstance(identity, Container) and identity.kind == "tuple" else None:
            case ["storage", Global(name), str(key), str(), int(numel)] if (
                name in _STORAGES and key in self.sizes
            ):
                stored, native = _STORAGES[name]
            case items:
                self._refuse("the id of a storage in the archive", _listed(items or [identity]))
        if type(numel) is not int or numel * np.dtype(stored).itemsize != self.sizes[key]:
            self._refuse(f"a {name} of {self.sizes[key]} bytes in the record {key!r:.30}", f"{numel} values")
        found = Storage(key, stored, native, numel)
        # A record may be referred to several times; torch uses the type of the first.
        if self.storages.setdefault(key, found) != found:
            self._refuse(f"one type of values in the record {key!r:.30}", f"a {name} too")
        self.push(found)

    def _tensor(self, storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
        self.tensors += 1
        if self.tensors > names.MOST_DATASETS:
            self._refuse(f"at most {names.MOST_DATASETS} tensors", "more")
        for sizes in (shape, strides):
            if not isinstance(sizes, Container) or sizes.kind != "tuple":
                self._refuse("tuples as shape and strides", described(sizes))
        shape, strides = tuple(shape.items), tuple(strides.items)
        sound = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
        if len(shape) != len(strides) or not sound:
            found = f"{described(offset)}, ({_listed(shape)}), ({_listed(strides)})"
            self._refuse("an offset, a shape and as many strides, each 0 or more", found)
        names.check_shape(shape, f"{self.place}: byte {self.position}")
        numel = math.prod(shape)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        # With strides of 0 a small record would become a huge array. An empty tensor may begin anywhere.
        if numel and (last >= storage.numel or numel > storage.numel):
            self._refuse(
                f"a tensor inside the {storage.numel} values of record {storage.key!r:.30}",
                f"offset {offset}, shape {shape}, strides {strides}",
            )
        return Tensor(storage, offset, shape, strides)


def described(value: Any) -> str:
    """A short description of a value, for error messages."""
    if isinstance(value, Container):
        return f"{value.kind} of {len(value.items)}"
    if isinstance(value, Global):
        return f"the global {value.name}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {value.shape}"
    if isinstance(value, Storage):
        return f"the storage {value.key!r:.30}"
    # Sliced first: the repr of four megabytes of text is larger still.
    return repr(value[:50] if isinstance(value, str) else value)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(described(value) for value in values[:8])


def _is_no_hooks(value: Any) -> bool:
    return isinstance(value, Container) and value.kind == "OrderedDict" and not value.items


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    pickle.MARK: _Machine.mark,
    pickle.BINPUT: lambda machine: machine.put("B"),
    pickle.LONG_BINPUT: lambda machine: machine.put("<I"),
    pickle.BINGET: lambda machine: machine.get("B"),
    pickle.LONG_BINGET: lambda machine: machine.get("<I"),
    pickle.NONE: lambda machine: machine.push(None),
    pickle.NEWTRUE: lambda machine: machine.push(True),
    pickle.NEWFALSE: lambda machine: machine.push(False),
    pickle.BININT1: lambda machine: machine.number("B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.LONG1: _Machine.long,
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.BINUNICODE: _Machine.text,
    pickle.GLOBAL: _Machine.global_name,
    pickle.EMPTY_LIST: lambda machine: machine.empty("list"),
    pickle.EMPTY_DICT: lambda machine: machine.empty("dict"),
    pickle.EMPTY_TUPLE: lambda machine: machine.pack([]),
    pickle.TUPLE1: lambda machine: machine.pack(machine.pop(1)),
    pickle.TUPLE2: lambda machine: machine.pack(machine.pop(2)),
    pickle.TUPLE3: lambda machine: machine.pack(machine.pop(3)),
    pickle.TUPLE: lambda machine: machine.pack(machine.pop_to_mark()),
    pickle.APPEND: lambda machine: machine.append(machine.pop(1)),
    pickle.APPENDS: lambda machine: machine.append(machine.pop_to_mark()),
    pickle.SETITEM: lambda machine: machine.set_items(machine.pop(2)),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent_id,
}
