// openai-node: chats, streams, tools by its runner, responses, embeddings (base64 by default), and its classes of errors.
import OpenAI from 'openai'
import { assert, CITY, EMBEDDER, gathered, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL, SUNNY } from './support.js'

const scripted = new OpenAI({ baseURL: `${SCRIPTED}/v1`, apiKey: KEY, maxRetries: 0 })
const packaged = new OpenAI({ baseURL: `${PACKAGED}/v1`, apiKey: KEY, maxRetries: 0 })
const messages = [{ role: 'user', content: 'Hello' }]

const whole = await scripted.chat.completions.create({ model: MODEL, messages })
assert.equal(whole.choices[0].message.content, HELLO)
const stream = await scripted.chat.completions.create({ model: MODEL, messages, stream: true, stream_options: { include_usage: true } })
assert.equal(await gathered(stream, (chunk) => chunk.choices[0]?.delta.content), HELLO)
const weather = { type: 'function', function: { name: 'weather', parameters: CITY, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` } }
for (const streamed of [false, true]) {
  const runner = scripted.chat.completions.runTools({ model: MODEL, messages: [{ role: 'user', content: QUESTION }], tools: [weather], stream: streamed })
  assert.equal(await runner.finalContent(), SUNNY)
}
const response = await scripted.responses.create({ model: MODEL, input: 'Hello' })
assert.equal(response.output_text, HELLO)
const events = await scripted.responses.create({ model: MODEL, input: 'Hello', stream: true })
assert.equal(await gathered(events, (event) => (event.type === 'response.output_text.delta' ? event.delta : '')), HELLO)

const small = await packaged.chat.completions.create({ model: SMOL, messages, max_completion_tokens: 8, user: 'u', store: false })
assert.ok(small.choices[0].message.content && small.usage.completion_tokens <= 8)
const vectors = await packaged.embeddings.create({ model: EMBEDDER, input: ['one', 'two'] })
assert.deepEqual(vectors.data.map((one) => one.embedding.length), [384, 384])
await assert.rejects(packaged.chat.completions.create({ model: SMOL, messages, temperature: 9 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError)
  assert.equal(error.param, 'temperature')
  return true
})
await assert.rejects(packaged.models.retrieve('nobody'), OpenAI.NotFoundError)
