// What is shown, in columns of numbers: a picture of everything, and changes that are put into it.

export const STATES = [
  "", "pending", "waiting", "starting", "healthy", "backoff", "stopping", "stopped", "unready",
  "restarting", "finished", "failed", "draining",
];
export const SURPLUS = 16, STALE = 32, SURGE = 64, RUN = 128, LOOPING = 256;
export const CORDONED = 1, DRAINING = 2, DEPARTED = 4;
export const NOWHERE = 0xffffffff;
const NO_KIND = 0xffffffff;
export const READY = 1, SUSPECT = 2, LOST = 3;

// How it is, for colours and counts.
export const GOOD = 0, BUSY = 1, BAD = 2;
const CLASSES = new Uint8Array(16);
for (const [state, kind] of [[1, BAD], [2, BUSY], [3, BUSY], [4, GOOD], [5, BAD], [6, BUSY], [8, BAD], [9, BUSY], [10, GOOD], [11, BAD], [12, BUSY]])
  CLASSES[state] = kind;
export const classOf = (look) => CLASSES[look & 15];
export const stateOf = (look) => (look & LOOPING && (look & 15) === 5 ? "crash loop" : STATES[look & 15]);

export class Picture {
  // `body`: a length, JSON of that length, then columns; whatever follows is for the caller.
  constructor(body) {
    const length = new DataView(body).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
    Object.assign(this, { id: head.id, n: head.n, t: head.t, since: head.since_ms });
    this.count = head.count;
    let at = 4 + length;
    const column = () => {
      const found = new Uint32Array(body, at, this.count).slice();
      at += 4 * this.count;
      return found;
    };
    this.host = column();
    this.kind = column();
    this.ordinal = column();
    this.look = column();
    this.release = column();
    this.rest = at;
    this.kinds = head.k;
    this.hosts = new Map([[NOWHERE, hostOf([NOWHERE, "", READY, 0, 0, {}])]]);
    for (const record of head.h) this.hosts.set(record[0], hostOf(record));
    this.say(head);
    this.rank();
    for (let id = 0; id < this.count; id++) if (this.kind[id] !== NO_KIND) this.hosts.get(this.host[id])?.cells.push(id);
    for (const host of this.hosts.values()) host.unsorted = true;
  }

  say(told) {
    if (told.a) this.apps = told.a;
    if (told.u) this.unplaced = told.u;
    if (told.w) this.warnings = told.w;
  }

  // In which order types are on a host.
  rank() {
    const order = this.kinds.map((_, index) => index).sort((a, b) => {
      const [one, other] = [this.kinds[a], this.kinds[b]];
      return one[0] < other[0] ? -1 : one[0] > other[0] ? 1 : one[1] < other[1] ? -1 : 1;
    });
    this.ranks = new Uint32Array(order.length);
    order.forEach((kind, place) => (this.ranks[kind] = place));
  }

  // Gives what has to be drawn anew: `moved` are hosts, `looks` single ones.
  take(told) {
    this.n = told.n;
    this.t = told.t;
    const moved = new Set();
    let places = false;
    if (told.k) {
      this.kinds.push(...told.k);
      this.rank();
    }
    for (const record of told.h ?? []) {
      places = true;
      if (record.length === 1) this.hosts.set(record[0], { ...(this.hosts.get(record[0]) ?? hostOf([record[0], "", 0])), gone: true });
      else this.meet(record);
    }
    for (const id of told.g ?? []) moved.add(this.leave(id));
    this.put(told.c ?? [], moved);
    const looks = [];
    for (let at = 0; at < (told.l ?? []).length; at += 2) {
      this.look[told.l[at]] = told.l[at + 1];
      looks.push(told.l[at]);
    }
    for (const [key, host] of this.hosts) if (host.gone) this.hosts.delete(key);
    this.say(told);
    for (const host of moved) if (host) host.unsorted = true;
    return { moved, looks, places };
  }

  meet(record) {
    const before = this.hosts.get(record[0]), host = hostOf(record);
    if (before) Object.assign(host, { cells: before.cells, unsorted: before.unsorted });
    this.hosts.set(record[0], host);
  }

  leave(id) {
    const host = this.hosts.get(this.host[id]);
    if (host) host.cells.splice(host.cells.indexOf(id), 1);
    this.kind[id] = NO_KIND;
    return host;
  }

