// AI SDK: its OpenAI provider (responses and chats), the compatible one, and Anthropic's; tools, objects, streams.
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import { assert, EMBEDDER, gathered, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY } from './support.js'

const openai = createOpenAI({ baseURL: `${SCRIPTED}/v1`, apiKey: KEY })
const compatible = createOpenAICompatible({ name: 'here', baseURL: `${SCRIPTED}/v1`, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true })
const anthropic = createAnthropic({ baseURL: `${SCRIPTED}/v1`, apiKey: KEY })
const weather = tool({
  description: 'The weather of a city',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
})
for (const model of [openai(MODEL), openai.chat(MODEL), compatible(MODEL), anthropic(MODEL)]) {
  const said = await generateText({ model, prompt: 'Hello', maxRetries: 0 })
  assert.equal(said.text, HELLO)
  assert.ok(said.usage.outputTokens > 0)
  assert.equal(await gathered(streamText({ model, prompt: 'Hello' }).textStream, (part) => part), HELLO)
  const told = await generateText({ model, prompt: QUESTION, tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 })
  assert.equal(told.text, SUNNY)
}
for (const model of [openai(MODEL), openai.chat(MODEL), compatible(MODEL)]) {
  const { object } = await generateObject({ model, schema: z.object({ name: z.string(), age: z.number().int() }), prompt: 'Who?', maxRetries: 0 })
  assert.deepEqual(object, { name: 'Ada', age: 36 })
}
const here = createOpenAICompatible({ name: 'here', baseURL: `${PACKAGED}/v1`, apiKey: KEY })
const small = await generateText({ model: here(SMOL), prompt: 'Say hello.', maxOutputTokens: 8, topK: 20, seed: 1, maxRetries: 0 })
assert.ok(small.text)
const { embeddings } = await embedMany({ model: here.textEmbeddingModel(EMBEDDER), values: ['one', 'two'], maxRetries: 0 })
assert.deepEqual(embeddings.map((one) => one.length), [384, 384])
