"""A chat of two turns. The second turn names the first answer instead of sending it back."""

from __future__ import annotations

import parrot as P

BRIEF = P.Sampling(max_tokens=150, temperature=0)


def main() -> None:
    chat = [
        {"role": "user", "content": "{{input:question}}"},
        {"role": "assistant", "content": "{{output:answer}}"},
    ]
    question = P.SemanticVariable("Write a story about a fox.")
    answer = P.call(chat, {"question": question}, sampling=BRIEF)
    print("assistant:", answer.get())

    chat[1] = {"role": "assistant", "content": "{{input:answer}}"}
    chat.append({"role": "user", "content": "Give it a title."})
    chat.append({"role": "assistant", "content": "{{output:title}}"})
    title = P.call(chat, {"question": question, "answer": answer}, sampling=BRIEF)
    print("assistant:", title.get())


if __name__ == "__main__":
    main()
