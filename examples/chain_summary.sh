#!/bin/sh
# Three dependent summaries in one request, as events: `variable.delta` while the last one is written.
curl -sSN "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"stream": true,
 "variables": {
   "part1": "Once upon a time there was a fox named Mia. One morning Mia lost a red ball. She went to the park to look for it. In the park Mia met Tom, an owl. Tom found the red ball and gave it back to Mia.",
   "part2": "The next day Mia went to the town to buy cake. In the town Mia met Otto, a bear. Otto asked for some cake because he loved it. Mia shared the cake with Otto.",
   "part3": "One evening Mia found a blue kite on the hill. Mia gave the blue kite to Tom because he was sad."},
 "calls": [
   {"prompt": "Text: {{input:part1}}\nSummary in one sentence: {{output:summary1}}",
    "placeholders": [{"name": "summary1", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: {{input:summary1}} {{input:part2}}\nSummary in one sentence: {{output:summary2}}",
    "placeholders": [{"name": "summary2", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: {{input:summary2}} {{input:part3}}\nSummary in one sentence: {{output:summary3}}",
    "placeholders": [{"name": "summary3", "sampling": {"max_tokens": 80, "temperature": 0}}]}],
 "get": ["summary3"]}
JSON
