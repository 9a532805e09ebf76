#!/bin/sh
# Facts out of a text as JSON of a schema, and a question about one of them, in one request.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"variables": {
   "text": "Once upon a time there was a fox named Mia. One morning Mia lost a red ball. She went to the park to look for it. In the park Mia met Tom, an owl. Tom found the red ball and gave it back to Mia."},
 "calls": [
   {"prompt": "Text: {{input:text}}\nExtract the names and places as JSON.\nJSON: {{output:facts}}",
    "placeholders": [
      {"name": "facts", "sampling": {"max_tokens": 120, "temperature": 0},
       "format": {"type": "json_schema", "schema": {
         "type": "object",
         "properties": {
           "names": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 1, "maxItems": 5},
           "places": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 1, "maxItems": 5}},
         "required": ["names", "places"], "additionalProperties": false}}}]},
   {"prompt": "Text: {{input:text}}\nQuestion: What did {{input:facts}} lose?\nAnswer: {{output:answer}}",
    "placeholders": [
      {"name": "facts", "in_out": "in", "transforms": "json_field('names[0]')"},
      {"name": "answer", "sampling": {"max_tokens": 40, "temperature": 0}}]}],
 "get": ["facts", "answer"]}
JSON
