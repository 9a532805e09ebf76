"""What the server does about work that is still to come: by counts, on the simulated engine."""

from __future__ import annotations

from bench.serving import serve
from engine.runner.simulated import BYTES_PER_TOKEN
from tests.e2e.api import Api

BLOCK = 16
AGENTS, TURNS = 6, 5
WORDS = 200
"""Of each agent's own prompt."""


def agents_in_turn() -> dict[str, object]:
    """A chain: each call has its agent's long prompt and what the agent before has said."""
    calls = []
    for turn in range(AGENTS * TURNS):
        agent = turn % AGENTS
        own = " ".join(f"{'abcdef'[agent]}{word % 10}" for word in range(WORDS))
        said = f" {{{{input:t{turn - 1}}}}}" if turn else ""
        sampling = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
        calls.append(
            {
                "prompt": f"{own}{said} Answer: {{{{output:t{turn}}}}}",
                "placeholders": [{"name": f"t{turn}", "in_out": "out", "sampling": sampling}],
            }
        )
    return {"calls": calls}


def usage(*flags: str) -> tuple[dict[str, int], str]:
    with serve("--engine", "sim", "--block-size", str(BLOCK), "--sim-step-ms", "0.1", *flags) as server:
        answer = Api(server.url)("POST", "/v1/programs", agents_in_turn())
        assert answer.status == 200, answer.body
        return answer.body["usage"], answer.body["values"][f"t{AGENTS * TURNS - 1}"]


def test_agents_in_turn_hit_where_least_recently_used_would_never() -> None:
    """What is computed ahead of a call is left out here: it would be counted as a hit."""
    alone = ("--disable", "eager-prefill")
    everything, text = usage(*alone)
    working_set = everything["prompt_tokens"] // TURNS
    pool = ("--kv-cache-memory", str(int(0.6 * working_set) * BYTES_PER_TOKEN))
    hinted, hinted_text = usage(*pool, *alone)
    unhinted, unhinted_text = usage(*pool, "--disable", "next-use-eviction,eager-prefill")
    assert text == hinted_text == unhinted_text
    most = everything["cached_tokens"]
    assert most > 0.7 * everything["prompt_tokens"]
    assert unhinted["cached_tokens"] < 0.1 * most
    assert hinted["cached_tokens"] > 0.4 * most


def late_input(max_tokens: int) -> dict[str, object]:
    """A call with a long prompt of its own that ends with what another call says."""
    own = " ".join(f"w{word % 10}" for word in range(WORDS))
    sampling = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    prompts = {
        "said": "Go {{output:said}}",
        "answer": f"{own} {{{{input:said}}}} Answer: {{{{output:answer}}}}",
    }
    return {
        "calls": [
            {"prompt": prompt, "placeholders": [{"name": name, "in_out": "out", "sampling": sampling}]}
            for name, prompt in prompts.items()
        ]
    }


def test_what_is_known_of_a_prompt_is_there_when_its_last_input_comes() -> None:
    cached, texts, used = {}, set(), {}
    for disabled in ("", "streamed-prefill", "eager-prefill"):
        flags = ("--disable", disabled) if disabled else ()
        with serve("--engine", "sim", "--block-size", str(BLOCK), "--sim-step-ms", "2", *flags) as server:
            answer = Api(server.url)("POST", "/v1/programs", late_input(200))
            texts.add(answer.body["values"]["answer"])
            cached[disabled] = answer.body["usage"]["cached_tokens"]
            used[disabled] = server.metric("parrot:eager_prefill_tokens_used_total")
            assert used[disabled] <= server.metric("parrot:eager_prefill_tokens_total")
    assert len(texts) == 1
    assert cached["eager-prefill"] == used["eager-prefill"] == 0
    assert cached["streamed-prefill"] > 0.9 * WORDS
    assert cached[""] > cached["streamed-prefill"] + 50
    assert used["streamed-prefill"] > 0.9 * WORDS
