"""``edgekit.yaml``: a project's defaults, which flags on the command line override.

::

    target: nucleo-l4r5zi          # of every verb that has a target
    cache: build/cache             # paths are relative to this file
    targets-path: [boards]         # folders of target files of your own
    convert:                       # a verb; the keys are its options, without the dashes
      calibration-data: sample.npz

The file is optional and strict: an unknown key is an error that names its line. It is the one
that ``--config`` or ``EDGEKIT_CONFIG`` names, else the nearest between the current folder and
the root of the repository around it; outside a repository only the current folder is looked
at, so that a stray file higher up changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import yaml

    from edgekit.yamlfile import YamlFile

FILE_NAME = "edgekit.yaml"
CONFIG_VARIABLE = "EDGEKIT_CONFIG"
#: Keys that set a default of every verb that has an option (or argument) of that name.
SHARED_KEYS = ("target", "port", "engine")
_NOT_SETTABLE = ("help", "json")


@dataclass(frozen=True)
class Config:
    """What a settings file says. ``path`` is ``None`` when there is no file."""

    path: Path | None = None
    #: verb → parameter → value, in the form of click's ``default_map``
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: set where the environment does not say otherwise
    environment: dict[str, str] = field(default_factory=dict)

    def apply_environment(self) -> None:
        """Sets the environment variables that are not set yet; child processes see them too."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)


def find_config(start: Path | None = None) -> Path | None:
    """The settings file that counts for a folder (by default the current one), if any.

    Raises:
        UsageError: ``EDGEKIT_CONFIG`` names a file that does not exist.
    """
    own = os.environ.get(CONFIG_VARIABLE)
    if own is not None:
        if not own:
            return None
        if not Path(own).is_file():
            raise UsageError(f"this settings file does not exist: {own}", CONFIG_VARIABLE)
        return Path(own)
    try:
        here = (start or Path.cwd()).absolute()
    except FileNotFoundError:
        return None
    folders = [here, *here.parents]
    root = next((n for n, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    for folder in folders[: root + 1]:
        if (folder / FILE_NAME).is_file():
            # a short name in errors for the folder that the user is in
            return Path(FILE_NAME) if start is None and folder == here else folder / FILE_NAME
    return None


def load_config(
    path: Path,
    verbs: Collection[str],
    get_command: Callable[[str], click.Command | None],
    verb: str | None = None,
) -> Config:
    """Reads and checks a settings file.

    Args:
        path: the file.
        verbs: every verb's name.
        get_command: gives a verb's command; called for the verbs that the file names and for
            ``verb``, whose defaults the shared keys set.
        verb: the verb that is about to run.

    Raises:
        UsageError: with file, line and reason.
    """
    from edgekit.yamlfile import YamlFile

    file = YamlFile(path)
    if file.root is None:
        return Config(path)
    known = (*SHARED_KEYS, "cache", "targets-path", *verbs)
    defaults: dict[str, dict[str, Any]] = {}
    environment: dict[str, str] = {}
    shared: dict[str, str] = {}
    for key, (_, node) in file.mapping(file.root, FILE_NAME, known).items():
        if key in SHARED_KEYS:
            shared[key] = file.text(node, f"'{key}'")
        elif key == "cache":
            environment["EDGEKIT_CACHE"] = str(_path(path, file.text(node, "'cache'")))
        elif key == "targets-path":
            folders = [
                str(_path(path, file.text(item, "a folder of target files")))
                for item in file.sequence(node, "'targets-path'")
            ]
            environment["EDGEKIT_TARGETS_PATH"] = os.pathsep.join(folders)
        else:
            command = get_command(key)
            if command is not None:
                defaults[key] = _verb_defaults(file, node, key, command)
    command = get_command(verb) if verb is not None and verb in verbs else None
    if verb is not None and command is not None:
        mine = {
            str(parameter.name): [shared[parameter.name]]
            if isinstance(parameter, click.Option) and parameter.multiple
            else shared[parameter.name]
            for parameter in command.params
            if parameter.name in shared
        }
        defaults[verb] = {**mine, **defaults.get(verb, {})}
    return Config(path, defaults, environment)


def _verb_defaults(
    file: YamlFile, node: yaml.Node, verb: str, command: click.Command
) -> dict[str, Any]:
    options = settable_options(command)
    found: dict[str, Any] = {}
    for key, (key_node, value) in file.mapping(node, f"'{verb}'", sorted(options)).items():
        option = options[key]
        if option.name in found:
            raise file.error(key_node, f"'{key}' sets an option of '{verb}' a second time")
        found[str(option.name)] = _value(file, value, f"'{verb}: {key}'", option)
    return found


def _value(file: YamlFile, node: yaml.Node, what: str, option: click.Option) -> Any:
    value = file.plain(node, what)
    if isinstance(value, dict):
        # an option such as --set key=value, which can be given several times
        if not option.multiple:
            raise file.error(node, f"{what} must be a single value, not a mapping")
        value = [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list):
        if not option.multiple and option.nargs == 1:
            raise file.error(node, f"{what} must be a single value, not a list")
        return [_single(file, node, what, option, item) for item in value]
    single = _single(file, node, what, option, value)
    return [single] if option.multiple else single


def _single(file: YamlFile, node: yaml.Node, what: str, option: click.Option, value: Any) -> Any:
    if value is None or isinstance(value, (dict, list)):
        raise file.error(node, f"{what} has no value")
    if option.is_flag and option.is_bool_flag:
        if not isinstance(value, bool):
            raise file.error(node, f"{what} must be yes or no, not '{value}'")
        return value
    if isinstance(value, bool):
        raise file.error(node, f"{what} takes a value, not yes or no")
    if isinstance(option.type, click.Path):
        return str(_path(file.path, str(value)))
    # click converts the text once more; here it is tried so that an error names the line
    text = str(value)
    try:
        option.type.convert(text, option, None)
    except click.UsageError as error:
        raise file.error(node, f"{what}: {error.message.rstrip('.')}") from None
    return text


def _path(file: Path, text: str) -> Path:
    return (file.absolute().parent / Path(text).expanduser()).absolute()


def settable_options(command: click.Command) -> dict[str, click.Option]:
    """The keys that a verb's section of ``edgekit.yaml`` may have, and what they set."""
    return {
        spelling[2:]: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for spelling in parameter.opts
        if spelling.startswith("--") and spelling[2:] not in _NOT_SETTABLE
    }
