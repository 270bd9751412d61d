"""Hostile pickles inside a valid archive; each differs from the honest file in one thing. See attacks_torch.py."""

import struct

import numpy as np

from tests.checkpoints.torch_forge import (
    FALSE, ORDERED, REBUILD, Attack, checkpoint, integer, integers, program, state, storage, tensor, text,
)

PICKLE_ATTACKS: dict[str, Attack] = {}


def _file(name: str, data: bytes, reason: str) -> None:
    assert name not in PICKLE_ATTACKS
    PICKLE_ATTACKS[name] = Attack(data, reason)


def _pickle(name: str, body: bytes, reason: str) -> None:
    _file(name, checkpoint(body), reason)


def _weight(name: str, reason: str, **changes) -> None:
    _file(name, checkpoint(state(a=tensor(**changes))), reason)


def _beside(name: str, value: bytes, reason: str) -> None:
    """A valid model, and one more value in the same dict."""
    _file(name, checkpoint(state(a=tensor()) + text("other") + value + b"s"), reason)


# Calls and names.

_CALL = b"(" + text("touch /tmp/owned") + b"tR"
_UNKNOWN = "found the global"
_pickle("os.system", b"cos\nsystem\n" + _CALL, "found the global 'os.system'")
_pickle("posix.system", b"cposix\nsystem\n" + _CALL, "found the global 'posix.system'")
_pickle("builtins.eval", b"cbuiltins\neval\n" + _CALL, "found the global 'builtins.eval'")
_pickle("builtins.getattr", b"cbuiltins\ngetattr\n" + _CALL, _UNKNOWN)
_beside("os.system next to a sound model", b"cos\nsystem\n" + _CALL, "found the global 'os.system'")
_beside("a class without a call", b"csubprocess\nPopen\n", "found the global 'subprocess.Popen'")
_beside("argparse.Namespace", b"cargparse\nNamespace\n)\x81", "found the global 'argparse.Namespace'")
_pickle("torch.hub.load", b"ctorch.hub\nload\n" + _CALL, "found the global 'torch.hub.load'")
_pickle("torch.load", b"ctorch\nload\n" + _CALL, _UNKNOWN)
_pickle("numpy's load", b"cnumpy\nload\n" + _CALL, _UNKNOWN)
_pickle("codecs.encode", b"c_codecs\nencode\n" + _CALL, _UNKNOWN)
_pickle("attribute of an allowed module", b"ccollections\n_sys.modules\n", _UNKNOWN)
_pickle("attribute of an allowed class", b"ccollections\nOrderedDict.fromkeys\n)R", _UNKNOWN)
_pickle("allowed name in another module", b"cevil\nOrderedDict\n)R", _UNKNOWN)
_pickle("allowed name with a carriage return", b"ccollections\r\nOrderedDict\n)R", _UNKNOWN)
_pickle("global without an end", b"c" + b"a" * 100_000, f"expected the name of a global, found {b'a' * 20}")
_pickle("global of 100,000 bytes", b"c" + b"a" * 100_000 + b"\nb\n", "expected the name of a global")
_pickle("global that is not UTF-8", b"c\xff\n\xff\n", "found the global '\ufffd.\ufffd'")
_pickle("STACK_GLOBAL", b"\x8c\2os\x8c\6system\x93" + _CALL, "opcode")
_pickle("STACK_GLOBAL of old strings", text("os") + text("system") + b"\x93" + _CALL, "opcode")
_pickle("INST", b"(" + text("touch /tmp/owned") + b"ios\nsystem\n", "opcode")
_pickle("OBJ", b"(cos\nsystem\n" + text("touch /tmp/owned") + b"o", _UNKNOWN)
_pickle("OBJ of an OrderedDict", b"(ccollections\nOrderedDict\no", "opcode")
_pickle("NEWOBJ", b"ccollections\nOrderedDict\n)\x81", "opcode")
_pickle("NEWOBJ_EX", b"ccollections\nOrderedDict\n)}\x92", "opcode")
_pickle("EXT1", b"\x82\1", "opcode")
_pickle("EXT2", b"\x83\1\0", "opcode")
_pickle("EXT4", b"\x84\1\0\0\0", "opcode")
_pickle("call of a storage class", b"ctorch\nFloatStorage\n)R", "expected a call that makes a tensor")
_pickle("call of a text", text("os.system") + b")R", "expected a call")
_pickle("call with a list", b"ccollections\nOrderedDict\n]R", "expected a tuple of arguments")
_pickle("call with a number", b"ccollections\nOrderedDict\nK\1R", "expected a tuple of arguments")
_pickle("OrderedDict of pairs", b"ccollections\nOrderedDict\n(]tR", "expected a call")
_pickle("Parameter of a text", b"ctorch._utils\n_rebuild_parameter\n(" + text("a") + FALSE + ORDERED + b"tR",
        "expected a call")
_PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
_pickle("Parameter of a tensor with hooks",
        state(a=_PARAMETER + b"(" + tensor() + FALSE + ORDERED + text("a") + integer(1) + b"stR"), "expected a call")
_pickle("Parameter of a tensor by another call", state(a=REBUILD + b"(" + tensor() + FALSE + ORDERED + b"tR"),
        "expected a call")
_weight("tensor by another call", "expected a call", function=_PARAMETER)
_weight("another function of torch", _UNKNOWN, function=b"ctorch._utils\n_rebuild_sparse_tensor\n")
_weight("hooks", "expected a call", last=FALSE + ORDERED + text("a") + integer(1) + b"s")
_weight("hooks that are a number", "expected a call", last=FALSE + b"K\1")
_weight("hooks in a dict", "expected a call", last=FALSE + b"}")
_weight("metadata that negates", "expected a call", last=FALSE + ORDERED + b"}" + text("neg") + b"\x88s")

# Storages.

_pickle("PERSID", b"P0\n", "opcode")
_pickle("persistent id that is a text", text("0") + b"Q", "expected the id of a storage")
_pickle("persistent id that is empty", b")Q", "expected the id of a storage")
_pickle("persistent id that is a dict", b"}K\0NsQ", "expected the id of a storage in the archive, found dict of 1")
_pickle("persistent id of a module", storage().replace(text("storage"), text("module")),
        "expected the id of a storage")
_weight("storage class that is a text", "expected the id of a storage",
        stored=storage().replace(b"ctorch\nFloatStorage\n", text("FloatStorage")))
