// What the scripts of this folder share: the base URLs of a service whose local model follows a script, and of one with
// the packaged model. The scripts are run from a folder where package.json is installed.
import assert from 'node:assert/strict'

export { assert }
export const [SCRIPTED, PACKAGED] = process.argv.slice(2)
export const MODEL = 'tiny'
export const SMOL = process.env.PACKAGED_NAME
export const EMBEDDER = 'all-MiniLM-L6-v2'
export const KEY = 'unused'
export const QUESTION = 'What is the weather in Paris?'
export const HELLO = 'Hello there.'
export const SUNNY = 'It is sunny in Paris.'
export const CITY = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }

export async function gathered(stream, text) {
  let all = ''
  for await (const part of stream) all += text(part) ?? ''
  return all
}
