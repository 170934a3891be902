"""Operators that Vela leaves on the CPU, and what they cost with edgekit's own kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.graph import Model, Op
    from edgekit.targets import Target


@dataclass(frozen=True)
class CpuOperator:
    """One operator that the CPU runs.

    ``instructions`` are estimated: what edgekit's kernel for the target's core takes, ``None``
    where it has none (``cost_basis`` says why). ``op`` is the operator's index in the source
    model, ``None`` where Vela made it.
    """

    op: int | None
    kind: str
    name: str
    reason: str
    core: str
    instructions: int | None
    cost_basis: str


def left_on_cpu(
    model: Model,
    compiled: Model,
    target: Target,
    reasons: Mapping[str, str],
    ignored: Iterable[str],
) -> tuple[CpuOperator, ...]:
    """The operators of Vela's output that are not the NPU's, in its order.

    Args:
        model: the source model.
        compiled: what Vela wrote.
        target: the board, for its core.
        reasons: Vela's words, by the name of the operator's output.
        ignored: operators that the user kept from the NPU.
    """
    from edgekit.engines.ethosu import NPU_OPERATOR

    written = {model.tensors[i].name: op for op in model.ops for i in op.outputs}
    kept = set(ignored)
    found = []
    for op in compiled.ops:
        if op.kind == NPU_OPERATOR:
            continue
        name = compiled.tensors[op.outputs[0]].name if op.outputs else ""
        source = written.get(name)
        reason = reasons.get(name) or (
            "kept from the NPU by ignore_ops" if op.kind in kept else "Vela gives no reason"
        )
        instructions, basis = _cost(model, source, target)
        found.append(
            CpuOperator(
                op=source.index if source else None,
                kind=op.kind,
                name=name,
                reason=reason,
                core=target.core or target.name,
                instructions=instructions,
                cost_basis=basis,
            )
        )
    return tuple(found)


def _cost(model: Model, op: Op | None, target: Target) -> tuple[int | None, str]:
    """Estimated instructions of an operator on the target's core, and where they come from."""
    from edgekit.engines.aot import select
    from edgekit.engines.aot.check import check_model, check_step
    from edgekit.engines.aot.ir import program_of
    from edgekit.engines.aot.lowering import Unsupported

    if op is None:
        return None, "the operator is not in the source model"
    constants = {i for i in op.inputs if i >= 0 and model.tensors[i].is_constant}
    graph = dataclasses.replace(
        model.main,
        ops=(dataclasses.replace(op, index=0),),
        inputs=tuple(i for i in op.inputs if i >= 0 and i not in constants),
        outputs=op.outputs,
    )
    alone = dataclasses.replace(model, graphs=(graph,))
    try:
        check_model(alone)
        program = program_of(alone)
        for step in program.steps:
            check_step(program, step)
        kernels, _ = select.choose(program, target, goal="speed", forced=())
    except (ModelError, Unsupported) as error:
        return None, error.what if isinstance(error, ModelError) else str(error)
    names = ", ".join(dict.fromkeys(kernel.function for kernel in kernels))
    return round(sum(kernel.cost for kernel in kernels)), f"edgekit's kernels: {names}"
