"""Where new tasks stand in the topological order, and whether they close a cycle.

Every task has an `order` greater than that of all it depends on (by a value, or by the context it continues).
New tasks are placed one after the other behind what they depend on; a placed task that stands before an
existing consumer pushes it, and what follows from it, further back (after Pearce and Kelly, 2006, with levels
in place of a permutation). A push that arrives at the new task itself has gone round a cycle. Iterative; a
chain that grows at its end or at its beginning costs O(1) a task.

Nothing is changed here: the result says what `CallGraph` has to change.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from server.errors import Conflict
from server.graph.call import CallSpec, Task
from server.graph.template import Input, Output
from server.graph.variable import SemanticVariable


@dataclass(frozen=True, slots=True)
class Orders:
    """`new`: for each call the orders of its tasks. `moved`: existing tasks that go further back."""

    new: tuple[tuple[int, ...], ...]
    moved: tuple[tuple[str, int], ...] = ()


def place(specs: Sequence[CallSpec], variables: Mapping[str, SemanticVariable]) -> Orders:
    """Raises Conflict when the calls, with what is there already, form a cycle."""
    placement = _Placement(specs, variables)
    for node in placement.sorted():
        placement.place(node)
    tasks = iter(placement.nodes)
    new = tuple(tuple(next(tasks).order for _ in spec.outputs) for spec in specs)
    return Orders(new, tuple((task.id, order) for task, order in placement.moved.items()))


def reads(spec: CallSpec) -> Iterator[tuple[str, ...]]:
    """For each output, the distinct variables that are filled in between it and the output before it."""
    bound = {item.name: item.variable for item in spec.inputs}
    read: dict[str, None] = {}
    for segment in spec.segments:
        if isinstance(segment, Input):
            read[bound[segment.name]] = None
        elif isinstance(segment, Output):
            yield tuple(read)
            read = {}


@dataclass(slots=True, eq=False)
class _Node:
    """A task that does not exist yet."""

    call: int
    reads: tuple[str, ...]
    writes: str
    previous: _Node | None
    next: _Node | None = None
    order: int = 0
    placed: bool = False


@dataclass(slots=True)
class _Placement:
    specs: Sequence[CallSpec]
    variables: Mapping[str, SemanticVariable]
    nodes: list[_Node] = field(default_factory=list)
    producers: dict[str, _Node] = field(default_factory=dict)
    consumers: dict[str, list[_Node]] = field(default_factory=dict)
    moved: dict[Task, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, spec in enumerate(self.specs):
            previous: _Node | None = None
            for output, read in zip(spec.outputs, reads(spec), strict=True):
                node = _Node(index, read, output.variable, previous)
                if previous is not None:
                    previous.next = node
                self.nodes.append(node)
                self.producers[output.variable] = node
                for id in read:
                    self.consumers.setdefault(id, []).append(node)
                previous = node

    def sorted(self) -> list[_Node]:
        """The new tasks in topological order among themselves (Kahn, 1962). Raises Conflict."""
        missing = {node: self._count(node) for node in self.nodes}
        free = deque(node for node in self.nodes if not missing[node])
        found: list[_Node] = []
        while free:
            node = free.popleft()
            found.append(node)
            following = self.consumers.get(node.writes, ())
            for consumer in (*following, node.next) if node.next is not None else following:
                missing[consumer] -= 1
                if not missing[consumer]:
                    free.append(consumer)
        if len(found) < len(self.nodes):
            raise self._cycle(self._on_cycle(missing))
        return found

    def place(self, node: _Node) -> None:
        orders = [self._order(producer) for producer in self._producers(node)]
        variable = self.variables.get(node.writes)
        behind = [self._order(task) for task in variable.consumers] if variable is not None else []
        node.order = max(orders) + 1 if orders else min(behind, default=1) - 1
        node.placed = True
        self._push(node)

    def _count(self, node: _Node) -> int:
        return sum(id in self.producers for id in node.reads) + (node.previous is not None)

    def _producers(self, node: _Node) -> Iterator[Task | _Node]:
        if node.previous is not None:
            yield node.previous
        for id in node.reads:
            if id in self.producers:
                yield self.producers[id]
            elif (variable := self.variables.get(id)) is not None and variable.producer is not None:
                yield variable.producer

    def _order(self, task: Task | _Node) -> int:
        return task.order if isinstance(task, _Node) else self.moved.get(task, task.order)

    def _push(self, node: _Node) -> None:
        """In ascending order of where tasks stood, so that each is moved once."""
        heap: list[tuple[int, int, Task | _Node]] = []
        waiting: set[Task | _Node] = set()
        current: Task | _Node = node
        while True:
            order = self._order(current)
            for following in self._followers(current):
                if following is node:
                    raise self._cycle(node)
                if following not in waiting and self._order(following) <= order:
                    waiting.add(following)
                    heapq.heappush(heap, (self._order(following), len(waiting), following))
            if not heap:
                return
            current = heapq.heappop(heap)[2]
            self._move(current)

    def _move(self, task: Task | _Node) -> None:
        if isinstance(task, _Node):
            task.order = max(map(self._order, self._producers(task))) + 1
        else:
            producers = [variable.producer for variable in task.reads if variable.producer is not None]
            producers += [task.previous] if task.previous is not None else []
            orders = [self._order(producer) for producer in producers]
            new = (self.producers.get(variable.id) for variable in task.reads)
            orders += [node.order for node in new if node is not None and node.placed]
            self.moved[task] = max(orders) + 1

    def _followers(self, task: Task | _Node) -> Iterator[Task | _Node]:
        """What depends on a task, as far as it is placed."""
        written = task.writes if isinstance(task, _Node) else task.output.id
        if task.next is not None and (not isinstance(task.next, _Node) or task.next.placed):
            yield task.next
        if (variable := self.variables.get(written)) is not None:
            yield from variable.consumers
        yield from (node for node in self.consumers.get(written, ()) if node.placed)

    def _on_cycle(self, missing: Mapping[_Node, int]) -> _Node:
        """What is left over waits for something that is left over: walking back ends in a circle."""
        node = next(node for node in self.nodes if missing[node])
        seen: set[_Node] = set()
        while node not in seen:
            seen.add(node)
            node = next(p for p in self._producers(node) if isinstance(p, _Node) and missing[p])
        return node

    def _cycle(self, node: _Node) -> Conflict:
        variable = self.variables.get(node.writes)
        spec = self.specs[node.call]
        name = (
            variable.name
            if variable is not None
            else next(o.name for o in spec.outputs if o.variable == node.writes)
        )
        return Conflict(
            f"The calls form a cycle: the output {name!r} depends on itself.",
            param=f"calls[{node.call}]",
            code="cycle",
        )
