#!/bin/sh
# Write, review, revise, and once more: five calls in one request, none of which waits for the client.
curl -sS "${PARROT_BASE_URL:-http://127.0.0.1:8000}/v1/programs" \
  ${PARROT_API_KEY:+-H "Authorization: Bearer $PARROT_API_KEY"} -d @- <<'JSON'
{"calls": [
   {"prompt": "Write a story about a fox named Tom.\nStory: {{output:draft}}",
    "placeholders": [{"name": "draft", "transforms": "strip", "sampling": {"max_tokens": 200, "temperature": 0.7, "seed": 3}}]},
   {"prompt": "Review the story. It should take place in the park.\nStory: {{input:draft}}\nReview: {{output:review1}}",
    "placeholders": [{"name": "review1", "transforms": "strip", "sampling": {"max_tokens": 40, "temperature": 0}}]},
   {"prompt": "Story: {{input:draft}}\nReview: {{input:review1}}\nRevise the story.\nRevised story: {{output:second}}",
    "placeholders": [{"name": "second", "transforms": "strip", "sampling": {"max_tokens": 200, "temperature": 0}}]},
   {"prompt": "Review the story. It should be about Mia.\nStory: {{input:second}}\nReview: {{output:review2}}",
    "placeholders": [{"name": "review2", "transforms": "strip", "sampling": {"max_tokens": 40, "temperature": 0}}]},
   {"prompt": "Story: {{input:second}}\nReview: {{input:review2}}\nRevise the story.\nRevised story: {{output:final}}",
    "placeholders": [{"name": "final", "transforms": "strip", "sampling": {"max_tokens": 200, "temperature": 0}}]}],
 "get": ["draft", "review1", "review2", "final"]}
JSON
