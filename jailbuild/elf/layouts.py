"""pyelftools' record definitions, flattened to one `struct` format each.

pyelftools stays the source of what an ELF record looks like; reading through its own parser takes thirty times as
long as `struct` does on the same definitions.
"""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import NamedTuple

from jailbuild import Deferred

with Deferred("inspect", "pdb", "traceback"):  # for debugging aids; they take longer than all the rest of pyelftools
    from elftools.elf.enums import ENUM_D_TAG, ENUM_E_MACHINE, ENUM_E_TYPE, ENUM_P_TYPE_BASE
    from elftools.elf.structs import ELFStructs

ET_EXEC: int = ENUM_E_TYPE["ET_EXEC"]
ET_DYN: int = ENUM_E_TYPE["ET_DYN"]

PT_LOAD: int = ENUM_P_TYPE_BASE["PT_LOAD"]
PT_DYNAMIC: int = ENUM_P_TYPE_BASE["PT_DYNAMIC"]
PT_INTERP: int = ENUM_P_TYPE_BASE["PT_INTERP"]
PT_NOTE: int = ENUM_P_TYPE_BASE["PT_NOTE"]

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
DT_VERNEED: int = ENUM_D_TAG["DT_VERNEED"]
DT_VERDEF: int = ENUM_D_TAG["DT_VERDEF"]
DT_RELR: int = ENUM_D_TAG["DT_RELR"]
DT_SYMTAB: int = ENUM_D_TAG["DT_SYMTAB"]
DT_STRSZ: int = ENUM_D_TAG["DT_STRSZ"]
DT_HASH: int = ENUM_D_TAG["DT_HASH"]
DT_GNU_HASH: int = ENUM_D_TAG["DT_GNU_HASH"]
DT_VERSYM: int = ENUM_D_TAG["DT_VERSYM"]
DT_RELA: int = ENUM_D_TAG["DT_RELA"]
DT_RELASZ: int = ENUM_D_TAG["DT_RELASZ"]
DT_RELACOUNT: int = ENUM_D_TAG["DT_RELACOUNT"]
DT_REL: int = ENUM_D_TAG["DT_REL"]
DT_RELSZ: int = ENUM_D_TAG["DT_RELSZ"]
DT_RELCOUNT: int = ENUM_D_TAG["DT_RELCOUNT"]
DT_JMPREL: int = ENUM_D_TAG["DT_JMPREL"]
DT_PLTREL: int = ENUM_D_TAG["DT_PLTREL"]
DT_PLTRELSZ: int = ENUM_D_TAG["DT_PLTRELSZ"]
DT_SYMBOLIC: int = ENUM_D_TAG["DT_SYMBOLIC"]
DT_BIND_NOW: int = ENUM_D_TAG["DT_BIND_NOW"]
DT_FLAGS: int = ENUM_D_TAG["DT_FLAGS"]
DT_TABLES: tuple[int, ...] = tuple(
    ENUM_D_TAG[name]
    for name in (
        "DT_STRTAB",
        "DT_HASH",
        "DT_GNU_HASH",
        "DT_VERSYM",
        "DT_VERNEED",
        "DT_RELA",
        "DT_REL",
        "DT_JMPREL",
    )
)

# What is read of a record; both classes have these in this order.
HEADER = ("e_type", "e_machine", "e_version", "e_phoff", "e_flags", "e_phentsize", "e_phnum")
SEGMENT = ("p_type", "p_offset", "p_vaddr", "p_filesz", "p_memsz")
DYNAMIC = ("d_tag", "d_val")
VERNEED = ("vn_version", "vn_cnt", "vn_file", "vn_aux", "vn_next")
VERNAUX = ("vna_hash", "vna_flags", "vna_name", "vna_next")
VERDEF = ("vd_version", "vd_hash", "vd_aux", "vd_next")
VERDAUX = ("vda_name",)
SYMBOL = ("st_name", "st_shndx")
WHOLE_SYMBOL = {  # the one record whose fields stand in another order in each class
    32: ("st_name", "st_value", "st_info", "st_other", "st_shndx"),
    64: ("st_name", "st_info", "st_other", "st_shndx", "st_value"),
}
RELOCATION = ("r_info",)
NUMBERED_VERNAUX = ("vna_hash", "vna_flags", "vna_other", "vna_name", "vna_next")
NUMBERED_VERDEF = ("vd_version", "vd_flags", "vd_ndx", "vd_hash", "vd_aux", "vd_next")


