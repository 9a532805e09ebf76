#!/bin/sh
# The paper's first program in one request: the second call starts in the server when the first has ended.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"variables": {"task": "a snake game"},
 "calls": [
   {"prompt": "You are an expert software engineer.\nWrite python code of {{input:task}}.\nCode: {{output:code}}"},
   {"prompt": "You are an experienced QA engineer.\nYou write test code for {{input:task}}.\nCode: {{input:code}}.\nYour test code: {{output:test}}"}],
 "get": {"code": "latency", "test": "latency"}}
JSON
