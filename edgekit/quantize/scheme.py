"""Which tensors are quantised how, decided from the graph alone: before any sample is run.

Activations that must share a scale form a :class:`Group`; constants are weights, biases or
operands; where an operator computes in another format than a tensor is stored in, or needs its
operands alike and one has a fixed scale, a QUANTIZE operator goes between. What a model holds
that has no integer form is refused here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import ModelError, UsageError
from edgekit.graph.model import Graph, Op, Quantization
from edgekit.graph.reader import shown
from edgekit.quantize.policy import RULES, Form, Rule
from edgekit.quantize.prepare import place

#: An operator's number and the place of one of its inputs or outputs.
Slot = tuple[int, int]


@dataclass(frozen=True)
class Group:
    """Activations that share one scale and zero point.

    ``fixed`` is the quantisation that the specification prescribes; otherwise it comes from
    the ranges of ``ranged``, a part of ``tensors``.
    """

    tensors: tuple[int, ...]
    form: Form
    ranged: tuple[int, ...]
    fixed: Mapping[Form, Quantization] | None = None


@dataclass(frozen=True)
class Constant:
    """A constant that an operator computes with.

    ``weights`` have a scale per slice along ``axis``, or one where ``axis`` is ``None``; a
    ``bias`` has the product of input and weights; an ``operand`` its own; a ``member`` that
    of its group.
    """

    role: Literal["weights", "bias", "operand", "member"]
    tensor: int
    axis: int | None = None
    group: int | None = None


@dataclass(frozen=True)
class Scheme:
    """The decisions for one graph. Operators without real-valued tensors are in no mapping.

    ``reads`` and ``writes`` say for every real-valued activation at a slot in which group and
    form the operator takes or gives it; that may differ from how the tensor is stored.
    """

    groups: tuple[Group, ...]
    group_of: Mapping[int, int]
    forms: Mapping[int, Form]
    constants: Mapping[Slot, Constant]
    reads: Mapping[Slot, tuple[int, Form]]
    writes: Mapping[Slot, tuple[int, Form]]

    def stored(self, tensor: int) -> tuple[int, Form]:
        """Group and form in which an activation is kept."""
        group = self.group_of[tensor]
        return group, self.groups[group].form

    def weights(self) -> tuple[Slot, ...]:
        """Where the weights are, in the order of the operators."""
        return tuple(slot for slot, c in self.constants.items() if c.role == "weights")


def decide(
    graph: Graph,
    *,
    form: Form = "int8",
    int16: Collection[int] = (),
    per_tensor: Collection[int] = (),
    per_tensor_dense: bool = False,
) -> Scheme:
    """Decides the scheme of a prepared graph.

    Args:
        graph: a graph from :func:`edgekit.quantize.prepare.prepare`.
        form: the format of all activations: ``int8``, or ``int16`` beside int8 weights.
        int16: activations (tensors) that are kept in int16 where ``form`` is ``int8``; what
            shares their scale is as well, and the operators that write or read them compute
            in their 16x8 form.
        per_tensor: operators whose weights have one scale.
        per_tensor_dense: fully connected layers have one scale for their weights.

    Raises:
        ModelError: an operator has no integer form; all such are named.
        UsageError: ``int16`` names a tensor that is no real-valued activation.
    """
    _refuse_operators(graph, form)
    sets = _Sets()
    fixed: dict[int, Rule] = {}
    for index in _activations(graph):
        sets.add(index)
    for op in graph.ops:
        rule = _rule(graph, op)
        if rule is not None and rule.output == "fixed":
            fixed.update(dict.fromkeys(op.outputs, rule))
    foreign = _join(graph, sets, fixed)
    for index in int16:
        if index not in sets.parent:
            raise UsageError(f"tensor {index} is no real-valued activation of this model")
    wide = {sets.root(index) for index in int16}
    groups: list[Group] = []
    group_of: dict[int, int] = {}
    for root, members in sets.members().items():
        group_form: Form = "int16" if form == "int16" or root in wide else "int8"
        rule = next((fixed[m] for m in members if m in fixed), None)
        groups.append(
            Group(
                tensors=members,
                form=group_form,
                ranged=_ranged(graph, members),
                fixed=_fixed(rule) if rule else None,
            )
        )
        group_of.update(dict.fromkeys(members, len(groups) - 1))
    forms, constants, reads, writes = {}, {}, {}, {}
    for op in graph.ops:
        rule = _rule(graph, op)
        if rule is None:
            continue
        op_form = _op_form(op, rule, groups, group_of, form)
        forms[op.index] = op_form
        shared = _shared_group(op, rule, group_of)
        for at, index in enumerate(op.outputs):
            if index in group_of:
                writes[op.index, at] = group_of[index], op_form
        for at, index in enumerate(op.inputs):
            if index in group_of:
                own = (
                    shared if (op.index, at) in foreign and shared is not None else group_of[index]
                )
                reads[op.index, at] = own, op_form
            elif index >= 0 and graph.tensors[index].dtype == "float32":
                one_scale = op.index in per_tensor or (
                    per_tensor_dense and op.kind == "FULLY_CONNECTED"
                )
                constants[op.index, at] = _constant(graph, op, rule, at, shared, one_scale)
    return Scheme(tuple(groups), group_of, forms, constants, reads, writes)


def _refuse_operators(graph: Graph, form: Form) -> None:
    """All operators without an integer form, in one error."""
    bad: dict[str, list[Op]] = {}
    for op in graph.ops:
        if not _is_real(graph, op):
            continue
        rule = RULES.get(op.kind)
        if rule is None or not rule.has(form):
            bad.setdefault(op.kind, []).append(op)
            continue
        _refuse_operands(graph, op, rule)
    if bad:
        kinds = ", ".join(f"{kind} ({len(ops)})" for kind, ops in sorted(bad.items()))
        first = min((ops[0] for ops in bad.values()), key=lambda op: op.index)
        verb = "have" if len(bad) > 1 else "has"
        raise ModelError(
            f"{kinds} {verb} no {form} form",
            place(graph, first),
            "replace it in the model" if form == "int8" else "--quantize int8",
        )
    for index in (*graph.inputs, *graph.outputs):
        if graph.tensors[index].raw is not None:
            raise ModelError(
                "an input or output of the model is a constant", shown(graph.tensors[index].name)
            )


def _refuse_operands(graph: Graph, op: Op, rule: Rule) -> None:
    if rule.weights is None:
        return
    weights = graph.tensors[op.inputs[rule.weights]] if len(op.inputs) > rule.weights else None
    if weights is None or (weights.raw is None and op.kind != "FULLY_CONNECTED"):
        raise ModelError(f"{op.kind} whose weights are no constant has no integer form",
                         place(graph, op))  # fmt: skip
    bias = op.inputs[rule.bias] if rule.bias is not None and len(op.inputs) > rule.bias else -1
    if bias >= 0 and graph.tensors[bias].raw is None:
        raise ModelError(f"{op.kind} whose bias is no constant has no integer form",
                         place(graph, op))  # fmt: skip
    rank = 2 if op.kind == "FULLY_CONNECTED" else 4
    if len(weights.shape) != rank or 0 in weights.shape:
        raise ModelError(f"the weights have the shape {list(weights.shape)}", place(graph, op))
    channels = weights.shape[rule.axis]
    if bias >= 0 and graph.tensors[bias].elements != channels:
        raise ModelError(
            f"a bias of {graph.tensors[bias].elements} values for {channels} channels",
            place(graph, op),
        )


def _is_real(graph: Graph, op: Op) -> bool:
    """Whether an operator has to do with real numbers (shapes are worked out in int32)."""
    return any(
        graph.tensors[i].dtype.startswith("float") for i in (*op.inputs, *op.outputs) if i >= 0
    )


def _rule(graph: Graph, op: Op) -> Rule | None:
    return RULES[op.kind] if _is_real(graph, op) else None


def _activations(graph: Graph) -> list[int]:
    """Real-valued activations in the order in which they come to be."""
    found = [i for i in graph.inputs if graph.tensors[i].dtype == "float32"]
    for op in graph.ops:
        found.extend(i for i in op.outputs if graph.tensors[i].dtype == "float32")
    return list(dict.fromkeys(found))


class _Sets:
    """Disjoint sets of tensors; the first member of a set is its root."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def add(self, index: int) -> None:
        self.parent.setdefault(index, index)

    def root(self, index: int) -> int:
        while self.parent[index] != index:
            index = self.parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        first, second = sorted((self.root(a), self.root(b)), key=list(self.parent).index)
        self.parent[second] = first

    def members(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, list[int]] = {}
        for index in self.parent:
            found.setdefault(self.root(index), []).append(index)
        return {root: tuple(members) for root, members in found.items()}