  put(told, moved) {
    for (let at = 0; at < told.length; at += 6) {
      const id = told[at];
      if (id >= this.count) this.grow(id + 1);
      else if (this.kind[id] !== NO_KIND) moved.add(this.leave(id));
      [this.host[id], this.kind[id], this.ordinal[id], this.look[id], this.release[id]] = told.slice(at + 1, at + 6);
      const host = this.hosts.get(this.host[id]);
      host?.cells.push(id);
      moved.add(host);
    }
  }

  grow(count) {
    if (count > this.host.length) {
      for (const name of ["host", "kind", "ordinal", "look", "release"]) {
        const larger = new Uint32Array(Math.ceil(count * 1.5) + 64);
        larger.set(this[name]);
        this[name] = larger;
      }
    }
    this.kind.fill(NO_KIND, this.count, count);
    this.count = count;
  }

  // In their order. A host that lost or got one is put into order when somebody looks.
  cellsOf(host) {
    if (host.unsorted) {
      host.unsorted = false;
      const { ranks, kind, ordinal } = this;
      host.cells.sort((a, b) => ranks[kind[a]] - ranks[kind[b]] || ordinal[a] - ordinal[b] || a - b);
    }
    return host.cells;
  }

  known() {
    return [...this.hosts.values()].filter((host) => host.number !== NOWHERE && (host.state || host.cells.length));
  }

  nameOf(id) {
    const [app, type] = this.kinds[this.kind[id]];
    return `${app}/${type}.${this.ordinal[id]}`;
  }

  slotOf(id) {
    const [app, type] = this.kinds[this.kind[id]];
    return { app, type, ordinal: this.ordinal[id], host: this.hosts.get(this.host[id])?.name ?? "" };
  }

  find(slot) {
    for (const host of this.hosts.values()) {
      if (slot.host !== undefined && host.name !== slot.host) continue;
      for (const id of host.cells) {
        const [app, type] = this.kinds[this.kind[id]];
        if (app === slot.app && type === slot.type && this.ordinal[id] === slot.ordinal) return id;
      }
    }
    return -1;
  }

  // Does it work, and is its host heard?
  isWell(id) {
    const state = this.look[id] & 15;
    return state === 10 || (state === 4 && this.hosts.get(this.host[id])?.state === READY);
  }

  // Of everything, and of each type: how many there are, work, run the wanted release, the old one.
  tally() {
    const all = { count: 0, well: 0, good: 0, busy: 0, bad: 0, old: 0, out: 0 };
    const kinds = this.kinds.map(() => ({ count: 0, well: 0, fresh: 0, freshWell: 0, old: 0, bad: 0, newest: 0 }));
    const ready = new Map([...this.hosts].map(([key, host]) => [key, host.state === READY]));
    for (let id = 0; id < this.count; id++) {
      if (this.kind[id] === NO_KIND) continue;
      const look = this.look[id], state = look & 15, kind = kinds[this.kind[id]];
      const how = CLASSES[state], heard = state === 10 || ready.get(this.host[id]);
      all.count++;
      all[how === GOOD ? (heard ? "good" : "bad") : how === BUSY ? "busy" : "bad"]++;
      if (look & SURPLUS) {
        all.out++;
        continue;
      }
      const well = how === GOOD && heard;
      if (well) all.well++;
      if (look & STALE && state !== 1) all.old++;
      if (look & RUN) continue;
      if (!(look & SURGE)) {
        kind.count++;
        kind.well += well;
      }
      if (how === BAD || !heard) kind.bad++;
      if (state === 1) continue;
      if (this.release[id] > kind.newest) kind.newest = this.release[id];
      if (look & STALE) kind.old++;
      else kind.fresh++;
      if (!(look & STALE) && well) kind.freshWell++;
    }
    const byType = new Map(this.kinds.map(([app, type], index) => [`${app}/${type}`, kinds[index]]));
    return { all, byType };
  }
}

function hostOf([number, name, state, flags = 0, since = 0, labels = {}, complaint = "", coordinator = "", address = ""]) {
  return { number, name, state, flags, since, labels, complaint, coordinator, address, cells: [], unsorted: false };
}

export function wordOfHost(host) {
  if (host.state === LOST) return host.flags & DEPARTED ? "gone" : "lost";
  if (host.state === SUSPECT) return "silent";
  if (!host.state) return "unknown";
  if (host.flags & DRAINING) return "draining";
  return host.flags & CORDONED ? "cordoned" : "ready";
}
