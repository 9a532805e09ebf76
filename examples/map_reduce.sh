#!/bin/sh
# Three summaries at once, and one of them all; only the last one is asked for.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"calls": [
   {"prompt": "Text: A cat named Lily lived in the park. She found a green hat and was proud.\nSummary in one sentence: {{output:a}}",
    "placeholders": [{"name": "a", "transforms": "strip", "sampling": {"max_tokens": 40, "temperature": 0}}]},
   {"prompt": "Text: A bear named Otto lost his kite near the river. He was sad, but a duck found it.\nSummary in one sentence: {{output:b}}",
    "placeholders": [{"name": "b", "transforms": "strip", "sampling": {"max_tokens": 40, "temperature": 0}}]},
   {"prompt": "Text: A girl named Anna planted a tree in the garden. It grew tall, and Anna was glad.\nSummary in one sentence: {{output:c}}",
    "placeholders": [{"name": "c", "transforms": "strip", "sampling": {"max_tokens": 40, "temperature": 0}}]},
   {"prompt": "Text: {{input:a}} {{input:b}} {{input:c}}\nSummary in one sentence: {{output:all}}",
    "placeholders": [{"name": "all", "sampling": {"max_tokens": 40, "temperature": 0}}]}]}
JSON
