#!/bin/sh
# The program of openai_chain.py with curl: three chat calls, bound to the variables of one session.
set -e
url="${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1"

request() {
  curl -sS ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} "$@"
}

ask() {
  request "$url/chat/completions" -d '{"messages": [{"role": "user", "content": "'"$1"'"}], "max_tokens": 40,
    "parrot": {"session_id": "'"$session"'", "output": "'"$2"'", "wait": false}}' >/dev/null
}

session=$(request -X POST "$url/sessions" | sed 's/.*"id":"\([^"]*\)".*/\1/')

ask "Write a short story about a fox." story
ask "Who is in this story? {{input:story}}" who
ask "Tell another story about {{input:who}}, as in: {{input:story}}" another

request "$url/sessions/$session/variables/another?wait=60"
