"""Thumb instructions of a disassembly: what kind each is, how long, which registers it reads and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What decides how long an instruction takes; the rest of the core calculates in one cycle."""

    ALU = "alu"
    MULTIPLY = "multiply"
    MULTIPLY_ADD = "multiply-add"
    LONG_MULTIPLY = "long multiply"
    LONG_MULTIPLY_ADD = "long multiply-add"
    DSP_MULTIPLY = "dsp multiply"
    DSP = "dsp"
    DIVIDE = "divide"
    LOAD = "load"
    LOADS = "load of several"
    STORE = "store"
    STORES = "store of several"
    BRANCH = "branch"
    CONDITIONAL = "conditional branch"
    CALL = "call"
    BRANCH_REGISTER = "branch to a register"
    TABLE_BRANCH = "table branch"
    LOOP_START = "loop start"
    LOOP_END = "loop end"
    IT = "it"
    NOP = "nop"
    FLOAT = "float"
    VECTOR_MEMORY = "vector load or store"
    VECTOR_INTEGER = "vector integer"
    VECTOR_MULTIPLY = "vector multiply"
    VECTOR_CONTROL = "vector predicate"
    SYSTEM = "system"


@dataclass(frozen=True)
class Instruction:
    """One instruction. size: bytes, 2 or 4; writes: its results; reads: all it needs; words: moved from or to memory.

    pointers: registers of its address; updates: those it moves on; offset: the address is a sum of two registers;
    immediate: an operand is a number.
    """

    address: int
    size: int
    name: str
    kind: Kind
    writes: frozenset[str]
    reads: frozenset[str]
    pointers: frozenset[str] = frozenset()
    updates: frozenset[str] = frozenset()
    words: int = 0
    offset: bool = False
    immediate: bool = False

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size


# instructions of which the last alone may jump
Block = tuple[Instruction, ...]

_LINE = re.compile(r"\s*([0-9a-f]+):\t([0-9a-f]{4})( [0-9a-f]{4})?\s*\t(\S+)(?:\t([^@;]*))?")
_CONDITION = "(?:eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)"
# the first that fits; every other name calculates
_KINDS = tuple(
    (re.compile(f"(?:{pattern}){_CONDITION}?"), kind)
    for pattern, kind in (
        (f"b{_CONDITION}|cbz|cbnz", Kind.CONDITIONAL),
        ("b", Kind.BRANCH),
        ("bl", Kind.CALL),
        ("blx|bx|bxns|blxns|bxj", Kind.BRANCH_REGISTER),
        ("tbb|tbh", Kind.TABLE_BRANCH),
        ("dls|wls|dlstp|wlstp", Kind.LOOP_START),
        ("le|letp", Kind.LOOP_END),
        ("it[te]{0,3}", Kind.IT),
        ("nop|yield|hint", Kind.NOP),
        ("ldr|ldrs?[bh]|ldrs?[bh]?t|ldrex[bh]?|lda[bh]?|pld|pldw|pli", Kind.LOAD),
        ("ldm(?:ia|db)?|pop|ldrd|ldrexd", Kind.LOADS),
        ("str|str[bh]|str[bh]?t|strex[bh]?|stl[bh]?", Kind.STORE),
        ("stm(?:ia|db)?|push|strd|strexd", Kind.STORES),
        ("muls?", Kind.MULTIPLY),
        ("mla|mls", Kind.MULTIPLY_ADD),
        ("smulls?|umulls?", Kind.LONG_MULTIPLY),
        ("smlals?|umlals?|umaal", Kind.LONG_MULTIPLY_ADD),
        ("sm(?:la|ls|lal|ul)(?:[bt][bt]|w[bt]|dx?)|smls?ldx?|sm(?:ua|us)dx?|smm(?:ul|la|ls)r?", Kind.DSP_MULTIPLY),
        ("[us][hq]?(?:add|sub)(?:8|16)|[us][hq]?(?:asx|sax)|q(?:add|sub)(?:8|16)?|q(?:asx|sax)|qd(?:add|sub)|sel|[us]xta[bh](?:16)?|[us]xtb16|pkh(?:bt|tb)|[us]sat(?:16)?|usada?8", Kind.DSP),
        ("sdiv|udiv", Kind.DIVIDE),
        ("msr|mrs|dmb|dsb|isb|svc|bkpt|udf|cps|cpsi[de]|wfi|wfe|sev|clrm|vscclrm|vlldm|vlstm", Kind.SYSTEM),
    )
)  # fmt: skip
# what LLVM's model of the M55 gives to the pipe of floats and products
_MULTIPLIES = re.compile(
    "vr?ml|vmul|vq?r?d?mul|vq?r?d?ml|vf|vaddl?v|vcmp|vpt|vcvt|vrint|vcmla|vcmul|vcadd|.*[.]f(16|32)"
)
_NAMES = {"sb": "r9", "sl": "r10", "fp": "r11", "ip": "r12", "sp": "r13", "lr": "r14"}
_REGISTER = r"(?:r\d+|sb|sl|fp|ip|sp|lr|pc|[sdq]\d+)"
_OPERAND = re.compile(rf"\b({_REGISTER})(?:-({_REGISTER}))?\b")
# with two operands they do not read the first
_UNARY = re.compile(
    "mov|mvn|neg|[us]xt[bh]|rev|rbit|clz|adr|vmov|vmvn|vdup|vneg|vabs|vcvt|vmrs|vctp|vaddl?v[^a]|vsqrt|vrint|vcl[sz]|[us]xtb16"
)
_ADDS = re.compile("movt|bfi|smlal|umlal|umaal|smls?ld|vr?ml[as]|vq?r?d?ml|vfm|vaddl?va|vpt|vqr?shr.*n[bt]|vshr?n[bt]|vmovn|vsl|vsri")  # fmt: skip
_COMPARES = re.compile("cmp|cmn|tst|teq|vcmp|vpst|vpt|msr|vmsr")


