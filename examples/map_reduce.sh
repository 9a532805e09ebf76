#!/bin/sh
# Three summaries at once, one of them all, and a question about it; only the last two are asked for.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"calls": [
   {"prompt": "Text: Lily was a cat. One morning Lily found a green hat in the park. Lily gave the green hat to Sam because he was cold.\nSummary in one sentence: {{output:a}}",
    "placeholders": [{"name": "a", "transforms": "strip", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: Otto was a bear. The next day Otto lost a red kite. He went to the river to look for it. At the river Otto met Daisy, a duck. Daisy found the red kite and gave it back to Otto.\nSummary in one sentence: {{output:b}}",
    "placeholders": [{"name": "b", "transforms": "strip", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: Anna was a pilot. One afternoon Anna went to the farm to buy milk. On the farm Anna met Leo, a lion. Leo asked for some milk because he loved it. Anna shared the milk with Leo.\nSummary in one sentence: {{output:c}}",
    "placeholders": [{"name": "c", "transforms": "strip", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: {{input:a}} {{input:b}} {{input:c}}\nSummary in one sentence: {{output:all}}",
    "placeholders": [{"name": "all", "transforms": "strip", "sampling": {"max_tokens": 80, "temperature": 0}}]},
   {"prompt": "Text: {{input:all}}\nQuestion: Who got the green hat?\nAnswer: {{output:answer}}",
    "placeholders": [{"name": "answer", "transforms": "strip", "sampling": {"max_tokens": 20, "temperature": 0}}]}],
 "get": ["all", "answer"]}
JSON
