// The `openai` npm package against a running server: `node openai.mjs URL`. Ends with 0 when all of it holds.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Hello, who are you?" }];
const greedy = { model, messages, temperature: 0, max_tokens: 40 };

const whole = await client.chat.completions.create(greedy);
const said = whole.choices[0].message.content;
assert.ok(said.length > 0);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

const stream = await client.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } });
let streamed = "";
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, said);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

const runner = client.chat.completions.stream(greedy);
assert.equal(await runner.finalContent(), said);

const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 8, temperature: 0, n: 2 });
assert.equal(completion.choices.length, 2);
assert.equal(completion.choices[0].text, completion.choices[1].text);

const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, legs: { type: "integer", minimum: 0, maximum: 9 } },
  required: ["name", "legs"],
  additionalProperties: false,
};
const shaped = await client.chat.completions.create({
  ...greedy,
  max_tokens: 100,
  response_format: { type: "json_schema", json_schema: { name: "animal", strict: true, schema } },
});
const animal = JSON.parse(shaped.choices[0].message.content);
assert.deepEqual(Object.keys(animal), ["name", "legs"]);

const lookUp = {
  type: "function",
  function: { name: "look_up", parameters: { type: "object", properties: { legs: schema.properties.legs }, required: ["legs"], additionalProperties: false } },
};
const called = await client.chat.completions.create({
  ...greedy,
  max_tokens: 100,
  tools: [lookUp],
  tool_choice: { type: "function", function: { name: "look_up" } },
});
const call = called.choices[0].message.tool_calls[0];
assert.equal(call.function.name, "look_up");
assert.equal(typeof JSON.parse(call.function.arguments).legs, "number");

const response = await client.responses.create({ model, input: "Hello, who are you?", temperature: 0, max_output_tokens: 40 });
assert.equal(response.output_text, said);

await assert.rejects(client.chat.completions.create({ ...greedy, model: "nobody" }), (error) => error instanceof OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ ...greedy, temperature: 9 }), (error) => error.param === "temperature" && error.status === 400);

const controller = new AbortController();
const endless = await client.chat.completions.create({ ...greedy, max_tokens: 2000, stream: true }, { signal: controller.signal });
for await (const chunk of endless) {
  assert.ok(chunk.id);
  controller.abort();
}
