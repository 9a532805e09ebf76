"""A program written with the `openai` package alone: each call names the variables that it reads and writes.

The first calls return at once; the server runs the graph, and only the last answer is waited for.
"""

from __future__ import annotations

import os

from openai import OpenAI


def main() -> None:
    url = os.environ.get("PARROT_BASE_URL", "http://127.0.0.1:8000")
    with OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("PARROT_API_KEY", "none")) as client:
        model = client.models.list().data[0].id
        session: str | None = None

        def ask(prompt: str, output: str, *, wait: bool = False) -> str:
            nonlocal session
            answer = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=40,
                extra_body={"parrot": {"session_id": session, "output": output, "wait": wait}},
            )
            session = answer.model_dump()["parrot"]["session_id"]
            return answer.choices[0].message.content or ""

        ask("Write a short story about a fox.", "story")
        ask("Who is in this story? {{input:story}}", "who")
        print(ask("Tell another story about {{input:who}}, as in: {{input:story}}", "another", wait=True))


if __name__ == "__main__":
    main()
