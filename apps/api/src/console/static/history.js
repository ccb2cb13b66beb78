// Conversations, kept in this browser's IndexedDB and nowhere else.
const NAME = "genai-console", STORE = "conversations";

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function work(mode, action) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const request = action(database.transaction(STORE, mode).objectStore(STORE));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  } finally {
    database.close();
  }
}

/** All conversations, the newest first; none where the browser keeps nothing. */
export async function conversations() {
  try {
    return (await work("readonly", (store) => store.getAll())).sort((a, b) => b.at - a.at);
  } catch {
    return [];
  }
}

export const keep = (conversation) => work("readwrite", (store) => store.put(conversation));
export const forget = (id) => work("readwrite", (store) => store.delete(id));
