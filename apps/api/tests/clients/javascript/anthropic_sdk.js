// Anthropic's TypeScript client: messages, streams, tools, token counts, and its classes of errors.
import Anthropic from '@anthropic-ai/sdk'
import { assert, CITY, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY } from './support.js'

const client = new Anthropic({ baseURL: SCRIPTED, apiKey: KEY, maxRetries: 0 })
const messages = [{ role: 'user', content: 'Hello' }]
const whole = await client.messages.create({ model: MODEL, max_tokens: 9, messages })
assert.equal(whole.content[0].text, HELLO)
const stream = client.messages.stream({ model: MODEL, max_tokens: 9, messages, system: [{ type: 'text', text: 'Be kind.' }] })
assert.equal(await stream.finalText(), HELLO)
const tools = [{ name: 'weather', description: 'Tells it', input_schema: CITY }]
const asked = await client.messages.create({ model: MODEL, max_tokens: 99, messages: [{ role: 'user', content: QUESTION }], tools })
const call = asked.content.find((block) => block.type === 'tool_use')
assert.deepEqual([asked.stop_reason, call.name, call.input], ['tool_use', 'weather', { city: 'Paris' }])
const told = [
  { role: 'user', content: QUESTION },
  { role: 'assistant', content: asked.content },
  { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: 'sunny' }] },
]
assert.equal((await client.messages.create({ model: MODEL, max_tokens: 99, messages: told, tools })).content[0].text, SUNNY)

const packaged = new Anthropic({ baseURL: PACKAGED, apiKey: KEY, maxRetries: 0 })
const small = await packaged.messages.create({ model: SMOL, max_tokens: 8, messages, top_k: 20, metadata: { user_id: 'u' } })
assert.ok(small.content[0].text && small.usage.output_tokens <= 8)
assert.ok((await packaged.messages.countTokens({ model: SMOL, messages })).input_tokens > 0)
await assert.rejects(packaged.messages.create({ model: SMOL, max_tokens: 8, messages: [] }), Anthropic.BadRequestError)
