// The page. Whatever comes from the cluster is text: only textContent is ever set.

import { PlacementMap } from "/map.js";

const byId = (id) => document.getElementById(id);
const state = { csrf: "", mayChange: false, instances: new Map(), apps: new Map(), log: null, warning: "", hosts: [], asked: false };
const LINES_MAX = 2000;
const ROWS_MAX = 500;

// What a terminal would obey is shown as what it is: nothing.
const readable = (text) => String(text ?? "").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const short = (name) => readable(name).replace(/^[A-Z]+_STATE_/, "").toLowerCase();

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Formation-Csrf": state.csrf },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

const ask = (name, body = {}) => post(`/api/${name}`, body);

// What is wrong stays until it is not.
function banner(text) {
  const said = [state.warning, text].filter(Boolean).join(" — ");
  byId("banner").textContent = readable(said);
  byId("banner").hidden = !said;
}

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = readable(text);
  if (name) made.className = name;
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    td.append(cell instanceof Node ? cell : document.createTextNode(readable(cell)));
    made.append(td);
  }
  return made;
}

function button(label, said, act) {
  const made = element("button", label);
  made.type = "button";
  made.setAttribute("aria-label", readable(said));
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await act();
      banner("");
    } catch (error) {
      banner(error.message);
    }
    made.disabled = false;
  });
  return made;
}

// ---------------------------------------------------------------------------- who is here

async function begin() {
  const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
  if (ticket) {
    history.replaceState(null, "", "/");
    try {
      await post("/login", { ticket });
    } catch (error) {
      banner(error.message);
    }
  }
  const response = await fetch("/api/session");
  if (!response.ok) {
    byId("login").hidden = false;
    return;
  }
  const who = await response.json();
  state.csrf = who.csrf;
  state.mayChange = who.role !== "viewer";
  byId("who").textContent = readable(`${who.role} ${who.name} · coordinator ${who.coordinator} ${who.version}`);
  byId("logout").hidden = false;
  byId("main").hidden = false;
  state.warning = who.warning;
  banner("");
  follow();
  happenings();
  hosts();
}

byId("logout").addEventListener("click", async () => {
  await post("/logout", {});
  location.reload();
});

// ---------------------------------------------------------------------------- what runs

function follow() {
  const events = new EventSource("/events/WatchInstances");
  events.addEventListener("message", (event) => {
    const update = JSON.parse(event.data);
    if (update.complete) state.instances.clear();
    for (const item of update.changed ?? []) state.instances.set(item.status.uid || slot(item), item);
    for (const uid of update.gone_uids ?? []) state.instances.delete(uid);
    if (update.apps) state.apps = new Map(update.apps.map((app) => [app.name, app]));
    if (update.note && update.standstill) banner(update.note);
    askToShow();
  });
  events.addEventListener("refused", (event) => {
    banner(JSON.parse(event.data).error);
    events.close();
  });
}

const slot = (item) => `${item.status.app}/${item.status.type}.${item.status.ordinal ?? 0}`;
const byName = new Intl.Collator("en", { numeric: true }).compare;

// A burst of news is drawn once.
function askToShow() {
  if (state.asked) return;
  state.asked = true;
  requestAnimationFrame(() => {
    state.asked = false;
    show();
  });
}

function show() {
  const found = [...state.instances.values()].sort((a, b) => byName(slot(a), slot(b)));
  map.show(state.hosts, found, byId("label").value);
  const well = found.filter((item) => short(item.status.state) === "healthy" && !item.surplus).length;
  byId("summary").textContent = `${state.hosts.length} hosts, ${found.length} instances, ${well} healthy`;
  // What is wrong first, where there are more than anybody reads.
  const wrong = (item) => (short(item.status.state) === "healthy" ? 1 : 0);
  const rows = found.length > ROWS_MAX ? found.sort((a, b) => wrong(a) - wrong(b)).slice(0, ROWS_MAX) : found;
  byId("instances").replaceChildren(...rows.map(instance));
  if (rows.length < state.instances.size) byId("instances").append(row(`and ${state.instances.size - rows.length} more`));
  const formations = [];
  for (const [name, app] of [...state.apps].sort((a, b) => byName(a[0], b[0]))) {
    for (const [type, quantity] of Object.entries(app.formation ?? {})) formations.push(formation(name, type, quantity));
  }
  // Whoever is writing a number shall not lose it.
  if (!byId("apps").contains(document.activeElement)) byId("apps").replaceChildren(...formations);
}

const map = new PlacementMap(byId("map"), choose);
byId("label").addEventListener("change", show);

