"""Facts out of a text as JSON of a schema, and a question about one of them: only a field goes on."""

from __future__ import annotations

import parrot as P

TEXT = (
    "Once upon a time there was a fox named Mia. One morning Mia lost a red ball. "
    "She went to the park to look for it. In the park Mia met Tom, an owl. "
    "Tom found the red ball and gave it back to Mia."
)
WORDS = {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 1, "maxItems": 5}
SCHEMA = {
    "type": "object",
    "properties": {"names": WORDS, "places": WORDS},
    "required": ["names", "places"],
    "additionalProperties": False,
}


@P.semantic_function(
    sampling=P.Sampling(max_tokens=120, temperature=0),
    formats={"facts": {"type": "json_schema", "schema": SCHEMA}},
)
def extract(text: P.SemanticVariable):
    """Text: {{input:text}}
    Extract the names and places as JSON.
    JSON: {{output:facts}}
    """


@P.semantic_function(
    sampling=P.Sampling(max_tokens=40, temperature=0), transforms={"facts": "json_field('names[0]')"}
)
def ask(text: P.SemanticVariable, facts: P.SemanticVariable):
    """Text: {{input:text}}
    Question: What did {{input:facts}} lose?
    Answer: {{output:answer}}
    """


def main() -> None:
    facts = extract(TEXT)
    answer = ask(TEXT, facts)
    print("facts:", facts.get())
    print("answer:", answer.get())


if __name__ == "__main__":
    main()
