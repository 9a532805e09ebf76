"""A chain of dependent calls: one exchange for the program against one exchange a call.

Both sides generate the same prompts with the same greedy sampling on the same server, and must end in the same
text. Prints what the program saves beside the bound: the round trips that it does not make.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass

import aiohttp

from bench.network import Network
from bench.serving import serve
from bench.stats import spread, write_json

OPENING = "Once upon a time"
STEP = "\nAnd then, as they tell it: "


@dataclass(frozen=True, slots=True)
class Chain:
    calls: int
    max_tokens: int

    def program(self) -> dict[str, object]:
        placeholder = {
            "name": "out",
            "in_out": "out",
            "sampling": {"temperature": 0, "max_tokens": self.max_tokens, "ignore_eos": True},
        }
        calls = []
        for index in range(self.calls):
            source = f"{{{{input:v{index}}}}}" if index else OPENING
            output = {**placeholder, "semantic_var_id": f"v{index + 1}"}
            calls.append({"prompt": f"{source}{STEP}{{{{output:out}}}}", "placeholders": [output]})
        return {"calls": calls, "get": [f"v{self.calls}"]}


async def by_program(session: aiohttp.ClientSession, url: str, chain: Chain, network: Network) -> str:
    async with network.exchange(), session.post(f"{url}/v1/programs", json=chain.program()) as answer:
        body = await answer.json()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body}")
    return str(body["values"][f"v{chain.calls}"])


async def by_completions(session: aiohttp.ClientSession, url: str, chain: Chain, network: Network) -> str:
    text = OPENING
    for _ in range(chain.calls):
        request = {
            "prompt": text + STEP,
            "temperature": 0,
            "max_tokens": chain.max_tokens,
            "ignore_eos": True,
        }
        async with network.exchange(), session.post(f"{url}/v1/completions", json=request) as answer:
            body = await answer.json()
        text = body["choices"][0]["text"]
    return text


async def _measure(url: str, chain: Chain, round_trip_s: float, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"program": [], "completions": [], "network_saved": []}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        for seed in range(repeats + 1):  # the first round warms and is dropped
            texts, networks = [], []
            for name, run in (("program", by_program), ("completions", by_completions)):
                network = Network(round_trip_s, seed)
                start = time.perf_counter()
                texts.append(await run(session, url, chain, network))
                times[name].append(time.perf_counter() - start)
                networks.append(network.seconds)
            times["network_saved"].append(networks[1] - networks[0])
            if texts[0] != texts[1]:
                raise RuntimeError(f"the two ways differ:\n{texts[0]!r}\n{texts[1]!r}")
    return {name: samples[1:] for name, samples in times.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench chain", description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--round-trip-ms", type=float, default=250.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    chain = Chain(args.calls, args.tokens)
    with serve("--disable", "call-dedup") as server:  # the same chain again would be answered from memory
        times = asyncio.run(_measure(server.url, chain, args.round_trip_ms / 1e3, args.repeats))
    saved = [b - a for a, b in zip(times["program"], times["completions"], strict=True)]
    share = (
        [a / b for a, b in zip(saved, times["network_saved"], strict=True)] if args.round_trip_ms else [1.0]
    )
    path = write_json("chain", times)
    print(f"program {spread(times['program'])} s, completions {spread(times['completions'])} s")
    print(f"saved {spread(saved)} s; {args.calls - 1} round trips are {spread(times['network_saved'])} s")
    print(f"chain saved/round-trips {statistics.median(share):.3f} n={args.repeats} same text ok {path}")
    return 0
