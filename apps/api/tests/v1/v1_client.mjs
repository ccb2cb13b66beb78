// The official Node client, asked the same as the Python one: prints its answers as JSON.
// node v1_client.mjs BASE_URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello" }];
const picture = [
  {
    role: "user",
    content: [
      { type: "text", text: "What is this?" },
      { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } },
    ],
  },
];
const tool = { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } };

async function all(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

async function failure(call) {
  const seen = [];
  try {
    const answer = await call();
    if (answer[Symbol.asyncIterator]) for await (const event of answer) seen.push(event);
  } catch (error) {
    const { status = null, code = null, type = null, param = null } = error;
    return { class: error.constructor.name, status, code, type, param, seen: seen.length > 0 };
  }
  throw new Error("it did not fail");
}

const chat = (body) => client.chat.completions.create({ model: "m", messages, ...body });
const answers = {
  chat: await chat({}),
  streamed: await all(chat({ stream: true, stream_options: { include_usage: true } })),
  tools: await chat({ model: "tool-call", tools: [tool] }),
  tools_streamed: await all(chat({ model: "tool-call", tools: [tool], stream: true })),
  parts: await chat({ model: "echo", messages: picture }),
  response_format: await chat({ response_format: { type: "json_object" }, x_unknown: { a: 1 } }),
  future: await chat({ model: "future" }),
  future_streamed: await all(chat({ model: "future", stream: true })),
  completions: await client.completions.create({ model: "m", prompt: "Once" }),
  completions_streamed: await all(client.completions.create({ model: "m", prompt: "Once", stream: true })),
  responses: await client.responses.create({ model: "m", input: "hi" }),
  responses_streamed: await all(client.responses.create({ model: "m", input: "hi", stream: true })),
  embeddings: await client.embeddings.create({ model: "m", input: ["one", "three"] }),
  assembled: await client.chat.completions
    .stream({ model: "tool-call", messages, tools: [tool] })
    .finalChatCompletion()
    .then((completion) => completion.choices[0].message.tool_calls),
};
const failures = {
  limited: await failure(() => chat({ model: "fault-429" })),
  broken: await failure(() => chat({ model: "fault-500" })),
  unnamed: await failure(() => client.chat.completions.create({ messages })),
  unlisted: await failure(() => client.models.retrieve("no/such")),
  midway: await failure(() => chat({ model: "fault-error", stream: true })),
};
const models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify({ answers, failures, models }));
