"""Links object code into one image that runs wherever it lies in memory, once, when the code is compiled; library.py
caches it.

The compiler leaves an ELF file: sections of instructions and constants, and relocations, the places that need the
distance to another section. Laid out in a row, all distances are known. Nothing else is allowed: no absolute address,
nothing writable, no external symbol; so loading needs no linker."""

import struct
from typing import NamedTuple

CODE, SYMBOLS, RELOCATIONS = 1, 2, 4  # section types: PROGBITS, SYMTAB, RELA
WRITABLE, IN_MEMORY = 1, 2  # section flags: WRITE, ALLOC
_SECTION, _SYMBOL, _RELOCATION = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ"), struct.Struct("<QQq")


class Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int


def flatten(file: bytes, symbol: str) -> tuple[bytes, int]:
    """(the image, the offset of the function `symbol` in it) of a 64-bit little-endian ELF object file. The image is to
    be loaded at a multiple of 4096. Raises ValueError for code that needs anything from outside."""
    if file[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"expected a 64-bit ELF object file, found {file[:6]!r}")
    (machine,), (start,) = struct.unpack_from("<H", file, 18), struct.unpack_from("<Q", file, 40)
    (count,) = struct.unpack_from("<H", file, 60)
    sections = [Section(*_SECTION.unpack_from(file, start + i * _SECTION.size)) for i in range(count)]
    content = [file[s.offset : s.offset + s.size] for s in sections]
    image, place = bytearray(), {}
    for number, section in enumerate(sections):
        if section.kind == CODE and section.flags & (IN_MEMORY | WRITABLE) == IN_MEMORY:
            image += bytes(-len(image) % section.alignment)
            place[number] = len(image)
            image += content[number]
    table = next(s for s in sections if s.kind == SYMBOLS)
    names = content[table.link]
    symbols = []  # (name, its offset in the image or None)
    for name, _, _, section, value, _ in _SYMBOL.iter_unpack(file[table.offset : table.offset + table.size]):
        text = names[name : names.index(b"\0", name)].decode()
        symbols.append((text, place[section] + value if section in place else None))
    for section, relocations in zip(sections, content):
        if section.kind == RELOCATIONS and section.info in place:
            for offset, information, addend in _RELOCATION.iter_unpack(relocations):
                name, target = symbols[information >> 32]
                here, kind = place[section.info] + offset, information & 0xFFFFFFFF
                if target is None or (machine, kind) not in _PATCHES:
                    raise ValueError(f"expected code that stands alone, found a relocation of type {kind} to "
                                     f"{name or 'data'} (may a kernel raise an exception, or call a library?)")
                (word,) = struct.unpack_from("<I", image, here)
                struct.pack_into("<I", image, here, _PATCHES[machine, kind](word, target + addend, here))
    return bytes(image), dict(symbols)[symbol]


def _signed(value: int, bits: int) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"expected a distance of {bits} bits, found {value}")
    return value & (1 << bits) - 1


def _distance(word: int, target: int, here: int) -> int:
    return _signed(target - here, 32)


def _branch(word: int, target: int, here: int) -> int:
    """bl, b: the distance in instructions, in the low 26 bits."""
    return word | _signed(target - here >> 2, 26)


def _page(word: int, target: int, here: int) -> int:
    """adrp: the distance in pages of 4096 bytes, its two low bits stored apart."""
    pages = _signed((target >> 12) - (here >> 12), 21)
    return word | (pages & 3) << 29 | pages >> 2 << 5


def _within_page(size: int):
    """add, ldr, str: the offset within the page, in units of `size` bytes, in bits 10 to 21."""
    return lambda word, target, here: word | (target & 4095) // size << 10


X86_64, AARCH64 = 62, 183
# Relocation types, with their names in the processors' ELF supplements.
_PATCHES = {
    (X86_64, 2): _distance,  # PC32
    (X86_64, 4): _distance,  # PLT32: a call, which needs no table when it is this near
    (AARCH64, 261): _distance,  # PREL32
    (AARCH64, 282): _branch,  # JUMP26
    (AARCH64, 283): _branch,  # CALL26
    (AARCH64, 275): _page,  # ADR_PREL_PG_HI21
    (AARCH64, 277): _within_page(1),  # ADD_ABS_LO12_NC
    (AARCH64, 278): _within_page(1),  # LDST8_ABS_LO12_NC
    (AARCH64, 284): _within_page(2),  # LDST16_ABS_LO12_NC
    (AARCH64, 285): _within_page(4),  # LDST32_ABS_LO12_NC
    (AARCH64, 286): _within_page(8),  # LDST64_ABS_LO12_NC
    (AARCH64, 299): _within_page(16),  # LDST128_ABS_LO12_NC
}
