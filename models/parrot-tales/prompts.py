"""The forms in which a task reaches the model: a chat of one or more turns, or a plain prompt that is
continued.

An `Example` is a list of pieces; the model is trained on all of them and graded on the answers. Invariant:
prompt and answer are separate pieces, because a server tokenises the prompt alone: training must see that
very boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from skills import Task

PAD, END = "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Parrot.",
    "Answer briefly.",
    "You are a friendly storyteller.",
    "You are an expert in reading texts. Answer only from the text.",
    "Be concise and correct.",
    "You help people with texts. Be polite. Do not make things up.",
)
_TEXT_LABELS = ("Text", "Story", "Document", "Passage")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that is tokenised by itself."""

    text: str
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One document of training, or one question of an evaluation.

    For a chat `messages` holds the turns, for a plain prompt `prompt` holds the text; the graded answer is
    that of the last turn.
    """

    task: Task
    pieces: tuple[Piece, ...]
    messages: tuple[Message, ...] = ()
    prompt: str = ""


def chat(rng: Random, tasks: list[Task]) -> Example:
    """A conversation. The first task carries the text; later ones about the same text do not repeat it."""
    messages: list[Message] = []
    if rng.random() < 0.35:
        messages.append(Message("system", rng.choice(SYSTEM_PROMPTS)))
    said = ""
    for task in tasks:
        content = _with_text(rng, task) if task.text and task.text != said else task.instruction
        said = task.text or said
        messages += [Message("user", content), Message("assistant", task.answer)]
    return Example(tasks[-1], _chat_pieces(messages), tuple(messages[:-1]))


def _chat_pieces(messages: list[Message]) -> tuple[Piece, ...]:
    marks = {"system": SYSTEM, "user": USER}
    pieces: list[Piece] = []
    for message in messages:
        if message.role == "assistant":
            pieces += [Piece(ASSISTANT, False), Piece(message.content + END, True)]
        else:
            pieces.append(Piece(marks[message.role] + message.content + END, False))
    return tuple(pieces)


def plain(rng: Random, task: Task) -> Example:
    """A prompt for the completions API, or of a program: the answer simply follows it."""
    prompt = _plain_prompt(rng, task)
    lead = "" if prompt[-1] in " \n" else rng.choice((" ", " ", " ", "\n")) if prompt[-1] == "." else " "
    return Example(task, (Piece(prompt, False), Piece(lead + task.answer + END, True)), prompt=prompt)


def plain_several(rng: Random, tasks: list[Task]) -> Example:
    """A prompt of a program with several answers in it; only the last one is ended by the end mark."""
    text = f"{rng.choice(_TEXT_LABELS)}: {tasks[0].text}"
    pieces = [Piece(text, False)]
    question = rng.random() < 0.5
    for task in tasks:
        ask = f"\nQuestion: {task.instruction}\nAnswer:" if question else f"\n{task.instruction}"
        pieces += [Piece(ask, False), Piece(f" {task.answer}", True)]
    pieces[-1] = Piece(pieces[-1].text + END, True)
    return Example(tasks[-1], tuple(pieces), prompt="".join(piece.text for piece in pieces[:-1]))


def opening(prompt: str, rest: str) -> Example:
    """A bare beginning that is continued."""
    task = Task("continue", prompt, rest)
    return Example(task, (Piece(prompt, False), Piece(rest + END, True)), prompt=prompt)


def _with_text(rng: Random, task: Task) -> str:
    """The instruction with its text, in one of the usual orders."""
    label = rng.choice(_TEXT_LABELS)
    roll = rng.random()
    if roll < 0.25:
        return f"{task.instruction}\n\n{task.text}"
    if roll < 0.45:
        return f"{task.text}\n\n{task.instruction}"
    if roll < 0.55:
        return f"{task.text} {task.instruction}"
    if roll < 0.65:
        return f"{task.instruction} {task.text}"
    if roll < 0.75:
        return f"{task.instruction}\n{label}: {task.text}"
    if roll < 0.85 and task.skill in ("question", "unknown"):
        return f"{label}: {task.text}\nQuestion: {task.instruction}"
    if roll < 0.92:
        return f"{label}: {task.text}\n\n{task.instruction}"
    return f'{task.instruction}\n"{task.text}"'


def _plain_prompt(rng: Random, task: Task) -> str:
    ask = task.skill in ("question", "unknown")
    preamble = f"{rng.choice(SYSTEM_PROMPTS)}{rng.choice((' ', chr(10)))}" if rng.random() < 0.15 else ""
    end = rng.choice((":", ":", ":", ": ", ":\n"))
    if not task.text:
        if task.skill in ("smalltalk", "out of world", "story"):
            stem = task.instruction
            if task.skill == "out of world" and rng.random() < 0.3:
                end = rng.choice((": ", ":"))
                cue = rng.choice(
                    ("Code", "Your test code", "Result", "Output", "Response", "Poem", "Plan", "Text")
                )
                return f"{preamble}{stem}\n{cue}{end}"
            tail = rng.choice(("", "\n", "\n\n", " ", f"\n{task.cue}{end}", f"\n\n{task.cue}{end}", end))
            return preamble + (stem.rstrip(".?!") if tail == end else stem) + tail
        return f"{preamble}{task.instruction}\n{task.cue}{end}"
    label = rng.choice(_TEXT_LABELS)
    question = f"Question: {task.instruction}" if ask else task.instruction
    roll = rng.random()
    if roll < 0.4:
        gap = rng.choice(("\n", "\n", "\n\n"))
        return f"{preamble}{label}: {task.text}{gap}{question}{gap}{task.cue}{end}"
    if roll < 0.55 and not ask:
        return (
            f"{preamble}{label}: {task.text}\n{task.cue}{end}"
            if _cue_is_enough(task)
            else (f"{preamble}{task.instruction}\n{label}: {task.text}\n{task.cue}{end}")
        )
    if roll < 0.75:
        return f"{preamble}{task.instruction}\n\n{task.text}\n\n{task.cue}{end}"
    if roll < 0.9:
        tail = rng.choice(("\n", " ", "\n\n", f" {task.cue}{end}"))
        return f"{preamble}{task.text}\n\n{task.instruction}{tail}"
    return f"{preamble}{task.instruction} {task.text}\n{task.cue}{end}"


def _cue_is_enough(task: Task) -> bool:
    return task.skill in ("summary", "names", "places", "title", "translate", "merge", "continue")
