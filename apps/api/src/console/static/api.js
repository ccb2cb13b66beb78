// The public API as the pages call it. The key lives in this tab alone, and is sent as Bearer.
import { signal } from "@preact/signals";

export const key = signal(sessionStorage.getItem("key") || "");
key.subscribe((value) => (value ? sessionStorage.setItem("key", value) : sessionStorage.removeItem("key")));

/** An error of the service: `message` for people, `code` and `status` for code. */
export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super((error && error.message) || `HTTP ${status}`);
    this.status = status;
    this.code = (error && error.code) || "";
    this.retryAfter = retryAfter;
  }
}

function headers(extra) {
  return { ...(key.value ? { Authorization: `Bearer ${key.value}` } : {}), ...extra };
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new ApiError(response.status, body && body.error, response.headers.get("Retry-After"));
}

/** The JSON of a call; null where it has none. `accept` are statuses that are answers too. */
export async function call(method, path, body, { accept = [], signal: aborted } = {}) {
  const form = body instanceof FormData;
  const response = await fetch(path, {
    method,
    signal: aborted,
    headers: headers(body && !form ? { "Content-Type": "application/json" } : {}),
    body: body ? (form ? body : JSON.stringify(body)) : undefined,
  });
  if (!response.ok && !accept.includes(response.status)) throw await failure(response);
  return response.status === 204 ? null : response.json();
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);
export const remove = (path) => call("DELETE", path);

/** The text of a GET, for a download. */
export async function text(path, accept) {
  const response = await fetch(path, { headers: headers({ Accept: accept }) });
  if (!response.ok) throw await failure(response);
  return response.text();
}

/** Server-sent events of a POST: `onEvent(type, data)` for each, of a receipt's comment too; resolves with the response's headers at its end. */
export async function stream(path, body, { signal: aborted, onHeaders = () => {}, onEvent }) {
  const response = await fetch(path, {
    method: "POST",
    signal: aborted,
    headers: headers({ "Content-Type": "application/json", Accept: "text/event-stream" }),
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  onHeaders(response.headers);
  // a stream of decoded pieces would make three times as many objects
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "", type = "", data = [];
  for (let done = false; !done;) {
    const read = await reader.read();
    done = read.done;
    const text = decoder.decode(read.value, { stream: !done });
    rest += text;
    // a line of megabytes comes in many pieces, and is not looked through again for each
    if (!done && !/[\r\n]/.test(text)) continue;
    // a last carriage return may be half of a line's end, until the body's end. What is whole then is read: half an
    // event is none
    const lines = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) onEvent(type || "message", data.join("\n"));
        type = "";
        data = [];
      } else if (line.startsWith(": receipt ")) onEvent("receipt", line.slice(10));
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line.startsWith("event:")) type = line.slice(6).trim();
    }
  }
  return response.headers;
}
