"""The applications of the paper's experiments as graphs of calls, in whatever size fits the machine."""

from __future__ import annotations

from bench.apps import App, Given, Part, Ref, Step, Texts


def chain(texts: Texts, steps: int, chunk: int, output: int) -> App:
    """Chain summary: each call reads the summary so far and the next chunk of `chunk` tokens."""
    calls = [Step("s0", (texts.make(chunk),), output)]
    calls += [Step(f"s{i}", (Ref(f"s{i - 1}"), texts.make(chunk)), output) for i in range(1, steps)]
    return App(tuple(calls), (calls[-1].name,))


def map_reduce(texts: Texts, maps: int, chunk: int, output: int) -> App:
    """Summarise every chunk, then summarise the summaries."""
    calls = [Step(f"m{i}", (texts.make(chunk),), output) for i in range(maps)]
    reduce = Step("reduce", (texts.make(8), *(Ref(call.name) for call in calls)), output)
    return App((*calls, reduce), ("reduce",))


def single(texts: Texts, prompt: int, output: int, *, tpot_ms: float | None = None) -> App:
    """One request of its own: background, or with `tpot_ms` a chat that is read as it comes."""
    return App((Step("answer", (texts.make(prompt),), output),), ("answer",), tpot_ms is None, tpot_ms)


def assistant(texts: Texts, instructions: str, query: int, output: int) -> App:
    """A user's question to a GPT: its instructions, which all its users share, and the question."""
    return App((Step("answer", (instructions, Given("query", texts.make(query))), output),), ("answer",))


def multi_agent(texts: Texts, files: int, rounds: int, output: int, role: int = 32) -> App:
    """Architect, then a coder for each file, then rounds of a reviewer and a reviser for each file.

    All calls of a stage begin with the same text: the role, the design and, from the reviews on, all files as they
    are then. What is asked of one file comes last.
    """
    steps = [Step("design", (texts.make(role * 2),), output * 2)]
    common: tuple[Part, ...] = (texts.make(role), Ref("design"))
    code = _stage(texts, steps, "code", files, common, output)
    review_role, revise_role = texts.make(role), texts.make(role)
    for number in range(rounds):
        written: tuple[Part, ...] = tuple(Ref(name) for name in code)
        reviews = _stage(texts, steps, f"review{number}", files, (review_role, *written), output)
        read = (revise_role, *written, *(Ref(name) for name in reviews))
        code = _stage(texts, steps, f"code{number + 1}", files, read, output)
    return App(tuple(steps), tuple(code))


def _stage(
    texts: Texts, steps: list[Step], name: str, files: int, common: tuple[Part, ...], output: int
) -> list[str]:
    stage = [Step(f"{name}_{index}", (*common, texts.make(8)), output) for index in range(files)]
    steps += stage
    return [step.name for step in stage]


def cyclic(texts: Texts, agents: int, context: int, rounds: int, output: int) -> App:
    """Agents that speak in turn: each has a context of its own, and reads what the one before it said."""
    contexts = [texts.make(context) for _ in range(agents)]
    steps: list[Step] = []
    for turn in range(agents * rounds):
        said: tuple[Part, ...] = (Ref(steps[-1].name),) if steps else ()
        steps.append(Step(f"t{turn}", (contexts[turn % agents], *said), output))
    return App(tuple(steps), (steps[-1].name,))


def late_input(texts: Texts, context: int, said: int, answer: int, *, late_last: bool) -> App:
    """Two agents: the second has a long context of its own and reads what the first says, after it or before it."""
    first = Step("said", (texts.make(32),), said)
    own, heard = texts.make(context), Ref("said")
    second = Step("answer", (own, heard) if late_last else (heard, own), answer)
    return App((first, second), ("answer",))


def tool_input(
    texts: Texts, context: int, result: int, late_s: float, answer: int, *, late_last: bool
) -> App:
    """An agent with a long context that reads what a tool of the client's says after `late_s` seconds."""
    own, heard = texts.make(context), Given("heard", texts.make(result))
    step = Step("answer", (own, heard) if late_last else (heard, own), answer)
    return App((step,), ("answer",), late_s=late_s)


def duplicated(texts: Texts, calls: int, share: float, chunk: int, output: int) -> App:
    """`calls` independent calls, of which `share` repeat an earlier one."""
    distinct = calls - round(calls * share)
    prompts = [texts.make(chunk) for _ in range(distinct)]
    steps = tuple(Step(f"m{i}", (prompts[i % distinct],), output) for i in range(calls))
    return App(steps, tuple(step.name for step in steps))
