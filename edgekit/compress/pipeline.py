"""A recipe on a model: checked, trained step by step, and compared before and after."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit.compress import conversion, data, footprint, models
from edgekit.compress import task as tasks
from edgekit.compress.distillation import ORIGINAL, Teacher
from edgekit.compress.footprint import Footprint
from edgekit.compress.keras_graph import read_graph, rebuild
from edgekit.compress.models import Loaded
from edgekit.compress.recipe import Recipe, RecipeStep
from edgekit.compress.session import Session, Subject
from edgekit.compress.trainable import find_head
from edgekit.convert import frameworks, sources
from edgekit.convert.calibration import Reading
from edgekit.errors import EdgekitError, LimitError, ModelError, UsageError
from edgekit.files import folder_atomic, write_atomic
from edgekit.records import from_json, to_json
from edgekit.targets import load_target

if TYPE_CHECKING:
    from edgekit.compress.data import Data
    from edgekit.compress.training import Progress

#: How much a figure must change to count as changed.
_NOTEWORTHY = 0.03


@dataclass(frozen=True)
class Request:
    """What ``edgekit compress`` was asked for."""

    source: Path
    output: Path
    recipe: Recipe
    data: Path
    held_out: float = 0.2
    held_out_data: Path | None = None
    reading: Reading = field(default_factory=Reading)
    task: str | None = None
    target: str | None = None
    restart: bool = False
    allow_custom_code: bool = False
    custom_objects: Path | None = None
    signature: str | None = None


@dataclass(frozen=True)
class State:
    """A model's worth: its metric as a float and as a full-integer model, and what it costs.

    The metric is measured on the held-out examples, on this computer.
    """

    score_float: float | None
    score_integer: float
    footprint: Footprint


@dataclass(frozen=True)
class StepResult:
    """One step: what its technique says of the result, and the float model's metric after it."""

    technique: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    score: float | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """Before and after, and what happened between. ``remarks`` say what did not change."""

    model: str
    source_sha256: str
    recipe: Mapping[str, Any]
    task: str
    metric: str
    trained_on: int
    held_out: int
    before: State
    after: State
    steps: tuple[StepResult, ...]
    files: Mapping[str, str]
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    #: budgets that the result does not keep to after all
    exceeded: tuple[str, ...] = ()


def compress(
    request: Request,
    progress: Progress = lambda text, done, total: None,
    note: Callable[[str], None] = lambda text: None,
    *,
    isolated: bool = True,
    before: State | None = None,
) -> Report:
    """Compresses a model and writes a folder with the result and the report.

    Checkpoints are kept in ``OUT.unfinished`` until the run is complete; the same request
    goes on from there.

    Args:
        request: what to do.
        progress: told what is being trained, and how far it is.
        note: told a sentence when a stage begins.
        isolated: convert in child processes, where TensorFlow may crash.
        before: the figures of the model as given, where they are known.

    Raises:
        ModelError: the model or the data cannot be used, or a technique does not take them.
        UsageError: the request makes no sense, or unfinished work of another one is there.
        LimitError: the outputs of the virtual board are not TFLM's.
    """
    # what is missing or has a wrong name is told before TensorFlow is loaded, which takes seconds
    _require_output(request.output)
    if request.target is not None:
        load_target(request.target)
    sources.identify(request.source)
    for path in (request.data, request.held_out_data):
        if path is not None and not path.exists():
            raise ModelError("there is no such file or folder", str(path))
    if request.custom_objects is not None and not request.custom_objects.exists():
        raise UsageError("there is no such file", str(request.custom_objects))
    frameworks.tensorflow()
    note(f"loading {request.source.name}")
    loaded = _load(request)
    found, task = _data(request, loaded)
    work = _Work(request, loaded, found, task)
    with work.open(request.restart):
        return _compress(request, loaded, found, task, work, progress, note, isolated, before)


