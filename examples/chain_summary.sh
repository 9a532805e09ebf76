#!/bin/sh
# Three dependent summaries in one request, as events: `variable.delta` while the last one is written.
curl -sSN "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"stream": true,
 "variables": {
   "part1": "Once upon a time a fox named Mira lived near a lake. One morning she found a red ball.",
   "part2": "Mira met an owl named Tom in the forest. Tom had lost his ball.",
   "part3": "Mira gave the ball to Tom. Tom was happy, and they went home together."},
 "calls": [
   {"prompt": "Text: {{input:part1}}\nSummary in one sentence: {{output:summary1}}",
    "placeholders": [{"name": "summary1", "sampling": {"max_tokens": 60, "temperature": 0}}]},
   {"prompt": "Text: {{input:summary1}} {{input:part2}}\nSummary in one sentence: {{output:summary2}}",
    "placeholders": [{"name": "summary2", "sampling": {"max_tokens": 60, "temperature": 0}}]},
   {"prompt": "Text: {{input:summary2}} {{input:part3}}\nSummary in one sentence: {{output:summary3}}",
    "placeholders": [{"name": "summary3", "sampling": {"max_tokens": 60, "temperature": 0}}]}],
 "get": ["summary3"]}
JSON
