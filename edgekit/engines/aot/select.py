"""Which kernel runs each step: the cheapest exact one that the target can execute."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgekit.engines.aot import ops
from edgekit.engines.aot.check import check_step
from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.lowering import Kernel, Unsupported
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.targets import Target

#: What a build is optimised for, with the order in which candidates are compared.
GOALS = ("speed", "ram", "flash")

#: Stands for all kernels in portable C where kernels are named.
PORTABLE = "portable"


def candidates(program: Program, step: Instruction, target: Target | None) -> tuple[Kernel, ...]:
    """Every exact way to run a step on the target, as its operator's file gives them.

    Raises:
        Unsupported: there is none.
        ModelError: the step's tensors contradict each other.
    """
    module = ops.find(step.kind)
    if module is None:
        raise Unsupported("the engine has no kernel for this operator")
    check_step(program, step)
    try:
        found: tuple[Kernel, ...] = module.lower(program.node(step), target)
    except (ValueError, IndexError, KeyError, ArithmeticError, TypeError) as error:
        # A file may hold anything; what a lowering stumbles over is no fault of the program's.
        raise Unsupported(f"its tensors or options make no sense ({error})") from error
    fitting = tuple(kernel for kernel in found if runs_on(kernel, target))
    if not fitting:
        raise Unsupported("none of its kernels runs on the target's core")
    return fitting


def runs_on(kernel: Kernel, target: Target | None) -> bool:
    """Whether the target's core executes the kernel; without a target, portable C only."""
    if target is None:
        return not kernel.requires and not kernel.cores
    if kernel.cores and target.core not in kernel.cores:
        return False
    return all(target.has(extension) for extension in kernel.requires)


def macs(program: Program, step: Instruction) -> int:
    """Multiply-accumulates of a step as it runs."""
    count = getattr(ops.find(step.kind), "macs", None)
    return int(count(program.node(step))) if count else 0


def choose(
    program: Program,
    target: Target | None,
    *,
    goal: str = "speed",
    forced: Collection[str] = (),
    lowered: dict[Any, tuple[Kernel, ...]] | None = None,
) -> tuple[tuple[Kernel, ...], tuple[tuple[Kernel, ...], ...]]:
    """A kernel per step, and per step all that could take its place.

    Layouts agree: a reader takes what the step before it leaves.

    Args:
        program: after all passes.
        target: what must execute it; ``None`` for portable C.
        goal: ``speed``, ``ram`` or ``flash``.
        forced: names of kernel functions that win wherever they are a candidate; with
            :data:`PORTABLE` among them, kernels of single instruction sets are left out.
        lowered: what is known already of steps that are alike; kept by the caller.

    Raises:
        ModelError: a step has no kernel; names the operator and the engine that takes it.
    """
    lowered = {} if lowered is None else lowered
    layouts: dict[int, str] = {}
    chosen = []
    alternatives = []
    for step in program.steps:
        try:
            signature = _signature(program, step)
            found = lowered.get(signature) or candidates(program, step, target)
            lowered[signature] = found
        except Unsupported as error:
            raise refusal(program, step, str(error)) from None
        found = tuple(k for k in found if _suits_places(program, step, k))
        fitting = [k for k in found if _agrees(program, step, k, layouts, target)]
        if not fitting:
            raise refusal(program, step, "no kernel takes the layout or the place of its inputs")
        if PORTABLE in forced:
            fitting = [k for k in fitting if not k.requires and not k.cores] or fitting
        preferred = [kernel for kernel in fitting if kernel.function in forced] or fitting
        kernel = min(preferred, key=lambda k: _rank(program, step, k, goal))
        for tensor in step.outputs:
            layouts[program.home(tensor)] = kernel.output_layout
        chosen.append(kernel)
        alternatives.append(
            tuple(
                other
                for other in preferred
                if other.output_layout == kernel.output_layout
                and other.input_layouts == kernel.input_layouts
            )
        )
    return tuple(chosen), tuple(alternatives)


