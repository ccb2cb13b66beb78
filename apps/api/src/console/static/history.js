// Conversations, kept in this browser's IndexedDB and nowhere else. Their titles are apart, so that a list of them
// needs not all their texts in memory.
const NAME = "genai-console", TEXTS = "conversations", TITLES = "titles";
const MOST_LISTED = 200;

const title = ({ id, at, title: text }) => ({ id, at, title: text });

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 2);
    request.onupgradeneeded = (event) => {
      if (event.oldVersion < 1) request.result.createObjectStore(TEXTS, { keyPath: "id" });
      const titles = request.result.createObjectStore(TITLES, { keyPath: "id" });
      titles.createIndex("at", "at");
      request.transaction.objectStore(TEXTS).openCursor().onsuccess = ({ target }) => {
        if (!target.result) return;
        titles.put(title(target.result.value));
        target.result.continue();
      };
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** What `action` puts into its list, once its transaction is over. */
async function work(mode, action) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const found = [];
      const transaction = database.transaction([TEXTS, TITLES], mode);
      transaction.oncomplete = () => resolve(found);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
      action(transaction.objectStore(TEXTS), transaction.objectStore(TITLES), found);
    });
  } finally {
    database.close();
  }
}

/** The newest titles, with their ids; none where the browser keeps nothing. */
export function titles() {
  return work("readonly", (_, list, found) => {
    list.index("at").openCursor(null, "prev").onsuccess = ({ target }) => {
      if (!target.result || found.length === MOST_LISTED) return;
      found.push(target.result.value);
      target.result.continue();
    };
  }).catch(() => []);
}

/** One conversation, whole; undefined where it is gone. */
export const conversation = async (id) => (await work("readonly", (texts, _, found) => { texts.get(id).onsuccess = ({ target }) => found.push(target.result); }))[0];

/** All of them as the pieces of one JSON document, one in memory at a time beside its text. */
export async function exported() {
  const pieces = await work("readonly", (texts, _, found) => {
    texts.openCursor().onsuccess = ({ target }) => {
      if (!target.result) return;
      found.push(JSON.stringify(target.result.value));
      target.result.continue();
    };
  });
  return `[${pieces.join(",\n")}]`;
}

export const keep = (one) => work("readwrite", (texts, list) => { texts.put(one); list.put(title(one)); });
export const forget = (id) => work("readwrite", (texts, list) => { texts.delete(id); list.delete(id); });
