// The page put together: who is here, what is told, who shows it.

import { get, me, post } from "/act.js";
import { showApps } from "/apps.js";
import { banner, bannersOf, link } from "/banners.js";
import { NOWHERE } from "/data.js";
import { Detail } from "/detail.js";
import { button, byId, byName, clock, element, gathered, number, readable, span } from "/dom.js";
import { listen, showEvents } from "/events.js";
import { PlacementMap } from "/map.js";
import { Slider } from "/slider.js";
import { Stream } from "/stream.js";
import { Tables } from "/tables.js";

const state = { live: null, past: null, lostMs: 0 };
const shown = () => ({ picture: state.past ?? state.live, past: Boolean(state.past) });
const failed = (text) => banner("failed", "bad", text ? `That did not work: ${text}` : "");
button.failed = failed;

const map = new PlacementMap(
  { stage: byId("stage"), canvas: byId("map"), over: byId("over"), tip: byId("tip"), empty: byId("empty") },
  { choose: open, chooseHost: (host) => openHost(host.name), say: (text) => (byId("map-said").textContent = readable(text)) },
);
const detail = new Detail({
  now: shown, failed,
  chosen: (id) => {
    map.chosen = id;
    map.mark();
  },
});
const tables = new Tables({ open, openHost, tabs: () => map.ask({ layout: true }) });
const slider = new Slider({
  shown: (picture) => {
    state.past = picture;
    show(picture);
  },
  live: () => {
    state.past = null;
    if (state.live) show(state.live);
  },
  failed,
});

const stream = new Stream({
  shown: (picture) => {
    state.live = picture;
    slider.know(picture.since);
    if (!state.past) show(picture);
  },
  changed: (picture, what) => {
    if (state.past) return;
    map.changed(what);
    tables.show(picture);
    around();
  },
  lost: (sinceMs) => {
    state.lostMs = sinceMs;
    lost();
  },
  back: () => {
    state.lostMs = 0;
    lost();
    who().catch(() => {});
    listen(told, openEvent);
  },
  out: (why) => {
    state.lostMs ||= Date.now();
    lost();
    banner("lost", "bad", "You are not logged in any more", [why, "A coordinator that was started anew asks everybody to log in again."]);
    byId("login").hidden = false;
    link("logged out", "bad");
  },
});

// ---------------------------------------------------------------------------- what is shown

function open(id) {
  const { picture } = shown();
  map.chosen = id;
  map.mark();
  if (id < 0) return detail.open && detail.close();
  detail.instance(picture.slotOf(id));
}

function openHost(name) {
  map.chosen = -1;
  map.mark();
  detail.host(name);
}

function openEvent(item) {
  if (item.what.startsWith("host.")) return openHost(item.host);
  const found = /^(.+)\/([^/]+)\.(\d+)$/.exec(item.subject);
  if (!found) return;
  const slot = { app: found[1], type: found[2], ordinal: Number(found[3]) }, { picture } = shown();
  const id = picture.find(slot);
  if (id >= 0) open(id);
  else detail.instance({ ...slot, host: item.host });
}

function show(picture) {
  map.show(picture);
  tables.show(picture);
  labels(picture);
  around();
}

// All but the map: at most four times a second.
const around = gathered(() => {
  const { picture, past } = shown();
  if (!picture) return;
  const { all, byType } = picture.tally(), hosts = picture.known();
  byId("summary").textContent = `${number(hosts.length)} host${hosts.length === 1 ? "" : "s"}, ${number(all.count)} instance${all.count === 1 ? "" : "s"}, ${number(all.well)} healthy`;
  for (const name of ["good", "busy", "bad", "old", "out"]) byId(`n-${name}`).textContent = number(all[name]);
  byId("empty").textContent = hosts.length ? "" : "No host has joined yet. formctl token create --role agent prints the line to paste on one.";
  const nowMs = past ? slider.atMs : Date.now();
  showApps(picture, byType, { past, nowMs, open: (app, type) => tables.find(`${app}/${type}.`) });
  bannersOf(picture, nowMs);
  showEvents(past ? slider.atMs : null);
  labels(picture);
}, 250);
setInterval(() => !state.past && around(), 1000);

const told = () => {
  around();
  slider.draw();
};

function labels(picture) {
  const names = [...new Set(picture.known().flatMap((host) => Object.keys(host.labels)))].sort(byName);
  options("label", ["", ...names], "no label", (label) => map.set({ label }));
  options("only", ["", ...(picture.apps ?? []).map((app) => app.name)], "every app", (only) => map.set({ only }));
}

function options(id, names, none, chosen) {
  const select = byId(id), before = select.value;
  if ([...select.options].map((item) => item.value).join("\n") === names.join("\n")) return;
  select.replaceChildren(...names.map((name) => element("option", { value: name }, name || none)));
  select.value = names.includes(before) ? before : "";
  select.onchange = () => chosen(select.value);
  if (select.value !== before) chosen(select.value);
}

function lost() {
  document.body.classList.toggle("lost", state.lostMs > 0);
  link(state.lostMs ? "not connected" : "connected", state.lostMs ? "bad" : "good");
  banner("lost", "bad", state.lostMs ? "The coordinator does not answer" : "", state.lostMs
    ? [`Since ${clock(state.lostMs)} (${span(Date.now() - state.lostMs)}). What is shown is from then; it is tried again by itself. What runs goes on running.`] : []);
}

// ---------------------------------------------------------------------------- who is here

async function who() {
  const found = await get("/api/session", {});
  Object.assign(me, { csrf: found.csrf, may: found.may });
  byId("who").textContent = readable(`${found.role} ${found.name} · coordinator ${found.coordinator} ${found.version}`);
}

async function begin() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
  if (ticket) {
    history.replaceState(null, "", "/");
    await post("/login", { ticket }).catch((error) => failed(error.message));
  }
  try {
    await who();
  } catch {
    byId("login").hidden = false;
    return;
  }
  byId("logout").hidden = false;
  byId("main").hidden = false;
  link("connected", "good");
  listen(told, openEvent);
  await stream.begin();
}

byId("logout").addEventListener("click", async () => {
  await post("/logout", {}).catch(() => {});
  location.reload();
});
byId("zoom-in").addEventListener("click", () => map.zoom(1.6));
byId("zoom-out").addEventListener("click", () => map.zoom(1 / 1.6));
byId("zoom-fit").addEventListener("click", () => map.fit());
// Opened once more in a tab that shows us already.
addEventListener("hashchange", () => location.reload());
addEventListener("resize", gathered(() => map.ask({ layout: true }), 200));
// For measurements, and for whoever looks under the hood.
Object.assign(document.documentElement, { formation: { map, stream, slider, shown, NOWHERE } });
begin();