def _signature(program: Program, step: Instruction) -> Any:
    """Equal for steps that have the same candidates, such as the strips of an operator."""
    tensors = tuple(
        (program.origin(i), program.tensors[i].shape) if i >= 0 else None
        for i in (*step.inputs, *step.outputs)
    )
    return (step.kind, step.ops, tensors, repr(sorted(step.options.items())))


def _suits_places(program: Program, step: Instruction, kernel: Kernel) -> bool:
    """Whether the kernel can run where views put its inputs and outputs for good."""
    data = [i for i in step.inputs if i >= 0 and not program.tensors[i].is_constant]
    if any(program.offset(i) % kernel.align_bytes for i in (*data, *step.outputs)):
        return False
    for number, out in enumerate(step.outputs):
        for slot, tensor in enumerate(step.inputs):
            if tensor not in data or program.home(tensor) != program.home(out):
                continue
            shift = program.offset(out) - program.offset(tensor)
            if shift >= program.tensors[tensor].nbytes or -shift >= program.tensors[out].nbytes:
                continue
            windows = (o for o in kernel.overlaps if (o.input, o.output) == (slot, number))
            if not any(o.allows(shift) for o in windows):
                return False
    return True


def _agrees(
    program: Program,
    step: Instruction,
    kernel: Kernel,
    layouts: dict[int, str],
    target: Target | None,
) -> bool:
    for slot, tensor in enumerate(step.inputs):
        if tensor < 0 or program.tensors[tensor].is_constant:
            continue
        if layouts.get(program.home(tensor), "nhwc") != kernel.input_layout(slot):
            return False
    if kernel.output_layout == "nhwc":
        return True
    # Another layout must suit everyone who reads it, and nobody outside may see it.
    homes = {program.home(tensor) for tensor in step.outputs}
    if homes & {program.home(tensor) for tensor in program.outputs}:
        return False
    for reader in program.steps:
        for slot, tensor in enumerate(reader.inputs):
            if tensor < 0 or program.home(tensor) not in homes:
                continue
            if tensor in program.views:
                return False
            try:
                takers = candidates(program, reader, target)
            except Unsupported:
                return False
            if all(taker.input_layout(slot) != kernel.output_layout for taker in takers):
                return False
    return True


def _rank(program: Program, step: Instruction, kernel: Kernel, goal: str) -> tuple[float, ...]:
    flash = sum(table.nbytes for table in kernel.tables)
    if goal == "ram":
        return (kernel.scratch_bytes + _apart_bytes(program, step, kernel), kernel.cost)
    if goal == "flash":
        # A percent of a step's tables is worth two percent of its time, not more: most of what
        # can be saved is code, which steps then share.
        return (kernel.cost * max(flash, 1) ** 2, flash)
    return (kernel.cost, kernel.scratch_bytes)


def _apart_bytes(program: Program, step: Instruction, kernel: Kernel) -> int:
    """Bytes of the output that cannot lie over an input."""
    out = program.tensors[step.outputs[0]].nbytes
    best = out
    for overlap in kernel.overlaps:
        tensor = step.inputs[overlap.input]
        if tensor < 0:
            continue
        data = program.tensors[tensor].nbytes
        shifts = [s for s in (overlap.min_shift, overlap.max_shift, 0) if s is not None]
        for shift in (s for s in shifts if overlap.allows(s)):
            best = min(best, max(data, shift + out) - min(0, shift) - data)
    return best


def refusal(program: Program, step: Instruction, reason: str) -> ModelError:
    """The error for a step that this engine cannot run; names an engine that takes the model."""
    from edgekit import engines

    if step.kind == "CUSTOM:edgetpu-custom-op":
        fix = "--engine edgetpu: the model is compiled for the Edge TPU"
    elif engines.load("tflm").supports(program.model, None).ok:
        fix = "--engine tflm, which runs TFLM's own kernels"
    else:
        fix = "edgekit convert, which makes full-integer int8 models"
    return ModelError(f"the engine aot cannot run {step.kind}: {reason}", program.place(step), fix)
