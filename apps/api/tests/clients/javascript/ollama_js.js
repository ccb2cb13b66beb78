// Ollama's JavaScript client: chats, texts, tools, formats, embeddings, and what there is.
import { Ollama } from 'ollama'
import { assert, CITY, EMBEDDER, gathered, HELLO, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL } from './support.js'

const scripted = new Ollama({ host: SCRIPTED })
const messages = [{ role: 'user', content: 'Hello' }]
assert.equal((await scripted.chat({ model: MODEL, messages })).message.content, HELLO)
assert.equal(await gathered(await scripted.chat({ model: MODEL, messages, stream: true }), (part) => part.message.content), HELLO)
assert.equal((await scripted.generate({ model: MODEL, prompt: 'Hello' })).response, HELLO)
const tools = [{ type: 'function', function: { name: 'weather', description: 'Tells it', parameters: CITY } }]
const called = await scripted.chat({ model: MODEL, messages: [{ role: 'user', content: QUESTION }], tools })
assert.deepEqual(called.message.tool_calls[0].function.arguments, { city: 'Paris' })
const format = { type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer' } }, required: ['name', 'age'] }
assert.deepEqual(JSON.parse((await scripted.chat({ model: MODEL, messages, format })).message.content), { name: 'Ada', age: 36 })

const packaged = new Ollama({ host: PACKAGED })
const small = await packaged.chat({ model: SMOL, messages, options: { num_predict: 8, top_k: 20, repeat_penalty: 1.1 }, keep_alive: '5m' })
assert.ok(small.message.content && small.eval_count <= 8)
assert.ok((await packaged.list()).models.some((model) => model.name === SMOL))
assert.ok((await packaged.show({ model: SMOL })).capabilities.includes('completion'))
assert.deepEqual((await packaged.embed({ model: EMBEDDER, input: ['one', 'two'] })).embeddings.map((one) => one.length), [384, 384])
