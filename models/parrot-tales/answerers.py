"""Two ways to get answers from the model: a running server over plain HTTP, or `transformers` in this
process.

Invariant: both take the same requests and answer in their order. Leaves to others: what is asked and what
is right (evaluate.py).
"""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prompts import Message

MAX_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Request:
    """A chat (`messages`) or a plain prompt; temperature 0 is greedy."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    ended: bool


class Answerer(Protocol):
    def answer(self, requests: list[Request]) -> list[Reply]: ...


class Served:
    """A server with the OpenAI API at `url`; eight requests at a time, so that it can batch them."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def answer(self, requests: list[Request]) -> list[Reply]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self._one, requests))

    def _one(self, request: Request) -> Reply:
        common = {"temperature": request.temperature, "seed": request.seed, "max_tokens": MAX_TOKENS}
        if request.messages:
            messages = [{"role": message.role, "content": message.content} for message in request.messages]
            return self._post("/v1/chat/completions", {"messages": messages, **common})
        return self._post("/v1/completions", {"prompt": request.prompt, **common})

    def _post(self, path: str, body: dict[str, object]) -> Reply:
        post = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(post, timeout=600) as answer:
            choice = json.load(answer)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Reply(text, choice["finish_reason"] == "stop")


class Offline:
    """`transformers` on the exported folder, in batches of prompts of like length."""

    def __init__(self, folder: Path, threads: int, batch: int = 32) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.batch = batch

    def answer(self, requests: list[Request]) -> list[Reply]:
        prompts = [self._text(request) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: len(prompts[index]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            temperature = requests[part[0]].temperature
            answers = self._generate([prompts[index] for index in part], temperature, requests[part[0]].seed)
            replies.update(zip(part, answers, strict=True))
        return [replies[index] for index in range(len(requests))]

    def _text(self, request: Request) -> str:
        if not request.messages:
            return request.prompt
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _generate(self, prompts: list[str], temperature: float, seed: int) -> list[Reply]:
        import torch

        torch.manual_seed(seed)
        tokens = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        if not temperature:
            self.model.generation_config.temperature = None
        out = self.model.generate(  # type: ignore[misc]
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            max_new_tokens=MAX_TOKENS,
            **sampling,
        )
        end = self.tokenizer.eos_token_id
        rows = out[:, tokens.input_ids.shape[1] :].tolist()
        return [self._reply(row, end) for row in rows]

    def _reply(self, row: list[int], end: int) -> Reply:
        ended = end in row
        return Reply(str(self.tokenizer.decode(row[: row.index(end)] if ended else row)), ended)
