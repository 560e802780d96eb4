// Apps: what is wanted of each type and what there is, and how far a change has come.

import { actions, mayChange } from "/act.js";
import { button, byId, clock, element, number, replaced, span } from "/dom.js";

const NOTHING = { count: 0, well: 0, fresh: 0, freshWell: 0, old: 0, bad: 0, newest: 0 };

// `open(app, type)`: shows its instances in the table.
export function showApps(picture, byType, { past, open, nowMs }) {
  const there = byId("apps");
  // Whoever is writing a number shall not lose it.
  if (there.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
  const focused = there.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : "";
  // What changes is what people look for.
  const order = [...(picture.apps ?? [])].sort((a, b) => (a.release === a.stable) - (b.release === b.stable));
  const cards = order.map((app) => card(app, byType, { past, open, nowMs }));
  replaced(there, cards.length ? cards : [element("p.soft", "There is no app yet: formctl apply makes one of a Procfile.")]);
  if (focused && !there.contains(document.activeElement))
    [...there.querySelectorAll("button")].find((item) => item.getAttribute("aria-label") === focused)?.focus();
}

function card(app, byType, more) {
  const may = !more.past && mayChange(app.name);
  return element("article.app", { "aria-label": `App ${app.name}` },
    element("h3", app.name, " ", element("span.tag", app.release ? `v${app.release}` : "no release yet")),
    candidate(app, may), change(app, byType, may, more.nowMs),
    element("table", head(may), element("tbody", app.types.map((type) => line(app, type, byType, may, more.open)))));
}

const head = (may) => element("thead", element("tr",
  ["Type", "Works", ...(may ? ["How many"] : [])].map((name) => element("th", { scope: "col" }, name))));

function line(app, [type, wanted, quantity, kind], byType, may, open) {
  const { well } = byType.get(`${app.name}/${type}`) ?? NOTHING, name = `${app.name}/${type}`;
  const short = well < wanted;
  const meter = element("meter", { min: 0, max: Math.max(1, wanted), value: Math.min(well, wanted), "aria-label": `${well} of ${wanted} ${name} work` });
  const cells = [
    element("td", button(type, `Instances of ${name}`, () => open(app.name, type), "plain"), kind ? element("span.soft", ` ${kind}`) : ""),
    element("td", meter, element(short ? "span.count.short" : "span.count", `${number(well)}/${number(wanted)}`, short ? element("span.sign", " ✕") : "")),
  ];
  if (may) cells.push(element("td", buttons(app.name, type, quantity)));
  return element("tr", cells);
}

function buttons(app, type, quantity) {
  const name = `${app}/${type}`;
  const wanted = element("input", { type: "number", min: "0", max: "1000000", value: String(quantity), "aria-label": `How many of ${name}` });
  const scale = () => {
    const chosen = Number(wanted.value);
    if (!wanted.value || !Number.isInteger(chosen) || chosen < 0) throw new Error(`${name}: a whole number, 0 or more`);
    actions.scale(app, type, quantity, chosen);
  };
  wanted.addEventListener("keydown", (event) => event.key === "Enter" && made.click());
  const made = button("Scale", `Scale ${name}`, scale);
  return element("span.buttons", wanted, made, button("Restart", `Restart ${name}`, () => actions.restart(app, type)));
}

// ---------------------------------------------------------------------------- a change

// A release that waits for its release command.
function candidate(app, may) {
  if (!app.candidate) return "";
  return element("div.rollout", { role: "group", "aria-label": `Candidate of ${app.name}` },
    element("p", element("strong", `v${app.candidate} `), element("span.tag", "waits"), ` for its release command, release.${app.candidate}`),
    may && element("p.buttons", button("Abort", `Abort v${app.candidate} of ${app.name}`, () => actions.steer(app.name, "ABORT"), "danger")));
}

function change(app, byType, may, nowMs) {
  const undone = app.undone ? element("p.wrong", `v${app.undone} was taken back${app.undone_why ? `: ${app.undone_why}` : ""}`) : "";
  if (app.release === app.stable) return undone;
  // What a release does not change goes on under its old number, and is no part of it.
  const types = app.types.map(([type, count]) => [type, byType.get(`${app.name}/${type}`) ?? NOTHING, count])
    .filter(([, item]) => item.old || item.newest === app.release || !app.stable);
  const sum = (what) => types.reduce((found, [, item]) => found + item[what], 0);
  const wanted = types.reduce((found, [, , count]) => found + count, 0), done = Math.min(sum("freshWell"), wanted), old = sum("old");
  const since = app.since_ms ? ` since ${clock(app.since_ms)} (${span(nowMs - Number(app.since_ms))})${app.by ? ` by ${app.by}` : ""}` : "";
  const word = app.paused ? "paused" : app.canary ? `canary of ${app.canary}` : "under way";
  const steps = types.filter(([, item]) => item.old).map(([type, item]) => `${type}: ${number(item.freshWell)} new work, ${number(item.old)} old left`);
  return element("div.rollout", { role: "group", "aria-label": `Change of ${app.name}` }, undone,
    element("p", element("strong", `${app.stable ? `v${app.stable} → ` : ""}v${app.release} `), element("span.tag", word), since),
    element("progress", { max: Math.max(1, wanted), value: done, "aria-label": `${done} of ${wanted} run v${app.release} and work` }),
    element("p", `${number(done)} of ${number(wanted)} run v${app.release} and work${old ? `, ${number(old)} still run what was before` : ""}`),
    app.why ? element("p.soft", app.why) : "", steps.map((text) => element("p.soft", text)),
    may && element("p.buttons",
      app.paused ? button("Resume", `Resume the change of ${app.name}`, () => actions.steer(app.name, "RESUME")) : button("Pause", `Pause the change of ${app.name}`, () => actions.steer(app.name, "PAUSE")),
      app.canary && button("Promote", `Promote the canary of ${app.name}`, () => actions.steer(app.name, "PROMOTE")),
      app.stable && button("Abort", `Abort the change of ${app.name}`, () => actions.steer(app.name, "ABORT"), "danger")));
}
