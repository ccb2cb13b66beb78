// MCP's TypeScript client over streamable HTTP: tools, a call with progress, resources and prompts.
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { assert, HELLO, SCRIPTED } from './support.js'

const client = new Client({ name: 'test', version: '1' })
await client.connect(new StreamableHTTPClientTransport(new URL(`${SCRIPTED}/mcp`)))
const { tools } = await client.listTools()
assert.ok(tools.some((tool) => tool.name === 'local_generate'))
const call = { name: 'local_generate', arguments: { prompt: 'Hello' } }
assert.equal((await client.callTool(call)).content[0].text, HELLO)
const seen = []
const told = await client.callTool(call, undefined, { onprogress: (progress) => seen.push(progress) })
assert.equal(told.content[0].text, HELLO)
assert.ok(seen.length > 0)
assert.ok(Array.isArray((await client.listResources()).resources))
assert.ok(Array.isArray((await client.listPrompts()).prompts))
await client.close()
