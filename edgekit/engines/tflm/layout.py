"""Sizes of TFLM's C++ structures for a 32-bit target, and for the 64-bit build on the host.

A structure is written as a string of its members in order:

====  =====================================================================
p     a pointer or ``size_t``
i     ``int``, ``int32_t``, ``float``
h     ``int16_t``, ``uint16_t``
b     ``bool``, ``int8_t``, an enumeration declared with one byte
e     an enumeration: 1 byte on Arm bare metal (short enumerations), else 4
d     ``double``
+     what follows is only in the host's build, which has tensor compression
====  =====================================================================

The structures are facts of TFLM's headers (snapshot 90b983c2b, August 2026): ``common.h``,
``builtin_op_data.h``, ``micro_allocator.h`` and the kernels' own headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.engines.tflm.planner import align_up


@dataclass(frozen=True)
class Abi:
    """How a compiler lays structures out, and which build of TFLM it is."""

    name: str
    pointer_bytes: int
    enum_bytes: int
    #: the host's build: compression members, and the allocator that records
    host: bool = False

    def layout(self, members: str) -> tuple[int, int]:
        """Size and alignment of a structure in bytes."""
        own, _, host = members.replace(" ", "").partition("+")
        size, alignment = 0, 1
        for member in own + (host if self.host else ""):
            width = {"p": self.pointer_bytes, "e": self.enum_bytes, **_WIDTHS}[member]
            size = align_up(size, width) + width
            alignment = max(alignment, width)
        return align_up(size, alignment), alignment

    def size(self, members: str) -> int:
        return self.layout(members)[0]


_WIDTHS = {"i": 4, "h": 2, "b": 1, "d": 8}

#: Arm bare metal: AAPCS with short enumerations, as arm-none-eabi-gcc and armclang default to.
ARM32 = Abi("arm", 4, 1)
#: Xtensa and RISC-V, 32 bits: enumerations are ints.
ILP32 = Abi("ilp32", 4, 4)
#: A 64-bit machine with an ordinary build of TFLM.
LP64 = Abi("lp64", 8, 4)
#: The build in the tflite-micro wheel.
HOST64 = Abi("host", 8, 4, host=True)

#: ``SingleArenaBufferAllocator``: two virtual bases, five pointers, checksum, count. The host's
#: recording one has its counters behind them.
ARENA_ALLOCATOR = "pp ppppp p i + pppp"
GREEDY_PLANNER = "p ii pppp ii p b"
#: ``MicroAllocator``; the host's has 24 recorded figures and its allocator's address behind it.
MICRO_ALLOCATOR = "p pppp b ppp +" + "p" * 25
BUILTIN_DATA_ALLOCATOR = "pp"
SUBGRAPH_ALLOCATIONS = "pp+p"
EVAL_TENSOR = "ppe"
#: ``TfLiteNode`` (static memory build) and the pointer to its registration
NODE_AND_REGISTRATION = "ppp pp pp p"
TENSOR = "ep ii pp p eeb"
AFFINE_QUANTIZATION = "ppi"
SCRATCH_HANDLE = "p"
SCRATCH_REQUEST = "pii"
ALLOCATION_INFO = "ppiiib"
#: bookkeeping of the greedy planner per buffer: requirements, list entry, three ints
PLANNER_ENTRY = "iiii iii iii"

#: Bytes that the parser of an operator's options allocates, by operator.
OPTIONS: Mapping[str, str] = {
    "ADD": "eb",
    "ARG_MAX": "e",
    "ARG_MIN": "e",
    "AVERAGE_POOL_2D": "eiiiie iiii",
    "CAST": "ee",
    "CONCATENATION": "ie",
    "CONV_2D": "eiieiie",
    "DEPTH_TO_SPACE": "i",
    "DEPTHWISE_CONV_2D": "eiiieii",
    "DEQUANTIZE": "",
    "EXPAND_DIMS": "",
    # what TFLM's later versions added is not in the snapshot: see ``arena._GROWTH_BYTES``
    "FULLY_CONNECTED": "eebbe+pp",
    "GATHER": "ii",
    "HARD_SWISH": "",
    "LEAKY_RELU": "i",
    "LOGISTIC": "",
    "MAX_POOL_2D": "eiiiie iiii",
    "MEAN": "b",
    "MUL": "e",
    "PACK": "ii",
    "PAD": "",
    "PADV2": "",
    "PRELU": "",
    "QUANTIZE": "",
    "REDUCE_MAX": "b",
    "REDUCE_MIN": "b",
    "RELU": "",
    "RELU6": "",
    "RESHAPE": "iiiiiiiii",
    "RESIZE_BILINEAR": "bb",
    "RESIZE_NEAREST_NEIGHBOR": "bb",
    "SHAPE": "e",
    "SLICE": "",
    "SOFTMAX": "i",
    "SPACE_TO_DEPTH": "i",
    "SPLIT": "i",
    "SPLIT_V": "i",
    "SQUEEZE": "iiiiiiiii",
    "STRIDED_SLICE": "iiiiib",
    "SUB": "eb",
    "SUM": "b",
    "TANH": "",
    "TRANSPOSE": "",
    "TRANSPOSE_CONV": "eiiee",
    "UNPACK": "ii",
}

#: Structure that a kernel's Init allocates (``OpData``), by operator; "" is none. An operator
#: of :data:`OPTIONS` that is not in here is only known by what TFLM records on the host.
OP_DATA: Mapping[str, str] = {
    "ADD": "b iiiiiiiiiiiiii",
    "ARG_MAX": "",
    "ARG_MIN": "",
    "AVERAGE_POOL_2D": "iiiiiiii",
    "CAST": "",
    "CONCATENATION": "bpphii + iiiiiiiiii",
    "CONV_2D": "iiii iii ii pp ii i + ii",
    "DEPTH_TO_SPACE": "",
    "DEPTHWISE_CONV_2D": "iiii iii ii pp ii i + ii",
    # a structure of a double and an int is padded to 16 bytes before the next member
    "DEQUANTIZE": "dii iii",
    "EXPAND_DIMS": "",
    "FULLY_CONNECTED": "ii pp iiiiii b i + iii",
    "GATHER": "",
    "HARD_SWISH": "iiiii",
    "LEAKY_RELU": "iiiiii",
    "LOGISTIC": "iiii",
    "MAX_POOL_2D": "iiiiiiii",
    "MEAN": "iiiiiiiiiii",
    "MUL": "iiiiiiiii",
    "PACK": "",
    "PAD": "biiiii biiiii bi",
    "PADV2": "biiiii biiiii bi",
    "PRELU": "iiiiiii",
    "QUANTIZE": "id iii",
    "REDUCE_MAX": "iiiiiiiiiii",
    "REDUCE_MIN": "iiiiiiiiiii",
    "RELU": "iiiiiii",
    "RELU6": "ii",
    "RESHAPE": "",
    "RESIZE_BILINEAR": "",
    "RESIZE_NEAREST_NEIGHBOR": "",
    "SHAPE": "",
    "SLICE": "",
    "SOFTMAX": "d iiiiiii ppppp",
    "SPACE_TO_DEPTH": "",
    "SPLIT": "",
    "SPLIT_V": "",
    "SQUEEZE": "",
    "STRIDED_SLICE": "biiiii biiiii biiiii hhhhhb",
    "SUB": "b iiiiiiiiiiii",
    "SUM": "iiiiiiiiiii",
    "TANH": "iiii",
    "TRANSPOSE": "",
    "TRANSPOSE_CONV": "b hhhhhhhh iiiiiiiii ii pp + ii",
    "UNPACK": "",
}

#: What the kernel libraries' own kernels append to the reference kernel's structure.
LIBRARY_OP_DATA: Mapping[str, Mapping[str, str]] = {
    "reference": {},
    "cmsis-nn": {
        "AVERAGE_POOL_2D": "i",
        "CONV_2D": "i",
        "DEPTHWISE_CONV_2D": "i",
        "FULLY_CONNECTED": "iipiii",
        "MAX_POOL_2D": "i",
        "SOFTMAX": "ii",
        "TRANSPOSE_CONV": "ii",
    },
    "esp-nn": {
        "CONV_2D": "i",
        "DEPTHWISE_CONV_2D": "i",
        "FULLY_CONNECTED": "i",
        "SOFTMAX": "i",
    },
}
