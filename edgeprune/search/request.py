"""What a run is asked to do, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from edgeprune.budget import Budget
from edgeprune.decode import JsonObject
from edgeprune.profile import Profile
from edgeprune.profile import load as load_profile
from edgeprune.search.fingerprint import Fingerprint, digest_of, fingerprint_of
from edgeprune.search.options import Options
from edgeprune.task import Task


@dataclass(frozen=True)
class RunRequest:
    """``task``: with its model. ``target``: a device's name or address; ``profile``: the name of known facts; one of them is given.
    ``recipe``: the file that the task was loaded from, for resuming from the command line. ``facts``: what :func:`preflight` loaded of
    ``profile``. ``source``: where ``recipe`` is a model file, how it became a task, in JSON's types. Picklable where the task is."""

    task: Task
    budget: Budget
    target: str | None = None
    profile: str | None = None
    options: Options = field(default_factory=Options)
    recipe: str | None = None
    facts: Profile | None = None
    source: JsonObject | None = None

    @cached_property
    def known_profile(self) -> Profile | None:
        """The profile of that name.  Raises :class:`ProfileError` for an unknown one."""
        return load_profile(self.profile) if self.facts is None and self.profile is not None else self.facts

    @cached_property
    def model_digest(self) -> str:
        """A hash of the model's structure and weights."""
        return digest_of(self.task.model)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """All that the result depends on, in JSON's types, the model as a hash; resuming requires an exact match."""
        asked: JsonObject = {"target": self.target, "profile": self.profile, "recipe": self.recipe}
        if self.source is not None:
            asked["source"] = self.source
        return fingerprint_of(self.task, self.model_digest, self.budget, self.options, asked)

    def with_budget(self, budget: Budget) -> RunRequest:
        """The same request under another budget; the model is not hashed again."""
        other = replace(self, budget=budget)
        other.__dict__["model_digest"] = self.model_digest
        return other
