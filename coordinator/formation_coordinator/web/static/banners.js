// What is wrong as a whole, on top of everything, each as long as it is so.

import { DEPARTED, LOST, READY, SUSPECT } from "/data.js";
import { byId, byName, clock, element, number, readable, replaced, span } from "/dom.js";

const SIGNS = { bad: "✕", warn: "!", info: "i" };
const NAMED_MAX = 3, REASONS_MAX = 4;
const shown = new Map();

// `lines`: what is said below; none at all takes it away.
export function banner(key, kind, title, lines = []) {
  if (title) shown.set(key, { kind, title, lines });
  else if (!shown.delete(key)) return;
  const order = ["bad", "warn", "info"];
  const sorted = [...shown].sort((a, b) => order.indexOf(a[1].kind) - order.indexOf(b[1].kind));
  replaced(byId("banners"), sorted.map(([name, item]) => made(name, item)));
}

function made(name, { kind, title, lines }) {
  return element(`div.banner.${kind}`, { "data-banner": name, role: kind === "bad" ? "alert" : "status" },
    element("span.sign", { "aria-hidden": "true" }, SIGNS[kind]),
    element("div", element("strong", title), lines.map((line) => element("p", line))));
}

export function bannersOf(picture, nowMs) {
  const said = picture.warnings ?? {};
  banner("insecure", "bad", said.insecure && "This cluster is open to anybody", [said.insecure]);
  banner("outdated", "bad", said.outdated && "What you see may be old", [said.outdated]);
  banner("held", "bad", said.held && "Everything is held", [said.held, "Look with: formctl reconcile   Let it go on with: formctl reconcile --confirm"]);
  banner("brake", "bad", said.brake && "Placement stands still", [said.brake]);
  banner("leader", "warn", !said.leader && !said.outdated && "No coordinator leads: nothing is placed until one does");
  banner("alone", "warn", said.alone && "Some apps are left alone", (said.alone ?? []).map(([app, why]) => `${app}: ${why}`));
  hostsOf(picture, nowMs);
  unplacedOf(picture.unplaced ?? []);
}

function hostsOf(picture, nowMs) {
  const away = picture.known().filter((host) => host.state !== READY && host.state && !(host.flags & DEPARTED && !host.cells.length));
  away.sort((a, b) => a.since - b.since || byName(a.name, b.name));
  const lost = away.filter((host) => host.state === LOST).length, silent = away.filter((host) => host.state === SUSPECT).length;
  const words = [silent && `${number(silent)} silent`, lost && `${number(lost)} lost`].filter(Boolean).join(", ");
  const lines = away.slice(0, NAMED_MAX).map((host) => {
    const what = host.flags & DEPARTED ? "said goodbye" : host.state === LOST ? "lost" : "silent";
    const since = host.since ? `, since ${clock(host.since)} (${span(nowMs - host.since)})` : "";
    return `${host.name} ${what}${since}, ${host.cells.length} instance${host.cells.length === 1 ? "" : "s"} there`;
  });
  if (away.length > NAMED_MAX) lines.push(`and ${number(away.length - NAMED_MAX)} more`);
  banner("hosts", lost ? "bad" : "warn", away.length ? `Hosts that do not answer: ${words}` : "", lines);
}

function unplacedOf(list) {
  const count = list.reduce((sum, item) => sum + item[2], 0);
  const lines = list.slice(0, REASONS_MAX).map(([app, type, many, why]) => `${number(many)} × ${app}${type ? `/${type}` : ""}: ${why}`);
  const rest = list.slice(REASONS_MAX).reduce((sum, item) => sum + item[2], 0);
  if (rest) lines.push(`and ${number(rest)} more, for other reasons`);
  banner("unplaced", "warn", count ? `${number(count)} instance${count === 1 ? " is" : "s are"} not where ${count === 1 ? "it" : "they"} should be` : "", lines);
}

// The little word at the top right.
export function link(word, kind) {
  const there = byId("link");
  there.textContent = readable(word);
  there.className = `link ${kind}`;
}
