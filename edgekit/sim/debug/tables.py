"""ROM tables: where a debugger learns which components there are (IHI 0031 D3).

Component and peripheral ids: Cortex-M4 TRM (DDI 0439) 3.6, Cortex-M7 TRM (DDI 0489) 10.2,
Cortex-M0+ TRM (DDI 0484) 8.2.
"""

from __future__ import annotations

_GENERIC, _TABLE = 0xB105E00D, 0xB105100D
_SCS, _DWT, _FPB, _ITM = 0xE000E000, 0xE0001000, 0xE0002000, 0xE0000000
_PPB_TABLE = 0xE00FF000
#: component → part number, by core
_PARTS = {
    "cortex-m0plus": {_SCS: 0x008, _DWT: 0x00A, _FPB: 0x00B},
    "cortex-m3": {_SCS: 0x000, _DWT: 0x002, _FPB: 0x003, _ITM: 0x001},
    "cortex-m4": {_SCS: 0x00C, _DWT: 0x002, _FPB: 0x003, _ITM: 0x001},
    "cortex-m7": {_SCS: 0x00C, _DWT: 0x002, _FPB: 0x00E, _ITM: 0x001},
    "cortex-m33": {_SCS: 0xD21, _DWT: 0xD21, _FPB: 0xD21, _ITM: 0xD21},
}
_TABLE_PARTS = {
    "cortex-m0plus": 0x4C0,
    "cortex-m3": 0x4C3,
    "cortex-m4": 0x4C4,
    "cortex-m7": 0x4C7,
    "cortex-m33": 0x4C9,
}
#: Arm's JEP106 code
_ARM = 0x43B
_JEDEC = 1 << 3


def _ids(base: int, part: int, component: int) -> dict[int, int]:
    """The identification registers at the end of a component's 4 KB."""
    pid = {
        0xFD0: _ARM >> 8,
        0xFE0: part & 0xFF,
        0xFE4: part >> 8 | (_ARM & 0xF) << 4,
        0xFE8: _ARM >> 4 & 7 | _JEDEC,
        0xFEC: 0,
    }
    words = {base + offset: value for offset, value in pid.items()}
    words |= {base + 0xFF0 + 4 * i: component >> 8 * i & 0xFF for i in range(4)}
    return words


def _table(base: int, components: tuple[int, ...], part: int) -> dict[int, int]:
    """Entries are offsets from the table, with bits for present and 32-bit."""
    words = {
        base + 4 * index: (component - base & 0xFFFFF000) | 3
        for index, component in enumerate(components)
    }
    words[base + 4 * len(components)] = 0
    words[base + 0xFCC] = 1  # MEMTYPE: there is memory on this bus
    return words | _ids(base, part, _TABLE)


def core_tables(core: str, base: int) -> dict[int, int]:
    """What reads as a word at which address: a core's ROM table and its components' ids.

    ``base`` is the table that the access port points to; when it is not the core's own it has
    the core's as its only entry.
    """
    parts = _PARTS[core]
    words = _table(_PPB_TABLE, tuple(parts), _TABLE_PARTS[core])
    for component, part in parts.items():
        words |= _ids(component, part, _GENERIC)
    if base & ~0xFFF != _PPB_TABLE:
        words |= _table(base & ~0xFFF, (_PPB_TABLE,), 0x4C8)
    return words
