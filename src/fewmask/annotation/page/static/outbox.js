// The answers on their way. Each answer is written into the browser's storage at once. It is sent under the same token
// until the server says that it is on the disk, and is then removed here. It arrives after a reload, a closed tab or a
// killed server too, and an answer that arrives twice is one answer.

const PAUSES = [300, 1000, 2000, 4000];

export class Outbox {
  // `send(entry)` returns {status, body}, or throws where there is no server. `notify(event, entry, body)` is called
  // with the events "waiting", "saved", "refused" and "unsaved". With `annotator`, the entries of others stay in the
  // storage until they open a link of their own.
  constructor({ ledger, send, notify, annotator = null, storage = localStorage }) {
    this.prefix = `fewmask/${ledger}/outbox/`;
    this.send = send;
    this.notify = notify;
    this.annotator = annotator;
    this.storage = storage;
    this.waiting = new Map();
    this.count = 0;
    this.busy = false;
    this.tries = 0;
    this.timer = 0;
    this.adopt();
  }

  // Takes over the entries that another tab, or this tab before a reload, has left in the storage.
  adopt() {
    for (const key of Object.keys(this.storage).filter((k) => k.startsWith(this.prefix)).sort()) {
      if (this.waiting.has(key)) continue;
      const entry = JSON.parse(this.storage.getItem(key));
      if (this.annotator === null || entry.annotator === this.annotator) this.waiting.set(key, entry);
    }
  }

  // Entries that are not saved yet, in the order in which they were made.
  get entries() {
    return [...this.waiting.keys()].sort().map((key) => this.waiting.get(key));
  }

  put(entry) {
    const key = `${this.prefix}${String(Date.now()).padStart(15, "0")}-${String(this.count++).padStart(6, "0")}-${entry.token}`;
    this.waiting.set(key, entry);
    try {
      this.storage.setItem(key, JSON.stringify(entry));
    } catch {
      // The storage is full or forbidden: the entry is sent from memory, and the tab asks before it closes.
    }
    this.notify("waiting", entry);
    this.flush();
  }

  async flush() {
    clearTimeout(this.timer);
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.waiting.size) {
        const key = [...this.waiting.keys()].sort()[0], entry = this.waiting.get(key);
        const { status, body } = await this.send(entry).catch(() => ({ status: 0, body: null }));
        if (status === 200) this.#done(key, "saved", entry, body);
        else if ([404, 409, 413, 422].includes(status)) this.#done(key, "refused", entry, body);
        else {
          this.notify("unsaved", entry, body, status);
          this.timer = setTimeout(() => this.flush(), PAUSES[Math.min(this.tries++, PAUSES.length - 1)]);
          return;
        }
        this.tries = 0;
      }
    } finally {
      this.busy = false;
    }
  }

  #done(key, event, entry, body) {
    this.waiting.delete(key);
    this.storage.removeItem(key);
    this.notify(event, entry, body);
  }
}
