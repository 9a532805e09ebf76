"""`GET /v1/models`, with the members that vLLM's clients read beside OpenAI's."""

from __future__ import annotations

from collections.abc import Iterable

import orjson


def model_object(id: str, root: str, max_model_len: int, created: int) -> bytes:
    """`root` is the model behind a served name."""
    permission = {
        "id": f"modelperm-{id}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return orjson.dumps(
        {
            "id": id,
            "object": "model",
            "created": created,
            "owned_by": "parrot",
            "root": root,
            "parent": None,
            "max_model_len": max_model_len,
            "permission": [permission],
        }
    )


def model_list(models: Iterable[bytes]) -> bytes:
    return b'{"object":"list","data":[%b]}' % b",".join(models)
