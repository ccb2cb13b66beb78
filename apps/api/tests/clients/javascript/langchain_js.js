// LangChain.js: chats, streams, tools and structured answers by OpenAI's classes and by Ollama's.
import { ChatOllama } from '@langchain/ollama'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { tool } from '@langchain/core/tools'
import { z } from 'zod'
import { assert, EMBEDDER, gathered, HELLO, KEY, MODEL, PACKAGED, QUESTION, SCRIPTED, SMOL } from './support.js'

const chat = (url, model, more = {}) => new ChatOpenAI({ model, apiKey: KEY, maxRetries: 0, configuration: { baseURL: `${url}/v1` }, ...more })
const weather = tool(async ({ city }) => `sunny in ${city}`, { name: 'weather', description: 'Tells it', schema: z.object({ city: z.string() }) })
for (const model of [chat(SCRIPTED, MODEL), chat(SCRIPTED, MODEL, { useResponsesApi: true }), new ChatOllama({ model: MODEL, baseUrl: SCRIPTED })]) {
  assert.equal((await model.invoke('Hello')).text, HELLO)
  assert.equal(await gathered(await model.stream('Hello'), (part) => part.text), HELLO)
  const asked = await model.bindTools([weather]).invoke(QUESTION)
  assert.deepEqual(asked.tool_calls.map((call) => [call.name, call.args]), [['weather', { city: 'Paris' }]])
}
const person = z.object({ name: z.string(), age: z.number() })
assert.deepEqual(await chat(SCRIPTED, MODEL).withStructuredOutput(person).invoke('Who?'), { name: 'Ada', age: 36 })
const small = await chat(PACKAGED, SMOL, { maxTokens: 8, topP: 0.9, frequencyPenalty: 0.1 }).invoke('Say hello.')
assert.ok(small.text && small.usage_metadata.output_tokens <= 8)
const embeddings = new OpenAIEmbeddings({ model: EMBEDDER, apiKey: KEY, configuration: { baseURL: `${PACKAGED}/v1` } })
assert.equal((await embeddings.embedQuery('one')).length, 384)
