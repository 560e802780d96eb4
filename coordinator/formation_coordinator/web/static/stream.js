// The connection: a picture of everything, then what changes; anew by itself when it is lost.

import { Picture } from "/data.js";

// The coordinator says something at least every five seconds.
const SILENT_MS = 15000;
const AGAIN_MS = [500, 1000, 2000, 4000];

export class Stream {
  // `shown(picture)`, `changed(picture, what)`, `lost(sinceMs)`, `back()`, `out(why)`: log in again.
  constructor(hear) {
    this.hear = hear;
    this.tries = 0;
    this.heard = Date.now();
    this.updates = this.bytes = this.looks = 0;
    setInterval(() => this.watch(), 1000);
  }

  async begin() {
    this.source?.close();
    clearTimeout(this.waiting);
    try {
      const response = await fetch("/map/whole", { signal: AbortSignal.timeout(30000) });
      if (response.status === 401) return this.out(response);
      if (!response.ok) throw new Error(response.statusText);
      this.picture = new Picture(await response.arrayBuffer());
    } catch {
      return this.again();
    }
    this.alive();
    this.hear.shown(this.picture);
    this.follow();
  }

  follow() {
    const source = (this.source = new EventSource(`/map/changes?after=${this.picture.id}-${this.picture.n}`));
    source.addEventListener("beat", () => this.alive());
    source.addEventListener("anew", () => this.begin());
    source.addEventListener("change", (event) => {
      this.alive();
      const told = JSON.parse(event.data);
      this.updates++;
      this.bytes += event.data.length;
      this.looks += (told.l?.length ?? 0) / 2;
      if (told.n === this.picture.n + 1) this.hear.changed(this.picture, this.picture.take(told));
      else if (told.n > this.picture.n) this.begin();
    });
    source.addEventListener("refused", () => this.again());
    source.addEventListener("error", () => this.again());
  }

  alive() {
    this.heard = Date.now();
    this.tries = 0;
    if (this.gone) this.hear.back();
    this.gone = 0;
  }

  again() {
    this.source?.close();
    clearTimeout(this.waiting);
    if (!this.gone) this.gone = Date.now();
    this.hear.lost(this.gone);
    this.waiting = setTimeout(() => this.begin(), AGAIN_MS[Math.min(this.tries++, AGAIN_MS.length - 1)]);
  }

  async out(response) {
    const answer = await response.json().catch(() => ({}));
    this.hear.out(answer.error ?? "log in again");
  }

  // A connection can be dead without anybody saying so.
  watch() {
    if (this.source?.readyState === EventSource.OPEN && Date.now() - this.heard > SILENT_MS) this.again();
  }
}

// The same for streams of JSON. Gives what ends it.
export function followed(path, heard, refused) {
  const source = new EventSource(path);
  source.addEventListener("message", (event) => heard(JSON.parse(event.data)));
  source.addEventListener("refused", (event) => {
    source.close();
    refused(JSON.parse(event.data).error);
  });
  return () => source.close();
}