def disassembly(text: str) -> dict[int, Instruction]:
    """Instructions by address, from what `objdump -d` prints."""
    found = (instruction(line) for line in text.splitlines())
    return {one.address: one for one in found if one is not None}


def jumps(block: Block, after: Block | None) -> bool:
    """Whether the block was left by a jump to `after`; None: by the return of a call."""
    return after is None or after[0].address != block[-1].end


def instruction(line: str) -> Instruction | None:
    """The instruction of one line of `objdump -d`, None for a line of data or of text."""
    parts = _LINE.match(line)
    if parts is None or parts[4].startswith("."):
        return None
    full, operands = parts[4], re.sub("<.*?>", "", parts[5] or "").strip()
    name = re.sub(r"[.][nw]$", "", full)
    kind = _kind(name, operands)
    named = _registers(operands)
    bracket = re.search(r"\[(.*?)\]", operands)
    pointers = _registers(bracket[1]) if bracket else []
    written, words = _written(name, kind, operands, named)
    if kind is Kind.ALU and "pc" in written:
        kind = Kind.BRANCH_REGISTER
    moved = kind in (Kind.LOADS, Kind.STORES)
    if moved and not bracket:
        pointers = named[:1] if "{" in operands and not operands.startswith("{") else ["r13"]
    if "!" in operands or (bracket and operands[bracket.end() :].lstrip().startswith(",")):
        updated = pointers[:1]
    else:
        updated = ["r13"] if moved and operands.startswith("{") else []
    return Instruction(
        int(parts[1], 16),
        4 if parts[3] else 2,
        name,
        kind,
        frozenset(written),
        frozenset([*_read(name, kind, operands, named, written), *pointers]),
        frozenset(pointers),
        frozenset(updated),
        words,
        len(pointers) > 1,
        "#" in operands,
    )


def _kind(name: str, operands: str) -> Kind:
    if name.startswith("v"):
        return _vector_kind(name, operands)
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(name)), Kind.ALU)


def _vector_kind(name: str, operands: str) -> Kind:
    if re.match("vpst|vpnot|vctp", name):
        return Kind.VECTOR_CONTROL
    if not re.search(r"\bq\d", operands):
        if re.match("vldm|vpop", name):
            return Kind.LOADS
        if re.match("vstm|vpush", name):
            return Kind.STORES
        return Kind.LOAD if name.startswith("vldr") else Kind.STORE if name.startswith("vstr") else Kind.FLOAT  # fmt: skip
    if re.match("vldr|vstr|vld[24]|vst[24]", name):
        return Kind.VECTOR_MEMORY
    return Kind.VECTOR_MULTIPLY if _MULTIPLIES.match(name) else Kind.VECTOR_INTEGER


def _registers(operands: str) -> list[str]:
    """In their order; a range {d8-d11} in full."""
    found = []
    for first, last in _OPERAND.findall(operands):
        if last:
            found += [f"{first[0]}{n}" for n in range(int(first[1:]), int(last[1:]) + 1)]
        else:
            found.append(_NAMES.get(first, first))
    return found


def _written(name: str, kind: Kind, operands: str, named: list[str]) -> tuple[list[str], int]:
    """(registers written besides an address, words moved from or to memory)."""
    if kind in (Kind.LOADS, Kind.STORES):
        listed = _registers(operands[operands.index("{") :]) if "{" in operands else named[:2]
        words = sum(2 if one[0] == "d" else 1 for one in listed)
        return (listed if kind is Kind.LOADS else []), words
    if kind is Kind.LOAD:
        return ([] if name.startswith("pl") else named[:1]), 1
    if kind is Kind.STORE or (kind is Kind.VECTOR_MEMORY and name.startswith("vst")):
        return [], 1
    if kind is Kind.VECTOR_MEMORY:
        return [one for one in named if one[0] == "q"][:1], 4
    if kind in (Kind.CALL, Kind.LOOP_START):
        return ["r14"], 0
    if kind in (
        Kind.CONDITIONAL,
        Kind.BRANCH,
        Kind.BRANCH_REGISTER,
        Kind.TABLE_BRANCH,
        Kind.LOOP_END,
        Kind.IT,
    ):
        return [], 0  # fmt: skip
    if _COMPARES.match(name):
        return [], 0
    # two registers take a long product
    wide = kind in (Kind.LONG_MULTIPLY, Kind.LONG_MULTIPLY_ADD) or name.startswith(("smlald", "smlsld"))  # fmt: skip
    return named[: 2 if wide else 1], 0


def _read(name: str, kind: Kind, operands: str, named: list[str], written: list[str]) -> list[str]:
    """Registers read besides an address."""
    if kind in (Kind.LOAD, Kind.LOADS):
        return []
    if kind is Kind.VECTOR_MEMORY and written:
        return []
    rest = named[len(written) :] if written == named[: len(written)] else named
    short = operands.count(",") == 1 and not _UNARY.match(name)
    return [*written, *rest] if written and (short or _ADDS.match(name)) else rest
