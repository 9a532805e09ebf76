#!/bin/sh
# A chat of two turns in a session: the second turn names the first answer. Then the graph of what ran.
set -eu
api="${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/sessions"
auth="Authorization: Bearer ${PARROT_API_KEY:-none}"
session=$(curl -sS -X POST "$api" -H "$auth" | sed 's/.*"id":"\([^"]*\)".*/\1/')

curl -sS -o /dev/null "$api/$session/calls" -H "$auth" -d @- <<'JSON'
{"messages": [{"role": "user", "content": "Write a story about a fox."},
              {"role": "assistant", "content": "{{output:answer}}"}],
 "placeholders": [{"name": "answer", "sampling": {"max_tokens": 150, "temperature": 0}}]}
JSON
curl -sS "$api/$session/variables/answer" -H "$auth"
echo

curl -sS -o /dev/null "$api/$session/calls" -H "$auth" -d @- <<'JSON'
{"messages": [{"role": "user", "content": "Write a story about a fox."},
              {"role": "assistant", "content": "{{input:answer}}"},
              {"role": "user", "content": "Give it a title."},
              {"role": "assistant", "content": "{{output:title}}"}],
 "placeholders": [{"name": "title", "sampling": {"max_tokens": 150, "temperature": 0}}]}
JSON
curl -sS "$api/$session/variables/title?criteria=latency" -H "$auth"
echo
curl -sS "$api/$session/graph?format=mermaid" -H "$auth"
