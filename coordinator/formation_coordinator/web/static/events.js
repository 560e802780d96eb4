// What happens, as it happens: the list, and what the time line marks.

import { button, byId, clock, element, replaced } from "/dom.js";
import { followed } from "/stream.js";

const KEPT_MAX = 1000, SHOWN_MAX = 200;
const SEVERE = /^(host\.(silent|departed|forgotten|complains)|instance\.(failed|backoff|unready)|app\.undone|cluster\.held|run\.(failed|lost))/;
const MARKED = /^(host|app|cluster)\.|^instance\.(failed|backoff)/;
export const happened = [];
let stop = () => {};

export const isSevere = (item) => SEVERE.test(item.what);
export const isMarked = (item) => MARKED.test(item.what);

// `changed()`: there is something new. `opened(event)`: somebody wants to see what it is about.
export function listen(changed, opened) {
  stop();
  happened.length = 0;
  stop = followed("/events/WatchEvents?tail=500&follow=true", (answer) => {
    if (answer.missed) happened.push({ at_ms: Date.now(), what: "page.missed", subject: "", text: `${answer.missed} events were missed` });
    happened.push(...(answer.events ?? []));
    if (happened.length > KEPT_MAX) happened.splice(0, happened.length - KEPT_MAX);
    changed();
  }, () => {});
  listen.opened = opened;
}

// Those until that time; null: all.
export function showEvents(untilMs) {
  const list = byId("events"), atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  const told = happened.filter((item) => untilMs === null || Number(item.at_ms) <= untilMs).slice(-SHOWN_MAX);
  const rows = told.map(line);
  replaced(list, rows.length ? rows : [element("li.soft", "Nothing has happened since this coordinator began to look.")]);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function line(item) {
  const where = item.host && !item.what.startsWith("host.") ? ` on ${item.host}` : "";
  const opens = /^(instance|host)\./.test(item.what);
  const made = element(isSevere(item) ? "li.severe" : "li", { "data-number": String(item.number ?? 0) },
    element("time", clock(item.at_ms)), element("span.sign", { "aria-hidden": "true" }, isSevere(item) ? "✕" : ""));
  made.append(opens ? button(item.subject, `Open ${item.subject}`, () => listen.opened(item), "plain") : element("b", item.subject));
  made.append(element("span", ` ${item.text ?? ""}${where}`));
  return made;
}