def _require_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError("the output is a file; -o takes a folder", str(output))
    if not output.absolute().parent.is_dir():
        raise UsageError("the output's folder does not exist", str(output.parent))
    if output.is_dir() and any(output.iterdir()) and not (output / "manifest.json").exists():
        raise UsageError(
            "the output folder exists and was not made by edgekit; nothing was written",
            str(output),
            "another folder with -o, or remove this one",
        )


def _load(request: Request) -> Loaded:
    return models.load(
        request.source,
        allow_custom_code=request.allow_custom_code,
        custom_objects=request.custom_objects,
        signature=request.signature,
    )


def _data(request: Request, loaded: Loaded) -> tuple[Data, tasks.Task]:
    graph = loaded.graph
    found = data.read_data(
        request.data,
        models.ports(graph),
        request.reading,
        held_out=request.held_out,
        held_out_data=request.held_out_data,
    )
    ends = (graph.outputs[0], graph.inputs[0])
    shapes = [tuple(int(d or 0) for d in graph.shapes[tensor][1:]) for tensor in ends]
    head = find_head(graph)
    task = tasks.find_task(head, shapes[0], shapes[1], found.held_out, request.task)
    # the training data must fit as well, before anything is trained
    tasks.find_task(head, shapes[0], shapes[1], found.training.first(1000), task.name)
    return found, task


def _compress(
    request: Request,
    loaded: Loaded,
    found: Data,
    task: tasks.Task,
    work: _Work,
    progress: Progress,
    note: Callable[[str], None],
    isolated: bool,
    known: State | None,
) -> Report:
    recipe = request.recipe
    original = loaded.graph
    session = Session(
        found,
        task,
        original,
        teachers=_teachers(recipe, loaded, request),
        target=request.target,
        work=work.folder,
        progress=progress,
        note=note,
    )
    # techniques train in place: the model as given stays, to be compared and learned from
    subject = Subject(read_graph(original.keras, rebuild(original)))
    warnings = [*found.warnings, *_checked(recipe, subject, session)]
    name = conversion.file_name(request.source.stem)
    before = known or work.before(
        lambda: _state(subject, session, name, request.target, isolated, note, "before")
    )
    steps: list[StepResult] = []
    for place, step in enumerate(recipe.steps):
        title = f"step {place + 1} of {len(recipe.steps)}: {step.technique}"
        at = session.at_step(place, title)
        finished = work.finished(place, original.keras)
        if finished is not None:
            note(f"{title} was finished before")
            subject, result = finished
        else:
            note(title)
            subject, result = _take(step, subject, at)
            work.keep(place, subject, result)
        steps.append(result)
    after = _state(subject, session, name, request.target, isolated, note, "after", steps[-1].score)
    report = Report(
        model=name,
        source_sha256=loaded.source.sha256,
        recipe=recipe.as_json(),
        task=task.name,
        metric=task.metric,
        trained_on=len(found.training),
        held_out=len(found.held_out),
        before=before,
        after=after[0],
        steps=tuple(steps),
        files={},
        remarks=remarks(before, after[0], subject),
        warnings=tuple(dict.fromkeys(warnings)),
        exceeded=tuple(
            text
            for step in recipe.steps
            if hasattr(step.module, "exceeded")
            for text in step.module.exceeded(step.settings, after[0].footprint)
        ),
    )
    return _write(request, loaded, subject, after[1], report)


def _teachers(recipe: Recipe, loaded: Loaded, request: Request) -> dict[str, Teacher]:
    """Every teacher that the recipe names.

    Raises:
        ModelError: a teacher cannot be loaded, or does not fit the student.
    """
    found = {}
    graph = loaded.graph
    for name in recipe.teachers:
        if name == ORIGINAL:
            teacher = graph
        else:
            teacher = models.load(
                Path(name),
                allow_custom_code=request.allow_custom_code,
                custom_objects=request.custom_objects,
            ).graph
            ends = [[g.shapes[t][1:] for t in (*g.inputs, *g.outputs)] for g in (graph, teacher)]
            if ends[0] != ends[1]:
                raise ModelError(
                    f"the teacher's inputs and outputs {ends[1]} are not the student's {ends[0]}",
                    name,
                )
        found[name] = Teacher(teacher, find_head(teacher))
    return found