class Records(NamedTuple):
    """The records of one class and byte order: unpacking gives the fields of HEADER, SEGMENT, DYNAMIC and so on."""

    header: Struct
    segment: Struct
    dynamic: Struct
    verneed: Struct
    vernaux: Struct
    verdef: Struct
    verdaux: Struct


def _flatten(record: object, order: str, wanted: tuple[str, ...]) -> Struct:
    """Return the format of a pyelftools record, in which all but the `wanted` fields are passed over."""
    formats = [order]
    names = []
    for field in record.subcons:  # type: ignore[attr-defined]
        plain = getattr(field, "subcon", field)
        if field.name in wanted:
            formats.append(plain.packer.format.lstrip("<>") if hasattr(plain, "packer") else "B" * field.sizeof())
            names.append(field.name)
        elif hasattr(field, "subcons") or hasattr(field, "subcon") or hasattr(plain, "packer"):
            formats.append(f"{field.sizeof()}x")  # else a computed value, such as d_ptr: no bytes
    if tuple(names) != wanted:
        raise ImportError(f"pyelftools has the fields {names} where {wanted} are expected")
    return Struct("".join(formats))


@cache
def records(bits: int, little: bool) -> Records:
    """Return the records of a class, 32 or 64, and byte order."""
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    order = "<" if little else ">"
    return Records(
        _flatten(structs.Elf_Ehdr, order, HEADER),
        _flatten(structs.Elf_Phdr, order, SEGMENT),
        _flatten(structs.Elf_Dyn, order, DYNAMIC),
        _flatten(structs.Elf_Verneed, order, VERNEED),
        _flatten(structs.Elf_Vernaux, order, VERNAUX),
        _flatten(structs.Elf_Verdef, order, VERDEF),
        _flatten(structs.Elf_Verdaux, order, VERDAUX),
    )


class LinkRecords(NamedTuple):
    """The records that symbols are looked up by: unpacking gives the fields of WHOLE_SYMBOL and so on."""

    symbol: Struct
    rel: Struct
    rela: Struct
    verneed: Struct
    vernaux: Struct
    verdef: Struct
    verdaux: Struct


@cache
def link_records(bits: int, little: bool) -> LinkRecords:
    """Return these records of a class and byte order."""
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    order = "<" if little else ">"
    return LinkRecords(
        _flatten(structs.Elf_Sym, order, WHOLE_SYMBOL[bits]),
        _flatten(structs.Elf_Rel, order, RELOCATION),
        _flatten(structs.Elf_Rela, order, RELOCATION),
        _flatten(structs.Elf_Verneed, order, VERNEED),
        _flatten(structs.Elf_Vernaux, order, NUMBERED_VERNAUX),
        _flatten(structs.Elf_Verdef, order, NUMBERED_VERDEF),
        _flatten(structs.Elf_Verdaux, order, VERDAUX),
    )


@cache
def symbol_record(bits: int, little: bool) -> Struct:
    """Return the record of a symbol: unpacking gives the fields of SYMBOL."""
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    return _flatten(structs.Elf_Sym, "<" if little else ">", SYMBOL)


@cache
def note_records(bits: int, little: bool) -> tuple[Struct, Struct, Struct]:
    """Return the records that lead to notes, header and segment, and a note's: unpacking gives what is named here."""
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    order = "<" if little else ">"
    return (
        _flatten(structs.Elf_Ehdr, order, ("e_phoff", "e_phnum")),
        _flatten(structs.Elf_Phdr, order, ("p_type", "p_offset", "p_filesz", "p_align")),
        _flatten(structs.Elf_Nhdr, order, ("n_namesz", "n_descsz")),
    )


@cache
def _machine_names() -> dict[int, str]:
    return {number: name for name, number in ENUM_E_MACHINE.items()}


def machine_name(number: int) -> str:
    """Return the short name of an e_machine: "x86_64", "aarch64"; the number where there is none."""
    return str(_machine_names().get(number, number)).removeprefix("EM_").lower()
