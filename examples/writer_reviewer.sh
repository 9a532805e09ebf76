#!/bin/sh
# Write, review (two answers out of one context) and write again, in one request.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"variables": {"topic": "a dog and a cat"},
 "calls": [
   {"prompt": "Write a story about {{input:topic}}.\nStory: {{output:draft}}",
    "placeholders": [{"name": "draft", "sampling": {"max_tokens": 150, "temperature": 0.7, "seed": 1}}]},
   {"prompt": "Text: {{input:draft}}\nQuestion: Who is in the text?\nAnswer: {{output:who}}\nQuestion: What is a good title?\nAnswer: {{output:title}}",
    "placeholders": [{"name": "who", "sampling": {"max_tokens": 40, "temperature": 0, "stop": "\n"}},
                     {"name": "title", "sampling": {"max_tokens": 40, "temperature": 0, "stop": "\n"}}]},
   {"prompt": "Write a story about {{input:topic}} with {{input:who}} Its title is {{input:title}}.\nStory: {{output:final}}",
    "placeholders": [{"name": "final", "sampling": {"max_tokens": 150, "temperature": 0.7, "seed": 2}}]}],
 "get": ["draft", "title", "final"]}
JSON
