// What the map shows, as tables: for those who read, search, or walk with a screen reader.

import { NOWHERE, READY, classOf, SURPLUS } from "/data.js";
import { hostWord, stateWord } from "/detail.js";
import { button, byId, byName, clock, element, gathered, number, replaced, row } from "/dom.js";

const PAGE = 100;

class Table {
  // `heads`: names of columns. `rows(picture, words)`: what fits, each to be made a row of.
  constructor(id, { heads, caption, find, rows, made }) {
    Object.assign(this, { rows, made, page: 0, words: [] });
    this.there = byId(id);
    this.search = element("input", { type: "search", placeholder: find, "aria-label": find });
    this.search.addEventListener("input", () => this.filter(this.search.value));
    this.said = element("p.soft", { role: "status" });
    this.body = element("tbody");
    this.earlier = button("Earlier", "Earlier rows", () => this.turn(-1));
    this.later = button("Later", "Later rows", () => this.turn(1));
    const columns = element("tr", heads.map((name) => element("th", { scope: "col" }, name)));
    this.there.replaceChildren(
      element("div.tools", this.search, this.said, element("span.buttons", this.earlier, this.later)),
      element("div.scroll", { tabindex: "0", role: "region", "aria-label": caption },
        element("table", element("caption.hidden", caption), element("thead", columns), this.body)),
    );
  }

  filter(text) {
    this.search.value = text;
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.page = 0;
    this.show(this.picture);
  }

  turn(by) {
    this.page += by;
    this.show(this.picture);
  }

  show(picture) {
    this.picture = picture;
    if (this.there.hidden || !picture) return;
    const found = this.rows(picture, this.words), pages = Math.max(1, Math.ceil(found.length / PAGE));
    this.page = Math.max(0, Math.min(this.page, pages - 1));
    const from = this.page * PAGE, shown = found.slice(from, from + PAGE);
    replaced(this.body, shown.map((item) => this.made(picture, item)));
    this.said.textContent = found.length ? `${number(from + 1)}–${number(from + shown.length)} of ${number(found.length)}` : "nothing fits";
    this.earlier.disabled = this.page === 0;
    this.later.disabled = this.page >= pages - 1;
  }
}

export class Tables {
  constructor({ open, openHost, tabs }) {
    this.instances = new Table("view-instances", {
      heads: ["Instance", "State", "Host", "Release", "Note"], caption: "Instances, what is in trouble first", find: "Find: web.3, backoff, a host",
      rows: instancesOf,
      made: (picture, id) => {
        const slot = picture.slotOf(id), name = picture.nameOf(id);
        return row(button(name, `Open ${name}`, () => open(id), "plain"), stateWord(picture.look[id]),
          slot.host ? button(slot.host, `Host ${slot.host}`, () => openHost(slot.host), "plain") : "–", `v${picture.release[id]}`, notesOf(picture, id));
      },
    });
    this.hosts = new Table("view-hosts", {
      heads: ["Host", "State", "Works", "Labels", "Since", "It says"], caption: "Hosts", find: "Find: a name, a label, lost",
      rows: hostsOf,
      made: (picture, host) => row(button(host.name, `Host ${host.name}`, () => openHost(host.name), "plain"), hostWord(host),
        `${number(host.cells.filter((id) => picture.isWell(id)).length)}/${number(host.cells.length)}`, labelsOf(host),
        host.since ? clock(host.since) : "", host.complaint),
    });
    this.names = ["map", "instances", "hosts"];
    this.chosen = tabs;
    for (const name of this.names) byId(`tab-${name}`).addEventListener("click", () => this.tab(name));
    byId("tab-map").parentElement.addEventListener("keydown", (event) => this.key(event));
    this.again = gathered(() => this.now(), 500);
  }

  tab(name) {
    for (const other of this.names) {
      const tab = byId(`tab-${other}`), chosen = other === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      byId(`view-${other}`).hidden = !chosen;
    }
    this.now();
    this.chosen(name);
  }

  key(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = this.names.findIndex((name) => byId(`tab-${name}`).getAttribute("aria-selected") === "true");
    const next = this.names[(at + by + this.names.length) % this.names.length];
    this.tab(next);
    byId(`tab-${next}`).focus();
  }

  show(picture) {
    this.picture = picture;
    this.again();
  }

  now() {
    this.instances.show(this.picture);
    this.hosts.show(this.picture);
  }

  find(text) {
    this.tab("instances");
    this.instances.filter(text);
    this.instances.search.focus();
  }
}

function instancesOf(picture, words) {
  const found = [];
  const order = [...picture.hosts.values()];
  for (const host of order) {
    for (const id of host.cells) {
      if (words.length) {
        const text = `${picture.nameOf(id)} ${host.name} ${stateWord(picture.look[id]).textContent} v${picture.release[id]}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      found.push(id);
    }
  }
  const { kind, ordinal, ranks, look } = picture;
  return found.sort((a, b) => classOf(look[b]) - classOf(look[a]) || ranks[kind[a]] - ranks[kind[b]] || ordinal[a] - ordinal[b]);
}

function hostsOf(picture, words) {
  const found = picture.known().filter((host) => {
    const text = `${host.name} ${hostWord(host).textContent} ${labelsOf(host)} ${host.complaint}`.toLowerCase();
    return host.number !== NOWHERE && words.every((word) => text.includes(word));
  });
  return found.sort((a, b) => (a.state === READY) - (b.state === READY) || byName(a.name, b.name));
}

const labelsOf = (host) => Object.entries(host.labels).map(([name, value]) => (value ? `${name}=${value}` : name)).join(" ");

function notesOf(picture, id) {
  const look = picture.look[id];
  return [look & SURPLUS && "on its way out", look & 32 && (look & 15) !== 1 && "older release", look & 64 && "one more, for a change", look & 128 && "a run"].filter(Boolean).join(", ");
}
