"""Which variable a name or an id means in a submit, and which ones it adds.

    a name that the submit or the session knows    that variable
    a name that nobody knows                       a new one, empty or with the value that comes along
    an id                                          one of the session's

Responsible for: names, what may be assigned and produced (once), and how many calls read a variable. Changes
nothing of the session. Leaves to others: what a call's placeholders are (`session.plan`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from server.errors import BadRequest, Conflict, NotFound, TooLarge
from server.graph.call import InputSpec, VariableSpec
from server.graph.dag import ID_PREFIX, CallGraph
from server.graph.variable import SemanticVariable
from server.session.limits import Limits

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_name(name: str, param: str) -> None:
    """Raises BadRequest for what cannot name a variable."""
    if not _NAME.fullmatch(name) or name.startswith(ID_PREFIX):
        raise BadRequest(
            f"{name[:140]!r} cannot name a variable: 1 to 128 of A-Z a-z 0-9 _ . -, and not var_ in front.",
            param=param,
        )


def check_size(value: str, limits: Limits, param: str) -> None:
    """Raises TooLarge."""
    if len(value) > limits.value:
        raise TooLarge(f"A value may have at most {limits.value} characters.", param=param)


def check_assignable(variable: SemanticVariable, value: str, param: str) -> bool:
    """Whether `value` still has to be set; false when it is there already. Raises Conflict."""
    if variable.producer is not None:
        call = variable.producer.call.id
        raise Conflict(
            f"The variable {variable.name!r} is produced by {call}.", param=param, code="already_produced"
        )
    if variable.value == value:
        return False
    if variable.ended:
        raise Conflict(
            f"The variable {variable.name!r} has another value.", param=param, code="already_assigned"
        )
    return True


@dataclass(slots=True)
class Bindings:
    """Owns the variables that the submit would add, and the values it would give. Its methods raise ApiError.

    `new_id("var")`: see `plan.Environment`.
    """

    graph: CallGraph
    limits: Limits
    new_id: Callable[[str], str]
    variables: dict[str, VariableSpec] = field(default_factory=dict)
    values: dict[str, VariableSpec] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # new names, and the ids they stand for
    _produced: set[str] = field(default_factory=set)
    _reads: dict[str, int] = field(default_factory=dict)

    def give(self, name: str, value: str, param: str) -> None:
        """A variable's value that comes with the submit."""
        check_name(name, param)
        check_size(value, self.limits, param)
        existing = self.graph.find(name)
        if existing is None:
            self.new(name, value)
        elif check_assignable(existing, value, param):
            self.values[existing.id] = VariableSpec(existing.id, value=value)

    def is_read(self, id: str) -> bool:
        """By a call of the submit, or of the session."""
        known = self.graph.variables.get(id)
        return id in self._reads or (known is not None and bool(known.consumers))

    def bind(self, ref: str, param: str) -> str:
        """The id of the variable that `ref` means; a name that is new makes one."""
        if (id := self.names.get(ref)) is not None:
            return id
        if (known := self.graph.find(ref)) is not None:
            return known.id
        if ref.startswith(ID_PREFIX):
            raise NotFound(f"The session has no variable {ref[:140]!r}.", param=param)
        check_name(ref, param)
        return self.new(ref, None)

    def bind_output(self, ref: str, param: str) -> str:
        id = self.bind(ref, param)
        known = self.graph.variables.get(id)
        if id in self._produced or (known is not None and known.producer is not None):
            raise Conflict(
                f"The variable {ref!r} is produced by another call.", param=param, code="already_produced"
            )
        given = self.values.get(id) or self.variables.get(id)
        if (known is not None and known.ended) or (given is not None and given.value is not None):
            raise Conflict(f"The variable {ref!r} has a value already.", param=param, code="already_assigned")
        self._produced.add(id)
        return id

    def existing(self, ref: str, param: str) -> str:
        known = self.graph.find(ref)
        id = self.names.get(ref) if known is None else known.id
        if id is None:
            raise NotFound(f"Nothing mentions a variable {ref[:140]!r}.", param=param)
        return id

    def new(self, name: str | None, value: str | None) -> str:
        id = self.new_id("var")
        self.variables[id] = VariableSpec(id, name, value)
        if name is not None:
            self.names[name] = id
        return id

    def count_reads(self, bound: Iterable[InputSpec], param: str) -> None:
        for id in {item.variable for item in bound}:
            known = self.graph.variables.get(id)
            self._reads[id] = self._reads.get(id, 0) + 1
            if self._reads[id] + (len(known.consumers) if known else 0) > self.limits.fan_out:
                raise BadRequest(
                    f"A variable may be read by at most {self.limits.fan_out} calls.",
                    param=param,
                    code="limit_exceeded",
                )