_weight("storage class that is a function", "expected the id of a storage",
        stored=storage().replace(b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"))
_weight("record that is not there", "found 'storage', the global torch.FloatStorage, '1', 'cpu', 4",
        stored=storage(key="1"))
_weight("record outside the archive", "expected the id of a storage", stored=storage(key="../../etc/passwd"))
_weight("record that is the program", "expected the id of a storage", stored=storage(key="data.pkl"))
_weight("more values than the record", "expected a torch.FloatStorage of 16 bytes", stored=storage(numel=5))
_weight("fewer values than the record", "of 16 bytes", stored=storage(numel=3))
_file("a truth for the number of values",
      checkpoint(state(a=tensor(storage(numel=1).replace(integer(1) + b"tQ", b"\x88tQ"), 0, (1,), (1,))),
                 {"0": bytes(4)}), "of 4 bytes")
_weight("values below zero", "of 16 bytes", stored=storage(numel=-4))
_weight("2^62 + 4 values", "of 16 bytes", stored=storage(numel=(1 << 62) + 4))
_weight("wider type than the record", "expected a torch.DoubleStorage of 16", stored=storage("DoubleStorage"))
_weight("narrower type than the record", "expected a torch.HalfStorage of 16", stored=storage("HalfStorage"))
_pickle("two types in one record", state(a=tensor(), b=tensor(storage("IntStorage"))),
        "expected one type of values in the record '0'")
_weight("complex storage", _UNKNOWN, stored=storage("ComplexFloatStorage", numel=2))
_weight("quantized storage", _UNKNOWN, stored=storage("QUInt8Storage", numel=16))
_weight("untyped storage", _UNKNOWN, stored=storage("storage.UntypedStorage", numel=16))
_beside("storage as a value", storage(), "expected plain values and tensors, found the storage '0'")
_beside("storage in a tuple as a value", storage() + b"\x85", "expected plain values and tensors")
_beside("storage before a number in a tuple as a value", storage() + b"K\1\x86", "expected plain values and tensors")
_beside("class as a value", b"ctorch\nFloatStorage\n", "expected plain values and tensors")

# Shapes, offsets and strides.

_INSIDE = "expected a tensor inside the 4 values"
_WHOLE = "expected an offset, a shape and as many strides"
_weight("offset out of the record", _INSIDE, offset=1)
_weight("offset of 2^62", _INSIDE, offset=1 << 62)
_weight("offset below zero", _WHOLE, offset=-1)
_weight("offset that is a text", _WHOLE, offset=text("0"))
_weight("shape larger than the record", _INSIDE, shape=(2, 3))
_weight("shape of 2^40", _INSIDE, shape=(1 << 40,), strides=(1,))
_weight("shape of 2^62 squared", "expected a shape of at most", shape=(1 << 62, 1 << 62))
_weight("shape that wraps to the record", "expected a shape of at most", shape=((1 << 62) + 1, 4))
_weight("shape of 2^62 and zero", "expected a shape of at most",
        shape=(0, 1 << 62, 1 << 62), strides=(0, 0, 0))
_weight("shape below zero", _WHOLE, shape=(-2, -2))
_weight("shape of fractions", _WHOLE, shape=b"G" + struct.pack(">d", 2) + integer(2) + b"\x86")
_weight("shape of truths", _WHOLE, shape=b"\x88\x88\x86")
_weight("shape of shapes", _WHOLE, shape=integers(2) + integers(2) + b"\x86")
_weight("shape that is a list", "expected tuples as shape", shape=b"]")
_weight("shape that is a number", "expected tuples as shape", shape=integer(4))
_weight("strides that are a list", "expected tuples as shape and strides, found list of 0", strides=b"]")
_weight("shape of nine dimensions", "expected at most 8 dimensions", shape=(1,) * 9, strides=(1,) * 9)
_weight("shape of 10,000 dimensions", "dimensions", shape=b"(" + b"K\1" * 10_000 + b"t",
        strides=b"(" + b"K\1" * 10_000 + b"t")
_weight("shape of long texts", _WHOLE, shape=b"(" + text("a" * 1_000_000) + b"q\0" + b"h\0" * 50_000 + b"t")
_weight("strides out of the record", _INSIDE, strides=(3, 1))
_weight("strides of 2^62", _INSIDE, strides=(1 << 62, 1 << 62))
_weight("strides below zero", _WHOLE, offset=3, strides=(-2, -1))
_weight("fewer strides than dimensions", _WHOLE, strides=(1,))
_weight("strides of 0 that make 2^40 values", _INSIDE, shape=(1 << 20, 1 << 20), strides=(0, 0))
_weight("strides of 0 that make five values", _INSIDE, shape=(5,), strides=(0,))
_weight("windows that overlap", _INSIDE, shape=(3, 2), strides=(1, 1))
_file("35 tensors on the same megabyte",
      checkpoint(state(**{str(i): tensor(storage(numel=1 << 18), 0, (1 << 18,), (1,)) for i in range(35)}),
                 {"0": bytes(1 << 20)}), "expected tensors that take")
_pickle("4,097 tensors by the same call",
        tensor()[:-1].replace(REBUILD, REBUILD + b"q\0") + b"q\1" + b"](" + b"h\0h\1R" * 4097 + b"e",
        "at most 4096 tensors")

# Values.

for _type, _kind in (("<f4", "FloatStorage"), ("<f8", "DoubleStorage"), ("<f2", "HalfStorage")):
    for _value in (np.nan, np.inf, -np.inf):
        _values = np.array([0, 1, _value, 2], _type).tobytes()
        _file(f"{_value} in a {_kind}", checkpoint(state(a=tensor(storage(_kind))), {"0": _values}),
              f"a: expected finite values, found {_value}")
_file("nan in a BFloat16Storage",
      checkpoint(state(a=tensor(storage("BFloat16Storage"))), {"0": bytes(6) + b"\xc0\x7f"}), "found nan")

# Memory and time.

_file("nine bytes: memo 0x1fffffff", checkpoint(pickled=b"\x80\2Nr\xff\xff\xff\x1f."), "expected a memo of")
_pickle("memos spread out", b"N" + b"".join(b"r" + struct.pack("<I", 1 << i) for i in range(32)), "a memo of")
_pickle("memo that was not set", b"h\0", "expected a memo that was set")
_pickle("memo 0xffffffff that was not set", b"j\xff\xff\xff\xff", "expected a memo that was set")
_pickle("memo of an empty stack", b"q\0", "expected 1 values on the stack")
_pickle("memo one larger than the largest", b"Nr" + struct.pack("<I", 1 << 18), "expected a memo of")
_pickle("LONG1 of 9 bytes", b"\x8a\x09" + bytes(9), "expected an integer of 64 bits")
_pickle("LONG1 of 255 bytes", b"\x8a\xff" + b"\x7f" * 255, "expected an integer of 64 bits")
_pickle("LONG4 of 2 GB", b"\x8b\xff\xff\xff\x7f", "opcode")
_pickle("LONG4 below zero", b"\x8b\xff\xff\xff\xff", "opcode")
_pickle("text of 4 GB", b"X\xff\xff\xff\xff", "more bytes")
_pickle("text of 2^63 bytes", b"\x8d" + b"\xff" * 7 + b"\x7f", "opcode")
_pickle("bytes of 2^63 bytes", b"\x8e" + b"\xff" * 7 + b"\x7f", "opcode")
_pickle("bytearray of 2^40 bytes", b"\x96" + struct.pack("<Q", 1 << 40), "opcode")
_pickle("decimal integer of 100,000 digits", b"I" + b"9" * 100_000 + b"\n", "opcode")
_beside("tuples 64 deep in a dict", b")" + b"\x85" * 63, "expected at most 64 levels")
_pickle("tuples 20,000 deep", b")" + b"\x85" * 20_000, "expected at most 64 levels")
_pickle("lists 20,000 deep", b"]" * 20_000 + b"a" * 19_999, "expected at most 64 levels")
_pickle("dicts 1,000 deep", b"}" + (text("a") + b"}") * 1000 + b"s" * 1000, "expected at most 64 levels")
_pickle("100,000 marks", b"(" * 100_000 + b"t" * 100_000, "expected at most 64 levels")
_pickle("60 doublings", b"]" + b"q\0h\0\x86" * 60, "expected a dict")
_pickle("270,000 opcodes", b"N" * 270_000, "expected at most 262144 opcodes")
_pickle("260,000 dicts and as much text as there is room for",
        text("a" * 3_900_000 + "\U0001f600") + b"}" * 260_000, "expected one object")
_pickle("list of 65,537", b"](" + b"N" * 65_537 + b"e", "expected at most 65536 items")
_pickle("dict of 65,537", b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(65_537)) + b"u",
        "expected at most 65536 items")
_pickle("5 MB of text", text("a" * (5 << 20)), "expected at most 4194304 bytes")
_pickle("4 MB of text that is no dict", text("\x01" * (4_000_000)), "expected a dict")
_pickle("integers that collide in a dict",
        b"}(" + b"".join(integer(((1 << 61) - 1) * i + 1) + b"N" for i in range(1, 4)) + b"u",
        "small integers")

# The stack.

_FEWER = "values on the stack, found fewer"
_pickle("nothing", b"", "expected one object")
_pickle("two objects", b"NN", "expected one object")
_pickle("mark that stays", state(a=tensor()) + b"(", "expected one object")
_pickle("tuple of three from two", b"NN\x87", _FEWER)
_pickle("tuple without a mark", b"Nt", "expected a mark")
_pickle("call on an empty stack", b"R", _FEWER)
_pickle("call across the second mark", b"(ccollections\nOrderedDict\n()R", _FEWER)
_pickle("item across a mark", b"}" + text("a") + b"(Ns", _FEWER)
_pickle("items of an odd count", b"}(" + text("a") + b"u", "expected pairs")
_pickle("items of a list", b"](" + text("a") + b"Nu", "to add to")
_pickle("items of nothing", b"(" + text("a") + b"Nu", _FEWER)
_pickle("append to a dict", b"}Na", "expected list to add to")
_pickle("append to a tuple", b")Na", "expected list to add to")
_pickle("POP", b"NN0", "opcode")
_pickle("DUP", b"N2", "opcode")
_pickle("set", b"\x8f", "opcode")
_pickle("text of Python 2", b"U\1a", "opcode")
_file("another program after the end", checkpoint(pickled=program(state(a=tensor())) + program(b"N")),
      "expected one object and the end")
_file("program without an end", checkpoint(pickled=program(state(a=tensor()))[:-1]), "expected 1 more bytes")
_file("program without a protocol", checkpoint(pickled=state(a=tensor()) + b"."), "of protocol 2")
_file("program of protocol 4", checkpoint(pickled=b"\x80\4" + state(a=tensor()) + b"."), "of protocol 2")
_file("empty program", checkpoint(pickled=b""), "more bytes")

# Recursion, and attributes.

_CHANGED = "expected no change to what is inside another container"
_pickle("list in itself", b"]q\0h\0a", _CHANGED)
_pickle("dict in itself", b"}q\0" + text("a") + b"h\0s", _CHANGED)
_pickle("list in its tuple", b"]q\0h\0\x85a", _CHANGED)
_pickle("model in its own values", b"}" + text("model") + ORDERED + b"q\0" + text("a") + b"h\0ss", _CHANGED)
_pickle("list changed after it was stored", b"}" + text("a") + b"]q\0sh\0Na", _CHANGED)
_pickle("attributes of a dict", b"}}b", "expected OrderedDict to add to")
_pickle("attributes of a tensor", tensor() + b"}b", "to add to")
_pickle("attributes of a class", b"ccollections\nOrderedDict\n}b", "to add to")
_pickle("attributes that are a tuple", ORDERED + b"N}\x86b", "expected a dict of attributes")
_pickle("attributes that are a number", ORDERED + b"K\1b", "expected a dict of attributes")
_pickle("attributes that hold a class", ORDERED + b"}" + text("__class__") + b"cos\nsystem\nsb", _UNKNOWN)
_pickle("attributes of what was stored", b"}" + text("a") + ORDERED + b"q\0sh\0}b",
        "expected a dict of attributes")

# Names of tensors, and what else is in the dict.

_KEYS = "expected keys of text or small integers"
_PRINTABLE = "expected a printable name"
_pickle("key that is a list", b"}]Ns", _KEYS)
_pickle("key that is a dict", b"}}Ns", _KEYS)
_pickle("key that is a tuple of a list", b"}]\x85Ns", _KEYS)
_pickle("key that is NaN", b"}G" + struct.pack(">d", np.nan) + b"Ns", _KEYS)
_pickle("key that is a tensor", b"}" + tensor() + b"Ns", _KEYS)
_pickle("key that is a class", b"}ctorch\nFloatStorage\nNs", _KEYS)
_pickle("key below zero", b"}" + integer(-1) + b"Ns", _KEYS)
_pickle("key of 2^31", b"}" + integer(1 << 31) + b"Ns", _KEYS)
_pickle("key twice", b"}(" + (text("a") + tensor()) * 2 + b"u", "expected each key of a dict once")
_pickle("key twice in two steps", b"}" + (text("a") + tensor() + b"s") * 2, "each key of a dict once")
_pickle("name that is a number", b"}" + integer(1) + tensor() + b"s", _PRINTABLE)
_pickle("empty name", state(**{"": tensor()}), _PRINTABLE)
_pickle("name of 1,000 bytes", state(**{"a" * 1000: tensor()}), _PRINTABLE)
_pickle("name that colours the terminal", state(**{"\x1b[31m": tensor()}), _PRINTABLE)
_pickle("name with a line end", state(**{"a\nb": tensor()}), _PRINTABLE)
_pickle("name that turns the line around", state(**{"a\u202eb": tensor()}), _PRINTABLE)
_pickle("name of half a surrogate pair", state(**{"\ud800": tensor()}),
        r"expected text in UTF-8, found b'\xed\xa0\x80'")
_pickle("name that is not UTF-8", b"}" + text(b"\xff") + tensor() + b"s", r"expected text in UTF-8, found b'\xff'")
_pickle("tensor alone", tensor(), "expected a dict, found a tensor")
_pickle("list of tensors", b"]" + tensor() + b"a", "expected a dict, found list of 1")
_pickle("number", integer(1), "expected a dict, found 1")
_pickle("dict of numbers", b"}" + text("a") + integer(1) + b"s", "found {'a': 1}")
_pickle("model that is a number", b"}" + text("model") + integer(1) + b"s", "found {'model': 1}")
_pickle("model of a tensor and a number", state(a=tensor(), b=integer(1)),
        "found {'b': 1, 'a': a tensor of shape")
