"""Trains with the answers of one or several larger models (knowledge distillation).

Every other technique can learn from a teacher too: ``training.distillation``. This one is for a
student that is small already. See ``edgekit.compress.distillation`` for the methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.compress.distillation import Distillation
from edgekit.compress.settings import option
from edgekit.compress.training import Training

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject


@dataclass(frozen=True)
class Settings:
    training: Training = option(
        Training(epochs=20, distillation=Distillation()), "how it is trained, and by whom"
    )


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    from edgekit.compress.distillation import ORIGINAL

    distillation = settings.training.distillation
    if distillation is not None and distillation.teacher == (ORIGINAL,) and session.step == 0:
        return ["the only teacher is the model itself, before any other step"]
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    history = session.train(subject, settings.training)
    return replace(subject, facts={"training": history})
