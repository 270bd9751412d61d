"""Object code is laid out in one piece that runs at any address; code that depends on other modules is refused."""

import ctypes
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from levit_np.ops.cpu import linker, machine_code

binding = pytest.importorskip("llvmlite.binding")
pytestmark = pytest.mark.skipif(not machine_code.IS_IMAGE, reason="images are what Linux loads")

# A call, a table of constants, a vector constant, and a switch wide enough to become a jump table.
ALONE = """
@table = internal constant [8 x i64]
  [i64 1, i64 10, i64 100, i64 1000, i64 10000, i64 100000, i64 1000000, i64 10000000]

define linkonce_odr i64 @looked_up(i64 %i) noinline {
  %at = getelementptr [8 x i64], [8 x i64]* @table, i64 0, i64 %i
  %value = load i64, i64* %at
  ret i64 %value
}

define i64 @chosen(i64 %i) noinline {
  switch i64 %i, label %other [
    i64 0, label %a i64 1, label %b i64 2, label %c i64 3, label %d i64 4, label %e i64 5, label %f]
a:
  %x = call i64 @looked_up(i64 7)
  ret i64 %x
b:
  %y = call i64 @looked_up(i64 3)
  %minus = sub i64 0, %y
  ret i64 %minus
c:
  %z = mul i64 %i, %i
  ret i64 %z
d:
  ret i64 -17
e:
  %w = shl i64 %i, 40
  ret i64 %w
f:
  %float = uitofp i64 %i to double
  %product = fmul double %float, 1.75
  %whole = fptosi double %product to i64
  ret i64 %whole
other:
  %v = call i64 @looked_up(i64 1)
  ret i64 %v
}
"""
RESULTS = {0: 10**7, 1: -1000, 2: 4, 3: -17, 4: 4 << 40, 5: 8, 6: 10, -1: 10}


def object_file(text, model="small"):
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel=model)
    module = binding.parse_assembly(text)
    module.verify()
    return machine.emit_object(module)


def test_the_code_runs_at_any_address():
    code, entry = linker.flatten(object_file(ALONE), "chosen")
    for _ in range(3):
        memory, address = machine_code.loaded(code, entry)
        function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
        assert {i: function(i) for i in RESULTS} == RESULTS
        assert bytes(memory) == code  # the code was not patched with its address


@pytest.mark.parametrize("found", ["no such function of Python's", "none of the system's", "one that is forbidden"])
def test_without_files_in_memory_a_temporary_file_is_used(found, monkeypatch):
    """conda's and uv's Python are built for systems without them; a temporary file works as well."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    if found != "no such function of Python's":
        system = SimpleNamespace(memfd_create=lambda *_: -1) if "forbidden" in found else SimpleNamespace()
        monkeypatch.setattr(machine_code.ctypes, "CDLL", lambda _: system)
    code, entry = linker.flatten(object_file(ALONE), "chosen")
    memory, address = machine_code.loaded(code, entry)
    assert bytes(memory) == code and ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(1) == RESULTS[1]


def test_elsewhere_llvmlite_links_the_object_file():
    engine, address = machine_code._linked(object_file(ALONE, "jitdefault"), "chosen")
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    assert {i: function(i) for i in RESULTS} == RESULTS


def test_the_memory_is_never_both_writable_and_executable():
    code, entry = linker.flatten(object_file(ALONE), "chosen")
    memory, address = machine_code.loaded(code, entry)
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, permissions = line.split()[:2]
        first, last = (int(end, 16) for end in place.split("-"))
        if first <= address < last:
            found.append(permissions)
    assert found == ["r-xp"]
    with pytest.raises(TypeError):
        memory[0] = 0


@pytest.mark.parametrize("text, found", [
    ("declare i64 @theirs(i64)\ndefine i64 @f(i64 %i) { %x = call i64 @theirs(i64 %i)\n ret i64 %x }", "theirs"),
    ("@count = global i64 7\ndefine i64 @f() { %x = load i64, i64* @count\n ret i64 %x }", "count"),
    ("@count = internal global i64 7\ndefine i64 @f() { %x = load i64, i64* @count\n store i64 3, i64* @count\n"
     " ret i64 %x }", "data"),
    ("@count = common global i64 0\ndefine i64 @f() { %x = load i64, i64* @count\n ret i64 %x }", "count"),
    ("@value = internal constant i64 7\n@where = constant i64* @value\n"
     "define i64** @f() { ret i64** @where }", "data|where"),
], ids=("call", "variable", "own variable", "common", "address"))
def test_code_that_refers_to_other_modules_is_refused(text, found):
    with pytest.raises(ValueError, match=f"stands alone, found a relocation of type .* to .*({found})"):
        linker.flatten(object_file(text), "f")


def test_an_unknown_kind_of_relocation_is_refused(monkeypatch):
    monkeypatch.setattr(linker, "_PATCHES", {})
    with pytest.raises(ValueError, match="stands alone, found a relocation of type .* to "):
        linker.flatten(object_file(ALONE), "chosen")


def test_other_files_are_refused():
    for data in (b"", b"MZ" + bytes(100), b"\x7fELF\x01\x01" + bytes(100)):
        with pytest.raises(ValueError, match="expected a 64-bit ELF"):
            linker.flatten(data, "f")


@pytest.mark.parametrize("kind, word, target, here, patched", [
    (282, 0x14000000, 0x2000, 0x2004, 0x17FFFFFF),  # b -4
    (283, 0x94000000, 0x3000, 0x2000, 0x94000400),  # bl +0x1000
    (275, 0x90000000, 0x1008, 0x0FFC, 0xB0000000),  # adrp x0, the next page
    (275, 0x90000000, 0x5008, 0x0FFC, 0xB0000020),  # five pages on: 0b101, its low two bits in bits 29 and 30
    (275, 0x90000000, 0x0008, 0x1000, 0xF0FFFFE0),  # a page back
    (277, 0x91000000, 0x5ABC, 0, 0x912AF000),  # add x0, x0, 0xabc
    (299, 0x3DC00000, 0x5020, 0, 0x3DC00800),  # ldr q0, [x0, 32]
    (286, 0xF9400000, 0x5020, 0, 0xF9401000),  # ldr x0, [x0, 32]
    (285, 0xB9400000, 0x5020, 0, 0xB9402000),  # ldr w0, [x0, 32]
    (284, 0x79400000, 0x5024, 0, 0x79404800),  # ldrh w0, [x0, 36]
    (278, 0x39400000, 0x5123, 0, 0x39448C00),  # ldrb w0, [x0, 0x123]
    (261, 0, 0x1000, 0x1010, 0xFFFFFFF0),
])
def test_arms_instructions(kind, word, target, here, patched):
    """Expected values follow the encodings in the architecture's manual."""
    assert linker._PATCHES[linker.AARCH64, kind](word, target, here) == patched


def test_distances_that_do_not_fit_are_refused():
    for distance, target in ((linker._distance, 1 << 31), (linker._branch, 1 << 27), (linker._page, 1 << 32)):
        distance(0, target - 4096, 0)
        with pytest.raises(ValueError, match="expected a distance"):
            distance(0, target, 0)
        with pytest.raises(ValueError, match="expected a distance"):
            distance(0, 0, target + 4096)
    assert struct.pack("<I", linker._distance(0, 0, 1 << 31)) == b"\0\0\0\x80"