function choose(item) {
  const chosen = byId("chosen");
  chosen.hidden = !item;
  if (!item) return;
  const status = item.status;
  const said = [
    `${slot(item)} on ${item.host}: ${short(status.state)}`,
    status.reason, status.last_exit && `last ended with ${status.last_exit}`,
    item.placed_because && `here because: ${item.placed_because}`,
  ];
  const lines = said.filter(Boolean).map((text) => element("p", text));
  const buttons = element("p");
  buttons.append(button("Log", `Log of ${slot(item)}, chosen`, () => tail(status)));
  chosen.replaceChildren(...lines, buttons);
}

function labelsOf(hosts) {
  const names = [...new Set(hosts.flatMap((host) => Object.keys(host.labels)))].sort();
  const select = byId("label"), before = select.value;
  const options = ["", ...names].map((name) => Object.assign(element("option", name || "no label"), { value: name }));
  select.replaceChildren(...options);
  select.value = names.includes(before) ? before : "";
}

function instance(item) {
  const status = item.status;
  const name = slot(item);
  const actions = element("span");
  actions.append(button("Log", `Log of ${name}`, () => tail(status)));
  if (state.mayChange) {
    actions.append(button("Restart", `Restart ${name}`, () => ask("Restart", { app: status.app, type: status.type, ordinal: status.ordinal })));
  }
  return row(
    name,
    element("span", short(status.state), short(status.state)),
    item.host ?? "",
    status.release ? `v${status.release}` : "",
    status.reason ?? "",
    actions,
  );
}

function formation(app, type, quantity) {
  const good = [...state.instances.values()].filter(
    (item) => item.status.app === app && item.status.type === type && short(item.status.state) === "healthy",
  ).length;
  const cell = element("span");
  if (state.mayChange) {
    const wanted = document.createElement("input");
    wanted.type = "number";
    wanted.min = "0";
    wanted.value = quantity;
    wanted.setAttribute("aria-label", readable(`How many of ${app}/${type}`));
    const scale = () => ask("Scale", { app, changes: [{ type, kind: "KIND_SET", quantity: Number(wanted.value) }] });
    cell.append(wanted, button("Scale", `Scale ${app}/${type}`, scale));
  }
  return row(app, type, String(good), String(quantity), cell);
}

function happenings() {
  const events = new EventSource("/events/WatchEvents?tail=100&follow=true");
  events.addEventListener("message", (event) => {
    const answer = JSON.parse(event.data);
    for (const item of answer.events ?? []) {
      const where = item.host && !item.what.startsWith("host.") ? ` on ${item.host}` : "";
      const time = new Date(Number(item.at_ms)).toLocaleTimeString();
      append(byId("events"), `${time}  ${item.subject}  ${item.text ?? ""}${where}`);
    }
  });
}

async function hosts() {
  try {
    const answer = await ask("ListHosts");
    const rows = (answer.hosts ?? []).map((item) =>
      row(
        item.status.host,
        element("span", short(item.state), short(item.state)),
        String(item.instances ?? 0),
        String(item.healthy ?? 0),
        [item.host?.draining ? "draining" : item.host?.cordoned ? "cordoned" : "", item.status.complaint].filter(Boolean).join("; "),
      ),
    );
    byId("hosts").replaceChildren(...rows);
    const known = (answer.hosts ?? []).map((item) => ({
      name: item.status.host,
      state: short(item.state),
      labels: { ...item.status.labels, ...item.host?.labels },
    }));
    if (JSON.stringify(known) !== JSON.stringify(state.hosts)) {
      state.hosts = known;
      labelsOf(known);
      askToShow();
    }
  } catch (error) {
    banner(error.message);
  }
  setTimeout(hosts, 5000);
}

// ---------------------------------------------------------------------------- a log

function tail(status) {
  state.log?.close();
  const name = `${status.app}/${status.type}.${status.ordinal}`;
  byId("log-part").hidden = false;
  byId("log-title").textContent = readable(`Log of ${name}`);
  byId("log").replaceChildren();
  const query = new URLSearchParams({ app: status.app, type: status.type, ordinal: status.ordinal, tail_lines: "100", follow: "true" });
  const events = (state.log = new EventSource(`/events/Logs?${query}`));
  events.addEventListener("message", (event) => {
    const answer = JSON.parse(event.data);
    for (const line of answer.lines ?? []) write(line);
    if (answer.notice) byId("log").append(element("em", `${answer.notice}\n`));
  });
  events.addEventListener("refused", (event) => {
    banner(JSON.parse(event.data).error);
    events.close();
  });
}

function write(line) {
  const bytes = Uint8Array.from(atob(line.text ?? ""), (char) => char.charCodeAt(0));
  append(byId("log"), new TextDecoder().decode(bytes));
}

function append(log, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(document.createTextNode(`${readable(text)}\n`));
  while (log.childNodes.length > LINES_MAX) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Opened once more in a tab that shows us already.
addEventListener("hashchange", () => location.reload());
begin();