def _checked(recipe: Recipe, subject: Subject, session: Session) -> list[str]:
    """Asks every technique whether it takes the model, before anything is trained.

    Later steps see other models than the one given; what they refuse then is said then.
    """
    from edgekit.compress import training

    sentences = []
    for place, step in enumerate(recipe.steps):
        at = session.at_step(place, step.technique)
        try:
            sentences += step.module.check(subject, step.settings, at)
            if step.training is not None:
                training.check_settings(step.training, subject.graph, session)
        except EdgekitError as error:
            where = f"step {place + 1} ({step.technique})"
            error.where = f"{where}: {error.where}" if error.where else where
            raise
    return sentences


def _take(step: RecipeStep, subject: Subject, session: Session) -> tuple[Subject, StepResult]:
    started = time.perf_counter()
    subject = step.module.apply(subject, step.settings, session)
    seconds = time.perf_counter() - started
    score = None if subject.quantized is not None else session.score(subject.graph)
    recipe = Recipe("", (step,)).as_json()["steps"][0]
    result = StepResult(
        step.technique, recipe["settings"], to_json(dict(subject.facts)), score, seconds
    )
    return subject, result


def _state(
    subject: Subject,
    session: Session,
    name: str,
    target: str | None,
    isolated: bool,
    note: Callable[[str], None],
    when: str,
    known_score: float | None = None,
) -> tuple[State, bytes]:
    """A model's worth, and its full-integer file."""
    note(f"measuring the model {when}")
    content = subject.quantized
    if content is None:
        content = conversion.to_int8(
            subject.graph,
            session.data.training.first(conversion.CALIBRATION_SAMPLES),
            name,
            isolated=isolated,
        )
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        cost = footprint.measure(content, target, Path(folder), f"{name}_int8")
    if cost.outputs_equal is False:
        raise LimitError(
            "the outputs of the virtual board differ from TFLM's", target, "please report this"
        )
    score = conversion.score(content, session.data.held_out, session.task)
    floating = known_score
    if floating is None and subject.quantized is None:
        floating = session.score(subject.graph)
    return State(floating, score, cost), content


def remarks(before: State, after: State, subject: Subject) -> tuple[str, ...]:
    """What a user must know of the result: whether what was done pays on the device."""
    found = []
    old, new = before.footprint, after.footprint
    zipped = 1 - new.gzip_bytes / old.gzip_bytes
    if subject.sparse or subject.shared:
        what = " and ".join(
            text for text, given in (("zeros", subject.sparse), ("shared weights", subject.shared))
            if given
        )  # fmt: skip
        found.append(
            f"{what}: the file shrinks by {zipped:.0%} under gzip (measured), "
            f"from {old.gzip_bytes:,} to {new.gzip_bytes:,} B"
        )
        if old.flash_bytes and new.flash_bytes:
            change = new.flash_bytes / old.flash_bytes - 1
            if abs(change) <= _NOTEWORTHY:
                found.append(
                    f"what is flashed does not shrink: {old.flash_bytes:,} B before, "
                    f"{new.flash_bytes:,} B after; the engine stores every weight in a byte"
                )
    if old.instructions and new.instructions:
        saved = 1 - new.instructions / old.instructions
        if abs(saved) <= _NOTEWORTHY:
            found.append("an inference takes as long as before")
    return tuple(found)