def _join(graph: Graph, sets: _Sets, fixed: dict[int, Rule]) -> set[Slot]:
    """Joins what shares a scale; returns inputs that cannot, since theirs is fixed.

    An operator with one operand hands a fixed scale on. Of several operands those that are
    fixed stay apart and are converted, unless all are fixed alike.
    """
    foreign: set[Slot] = set()
    for op in graph.ops:
        rule = _rule(graph, op)
        if rule is None or rule.output not in ("same", "clip"):
            continue
        places = [at for at, i in enumerate(op.inputs) if i in sets.parent]
        found = [_fixed_rule(sets, op.inputs[at], fixed) for at in places]
        rules = {rule and tuple(sorted(rule.fixed.items())) for rule in found}
        constants = any(i >= 0 and graph.tensors[i].raw is not None
                        and graph.tensors[i].dtype == "float32" for i in op.inputs)  # fmt: skip
        # Constants beside a fixed scale are clamped to it: only padding may be.
        alike = len(rules) == 1 and (not constants or op.kind == "PADV2")
        joined = list(op.outputs)
        for at in places:
            if alike or _fixed_rule(sets, op.inputs[at], fixed) is None:
                joined.append(op.inputs[at])
            else:
                foreign.add((op.index, at))
        for index in joined[1:]:
            sets.join(joined[0], index)
        if alike and places:
            rule = _fixed_rule(sets, op.inputs[places[0]], fixed)
            if rule is not None:
                fixed.update(dict.fromkeys(op.outputs, rule))
    return foreign


