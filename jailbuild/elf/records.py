"""pyelftools' record definitions, flattened to one `struct` format each.

pyelftools stays the source of what an ELF record looks like; reading through its own parser takes thirty times as
long as `struct` does on the same definitions.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from elftools.elf.enums import ENUM_D_TAG, ENUM_E_MACHINE, ENUM_E_TYPE, ENUM_P_TYPE_BASE
from elftools.elf.structs import ELFStructs

IDENT_SIZE = 16

ET_EXEC: int = ENUM_E_TYPE["ET_EXEC"]
ET_DYN: int = ENUM_E_TYPE["ET_DYN"]

PT_LOAD: int = ENUM_P_TYPE_BASE["PT_LOAD"]
PT_DYNAMIC: int = ENUM_P_TYPE_BASE["PT_DYNAMIC"]
PT_INTERP: int = ENUM_P_TYPE_BASE["PT_INTERP"]

DT_NULL: int = ENUM_D_TAG["DT_NULL"]
DT_NEEDED: int = ENUM_D_TAG["DT_NEEDED"]
DT_STRTAB: int = ENUM_D_TAG["DT_STRTAB"]
DT_SONAME: int = ENUM_D_TAG["DT_SONAME"]
DT_RPATH: int = ENUM_D_TAG["DT_RPATH"]
DT_RUNPATH: int = ENUM_D_TAG["DT_RUNPATH"]
DT_FLAGS_1: int = ENUM_D_TAG["DT_FLAGS_1"]
DT_AUXILIARY: int = ENUM_D_TAG["DT_AUXILIARY"]
DT_FILTER: int = ENUM_D_TAG["DT_FILTER"]
DT_AUDIT: int = ENUM_D_TAG["DT_AUDIT"]
DT_DEPAUDIT: int = ENUM_D_TAG["DT_DEPAUDIT"]


class Records(NamedTuple):
    """The records of one class and byte order: unpacking gives the named fields as a tuple, in this order."""

    header: Struct
    header_fields: tuple[str, ...]
    segment: Struct
    segment_fields: tuple[str, ...]
    dynamic: Struct  # (d_tag, d_val)


def _flatten(record: object, order: str) -> tuple[Struct, tuple[str, ...]]:
    """Return format and field names of a pyelftools record; e_ident stays one field of 16 bytes."""
    formats = []
    names = []
    for field in record.subcons:  # type: ignore[attr-defined]
        if hasattr(field, "subcons"):
            formats.append(f"{field.sizeof()}s")
        else:
            plain = getattr(field, "subcon", field)
            if not hasattr(plain, "packer"):  # a computed value, such as d_ptr, takes no bytes
                continue
            formats.append(plain.packer.format.lstrip("<>"))
        names.append(field.name)
    return Struct(order + "".join(formats)), tuple(names)


def _records(little: bool, bits: int) -> Records:
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    order = "<" if little else ">"
    dynamic, _ = _flatten(structs.Elf_Dyn, order)
    return Records(*_flatten(structs.Elf_Ehdr, order), *_flatten(structs.Elf_Phdr, order), dynamic)


RECORDS = {(bits, little): _records(little, bits) for bits in (32, 64) for little in (True, False)}

_MACHINE_NAMES = {number: name for name, number in ENUM_E_MACHINE.items()}


def machine_name(number: int) -> str:
    """Return the short name of an e_machine: "x86_64", "aarch64"; the number where there is none."""
    return str(_MACHINE_NAMES.get(number, number)).removeprefix("EM_").lower()