def _write(
    request: Request, loaded: Loaded, subject: Subject, content: bytes, report: Report
) -> Report:
    with folder_atomic(request.output) as folder:
        names = {"integer model": f"{report.model}_int8.tflite", "report": "report.json"}
        (folder / names["integer model"]).write_bytes(content)
        if subject.quantized is None:
            names["model"] = f"{report.model}{loaded.suffix}"
            models.save(subject.graph, folder / names["model"])
        report = replace(report, files=names)
        document = {
            "schema_version": 1, "edgekit": edgekit.__version__, "stage": "compress",
            **to_json(report),
        }  # fmt: skip
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        manifest = {
            "schema_version": 1,
            "edgekit": edgekit.__version__,
            "stage": "compress",
            "source": {"name": loaded.source.path.name, "sha256": loaded.source.sha256},
            "files": {
                name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                for name in sorted(names.values())
            },
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return report


def work_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints until it is complete."""
    return output.absolute().with_name(f"{output.name}.unfinished")


class _Work:
    """The folder of an unfinished run: what it is a run of, and how far it came."""

    def __init__(self, request: Request, loaded: Loaded, found: Data, task: tasks.Task) -> None:
        self.folder = work_folder(request.output)
        identity = {
            "edgekit": edgekit.__version__,
            "source": loaded.source.sha256,
            "recipe": request.recipe.as_json()["steps"],
            "held out": found.held_out.sha256,
            "training": [len(found.training), found.training.first(1000).sha256],
            "task": task.name,
            "target": request.target,
        }
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._suffix = loaded.suffix

    def open(self, restart: bool) -> _Opened:
        """Takes up the unfinished run, if it is this one.

        Raises:
            UsageError: another run is unfinished there.
        """
        marker = self.folder / "run.json"
        if restart and self.folder.exists():
            self._require_ours(marker)
            shutil.rmtree(self.folder)
        if self.folder.exists():
            self._require_ours(marker)
            if json.loads(marker.read_text())["identity"] != self._identity:
                raise UsageError(
                    "an unfinished run of another model, recipe, data or target is here",
                    str(self.folder),
                    "--restart to throw it away, or another folder with -o",
                )
        else:
            try:
                self.folder.mkdir()
            except OSError as error:
                raise UsageError(f"cannot write here: {error.strerror}", str(self.folder)) from None
            write_atomic(marker, json.dumps({"identity": self._identity}))
        return _Opened(self.folder)

    def _require_ours(self, marker: Path) -> None:
        try:
            ours = "identity" in json.loads(marker.read_text())
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise UsageError(
                "the folder for checkpoints exists and was not made by edgekit",
                str(self.folder),
                "another folder with -o, or remove this one",
            )

    def before(self, measure: Callable[[], tuple[State, bytes]]) -> State:
        """The figures of the model as given, measured once."""
        path = self.folder / "before.json"
        if path.exists():
            return from_json(State, json.loads(path.read_text()))
        state, _ = measure()
        write_atomic(path, json.dumps(to_json(state)))
        return state

    def keep(self, place: int, subject: Subject, result: StepResult) -> None:
        """Notes a finished step; its checkpoints go."""
        stem = self.folder / f"step{place:02d}"
        if subject.quantized is not None:
            write_atomic(stem.with_suffix(".tflite"), subject.quantized)
        models.save(subject.graph, stem.with_suffix(self._suffix))
        said = {
            "sparse": list(subject.sparse), "shared": list(subject.shared),
            "result": to_json(result),
        }  # fmt: skip
        # this file is what says that the step is finished
        write_atomic(stem.with_suffix(".json"), json.dumps(said))
        for path in self.folder.glob(f"step{place:02d}*.checkpoint.npz"):
            path.unlink()

    def finished(self, place: int, keras: Any) -> tuple[Subject, StepResult] | None:
        """A step that was finished before, if it was."""
        stem = self.folder / f"step{place:02d}"
        if not stem.with_suffix(".json").exists():
            return None
        said = json.loads(stem.with_suffix(".json").read_text())
        quantized = stem.with_suffix(".tflite")
        subject = Subject(
            models.restore(keras, stem.with_suffix(self._suffix)),
            tuple(said["sparse"]),
            tuple(said["shared"]),
            quantized.read_bytes() if quantized.exists() else None,
        )
        return subject, from_json(StepResult, said["result"])


@dataclass(frozen=True)
class _Opened:
    """Removes the folder of checkpoints when the run is complete, and only then."""

    folder: Path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        # nothing was trained yet: there is nothing to go on from
        if not any(self.folder.glob("step*")):
            shutil.rmtree(self.folder, ignore_errors=True)
