"""What the graph and the shared cache buy, on the default server: by counts, never by time."""

from __future__ import annotations

import asyncio
import random

import aiohttp

from bench.network import Network
from bench.serving import Server, serve
from bench.workloads.chain import Chain, by_completions, by_program
from bench.workloads.prefix import complete
from server.config import FEATURES


async def test_a_chain_of_20_calls_takes_one_exchange_and_ends_in_the_same_text(server_url: str) -> None:
    chain, one, many = Chain(calls=20, max_tokens=12), Network(0.0, 0), Network(0.0, 0)
    async with aiohttp.ClientSession() as session:
        text = await by_program(session, server_url, chain, one)
        assert text == await by_completions(session, server_url, chain, many)
    assert (one.exchanges, many.exchanges) == (1, 20)


async def test_64_requests_that_arrive_together_compute_their_common_prefix_once(server_url: str) -> None:
    rng = random.Random(0)
    common = [rng.randrange(300, 2000) for _ in range(1024)]
    prompts = [[*common, *(rng.randrange(300, 2000) for _ in range(8))] for _ in range(64)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        together = await asyncio.gather(*(complete(session, server_url, ids, 2) for ids in prompts))
        alone = await complete(session, server_url, prompts[-1], 2)
    assert sum(cached < 1024 for _, cached in together) == 1
    assert together[-1][0] == alone[0]


async def test_choices_of_one_prompt_compute_it_once(bundled_server: Server) -> None:
    before = bundled_server.metric("vllm:prefix_cache_hits_total")
    body = {"prompt": list(range(300, 700)), "n": 8, "max_tokens": 1, "seed": 1}
    url = f"{bundled_server.url}/v1/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert len((await answer.json())["choices"]) == 8
    assert bundled_server.metric("vllm:prefix_cache_hits_total") - before >= 7 * 384


async def test_every_toggle_and_two_engines_give_the_same_text(server_url: str) -> None:
    chain = Chain(calls=3, max_tokens=8)
    with serve("--engines", "2", "--disable", ",".join(FEATURES)) as server:
        async with aiohttp.ClientSession() as session:
            plain, full = [
                await by_program(session, url, chain, Network(0.0, 0)) for url in (server.url, server_url)
            ]
    assert plain == full


async def test_the_same_calls_run_once_and_answer_alike(sim_server: Server) -> None:
    sampling = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    calls = [
        {
            "prompt": "Once upon a time {{output:out}}",
            "placeholders": [
                {"name": "out", "in_out": "out", "semantic_var_id": f"v{index}", "sampling": sampling}
            ],
        }
        for index in range(20)
    ]
    before = sim_server.metric("vllm:generation_tokens_total")
    url = f"{sim_server.url}/v1/programs"
    async with aiohttp.ClientSession() as session, session.post(url, json={"calls": calls}) as answer:
        body = await answer.json()
    assert len(set(body["values"].values())) == 1
    assert len(body["values"]) == 20
    assert sim_server.metric("vllm:generation_tokens_total") - before == 40
    assert body["usage"]["completion_tokens"] == 20 * 40
