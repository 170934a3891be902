"""Trains on as it is: after other steps, or with other data.

Zeros and shared weights that earlier steps made stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.compress.settings import option
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    training: Training = option(Training(), "how it is trained")


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    history = session.train(subject, settings.training)
    return replace(subject, facts={"training": history})