def _fixed_rule(sets: _Sets, index: int, fixed: Mapping[int, Rule]) -> Rule | None:
    root = sets.root(index)
    return next((rule for i, rule in fixed.items() if sets.root(i) == root), None)


def _fixed(rule: Rule) -> dict[Form, Quantization]:
    return {form: Quantization((scale,), (point,)) for form, (scale, point) in rule.fixed.items()}


def _ranged(graph: Graph, members: tuple[int, ...]) -> tuple[int, ...]:
    """The members whose ranges make that of their group.

    Results of operators with one operand lie within the operand's range. Of several operands,
    the results' range is what matters (what lies outside of it never comes out), unless
    something else reads an operand.
    """
    inside = set(members)
    found = []
    for index in members:
        producer = graph.producer(index)
        rule = RULES.get(producer.kind) if producer else None
        shares = (
            producer is not None
            and rule is not None
            and rule.output in ("same", "clip")
            and (inside.intersection(producer.inputs) or rule.output == "clip")
        )
        if shares and producer is not None and rule is not None:
            several = sum(1 for i in producer.inputs if i >= 0
                          and graph.tensors[i].dtype == "float32") > 1  # fmt: skip
            if not several and rule.output != "clip":
                continue
            found.append(index)
            continue
        readers = graph.consumers(index)
        elsewhere = index in graph.outputs or any(not _gathers(graph, op, inside) for op in readers)
        if elsewhere or not readers:
            found.append(index)
    return tuple(found) or members


def _gathers(graph: Graph, op: Op, inside: set[int]) -> bool:
    """Whether an operator's results cover what it lets through of its operands."""
    rule = RULES.get(op.kind)
    if rule is None or rule.output not in ("same", "clip") or not inside.intersection(op.outputs):
        return False
    several = sum(1 for i in op.inputs if i >= 0 and graph.tensors[i].dtype == "float32") > 1
    return several or rule.output == "clip"


def _op_form(
    op: Op, rule: Rule, groups: list[Group], group_of: Mapping[int, int], form: Form
) -> Form:
    if form == "int16":
        return "int16"
    touched = [groups[group_of[i]].form for i in (*op.inputs, *op.outputs) if i in group_of]
    return "int16" if "int16" in touched and rule.has("int16") else "int8"


def _shared_group(op: Op, rule: Rule, group_of: Mapping[int, int]) -> int | None:
    """The group of all operands and results, where they have to be alike."""
    if rule.output not in ("same", "clip"):
        return None
    return next((group_of[i] for i in op.outputs if i in group_of), None)


def _constant(
    graph: Graph, op: Op, rule: Rule, at: int, shared: int | None, one_scale: bool
) -> Constant:
    index = op.inputs[at]
    if at == rule.weights:
        return Constant("weights", index, None if one_scale else rule.axis)
    if at == rule.bias:
        return Constant("bias", index)
    if shared is not None:
        return Constant("member", index, group=shared)
    return Constant("operand", index)
