// What was opened: a host, or one instance with its log, its last ends and why it is where it is.

import { actions, ask, get, mayChange, me } from "/act.js";
import { BAD, CORDONED, DRAINING, GOOD, NOWHERE, RUN, STALE, SURPLUS, classOf, stateOf, wordOfHost } from "/data.js";
import { button, byId, clock, element, number, replaced, row, span } from "/dom.js";
import { Log } from "/log.js";

const INSTANCES_MAX = 200, HOSTS_MAX = 12;
const WORDS = ["good", "busy", "bad"];
export const stateWord = (look) => element(`span.state.${WORDS[classOf(look)]}`, stateOf(look));
export const hostWord = (host) => element(`span.state.${host.state !== 1 ? "bad" : host.flags & (CORDONED | DRAINING) ? "busy" : "good"}`, wordOfHost(host));

export class Detail {
  // `now()`: the picture that is shown, and since when it is not the present one.
  constructor({ now, chosen, failed }) {
    Object.assign(this, { now, chosen, failed });
    this.there = byId("detail");
    this.log = new Log(failed);
    this.there.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    setInterval(() => this.open && this.refresh(), 3000);
  }

  host(name) {
    this.start({ host: name, kind: "host" });
  }

  instance(slot) {
    this.start({ ...slot, kind: "instance" });
    this.log.follow(slot);
  }

  start(open) {
    if (!this.open) this.back = document.activeElement;
    this.log.close();
    this.open = open;
    this.body = element("div");
    this.live = element("div");
    this.explained = element("div");
    this.set = element("div");
    this.there.hidden = false;
    document.body.classList.add("with-detail");
    const title = open.kind === "host" ? open.host : `${open.app}/${open.type}.${open.ordinal}`;
    const way = open.kind === "instance" && open.host && button(open.host, `Host ${open.host}`, () => this.host(open.host), "plain");
    this.there.replaceChildren(
      element("div.bar", element("h2", { id: "detail-title" }, way, way && " › ", title), button("✕", "Close", () => this.close(), "plain")),
      this.body,
    );
    this.told = null;
    if (open.kind === "instance") this.parts();
    this.refresh();
    this.there.focus({ preventScroll: innerWidth > 900 });
  }

  close() {
    this.log.close();
    this.open = null;
    this.there.hidden = true;
    document.body.classList.remove("with-detail");
    this.chosen(-1);
    if (this.back?.isConnected) this.back.focus();
  }

  // Something was told; what it is about is not looked at.
  async refresh() {
    const { open } = this;
    if (!open) return;
    if (open.kind === "host") return this.showHost(open);
    this.showInstance(open);
    if (this.now().past) return;
    try {
      const told = await get("/map/instance", { host: open.host, app: open.app, type: open.type, ordinal: open.ordinal });
      if (this.open !== open) return;
      this.told = told;
      this.showInstance(open);
    } catch (error) {
      this.failed(error.message);
    }
  }

  // ---------------------------------------------------------------------- a host

  showHost(open) {
    const { picture } = this.now(), host = [...picture.hosts.values()].find((item) => item.name === open.host && item.number !== NOWHERE);
    if (!host) return replaced(this.body, [element("p.soft", `${open.host} is not known any more.`)]);
    const cells = picture.cellsOf(host), good = cells.filter((id) => picture.isWell(id)).length;
    const labels = Object.entries(host.labels).map(([name, value]) => element("code", value ? `${name}=${value}` : name));
    const first = [...cells].sort((a, b) => rank(picture.look[b]) - rank(picture.look[a]));
    replaced(this.body, [
      facts([
        ["State", [hostWord(host), host.since ? ` since ${clock(host.since)} (${span(Date.now() - host.since)})` : ""]],
        ["Instances", `${number(cells.length)}, ${number(good)} work`],
        ["Address", host.address], ["Labels", labels.length ? labels.flatMap((one) => [one, " "]) : ""],
        ["Held by", host.coordinator && `coordinator ${host.coordinator}`], ["It says", host.complaint],
      ]),
      this.hostButtons(host),
      element("h3", "Instances"),
      cells.length ? element("ul.list", first.slice(0, INSTANCES_MAX).map((id) => this.entry(picture, id))) : element("p.soft", "Nothing runs here."),
      cells.length > INSTANCES_MAX && element("p.soft", `and ${number(cells.length - INSTANCES_MAX)} more`),
    ].filter(Boolean));
  }

  entry(picture, id) {
    const slot = picture.slotOf(id), name = picture.nameOf(id);
    return element("li", button(name, `Open ${name}`, () => {
      this.chosen(id);
      this.instance(slot);
    }, "plain"), stateWord(picture.look[id]), element("span.soft", `v${picture.release[id]}`));
  }

  hostButtons(host) {
    if (!me.may.operate || this.now().past) return "";
    const { name } = host, held = host.flags & (CORDONED | DRAINING);
    return element("p.buttons",
      held && button("Uncordon", `Uncordon ${name}`, () => actions.uncordon(name)),
      !held && button("Cordon", `Cordon ${name}`, () => actions.cordon(name)),
      !(host.flags & DRAINING) && button("Drain", `Drain ${name}`, () => actions.drain(name), "danger"));
  }

  // ---------------------------------------------------------------------- an instance

  parts() {
    const { open } = this, name = `${open.app}/${open.type}.${open.ordinal}`;
    const explain = element("details", element("summary", "Why here, and not elsewhere"), this.explained);
    explain.addEventListener("toggle", () => explain.open && this.explain(open));
    const settings = element("details", element("summary", "Settings of its type"), this.set);
    settings.addEventListener("toggle", () => settings.open && this.settings(open));
    this.there.append(this.live, element("h3", `Log of ${name}`), this.log.box, explain, settings);
  }

  showInstance(open) {
    const { picture, past } = this.now(), id = picture.find(open);
    const view = (!past && this.told?.views?.[0]) || null, status = view?.status ?? {};
    const look = id < 0 ? 0 : picture.look[id];
    const marks = [
      look & SURPLUS && "on its way out", look & STALE && (look & 15) !== 1 && "runs an older release, or waits for a restart",
      look & RUN && "a run: it comes to an end by itself", view?.host_silent && "its host is silent: this is what was last heard",
    ].filter(Boolean);
    const up = Number(status.started_at_ms ?? 0), retry = Number(status.retry_at_ms ?? 0);
    replaced(this.body, [
      facts([
        ["State", id < 0 ? (past ? "not there then" : "gone") : [stateWord(look), marks.length ? ` · ${marks.join(" · ")}` : ""]],
        ["Why", status.reason], ["It says", status.told],
        ["Release", id >= 0 && `v${picture.release[id]}`],
        ["Process", status.pid && `pid ${status.pid}${status.port ? `, port ${status.port}` : ""}${up ? `, up ${span(Date.now() - up)}` : ""}`],
        ["Restarts", status.attempt > 1 && number(status.attempt - 1)],
        ["Next try", retry > Date.now() && `in ${span(retry - Date.now())}`],
        ["Here because", view?.placed_because],
      ]),
      this.instanceButtons(open, look),
    ].filter(Boolean));
    this.showEnds(open);
  }

  instanceButtons(open, look) {
    if (this.now().past || !mayChange(open.app) || look & RUN || !look) return "";
    const name = `${open.app}/${open.type}.${open.ordinal}`;
    return element("p.buttons",
      button("Restart", `Restart ${name}`, () => actions.restart(open.app, open.type, open.ordinal)),
      classOf(look) === BAD && open.host && button("Try again now", `Try ${name} again now`, () => actions.retry(open.app, open.type, open.ordinal)));
  }

  showEnds(open) {
    const ends = this.told?.ends ?? [];
    const made = ends.map((end) => {
      const ran = end.ran_ms < 0 ? "nobody saw it begin" : `it ran ${span(end.ran_ms)}`;
      const said = end.host === open.host ? this.log.before(end.at_ms) : [];
      return element("li", element("time", clock(end.at_ms)), ` ${end.how}, ${ran}${end.host === open.host ? "" : ` on ${end.host}`}`,
        said.length ? element("details", element("summary", "last lines"), element("pre.log", said.join("\n"))) : "");
    });
    const before = [...this.live.querySelectorAll("details")].map((item) => item.open);
    const list = made.length ? element("ol.ends", made) : element("p.soft", "It has not ended since this coordinator began to look.");
    if (this.live.querySelector("details[open]") && before.length === list.querySelectorAll("details").length) return;
    replaced(this.live, [element("h3", "Last ends"), list]);
  }

  async explain(open) {
    this.explained.replaceChildren(element("p.soft", "Asking…"));
    try {
      const found = await ask("Explain", { app: open.app, type: open.type, ordinal: open.ordinal });
      if (this.open === open) this.explained.replaceChildren(...explained(found));
    } catch (error) {
      this.explained.replaceChildren(element("p.wrong", error.message));
    }
  }

  async settings(open) {
    const { apps = [] } = await ask("ListApps").catch((error) => (this.failed(error.message), {}));
    const spec = apps.find((item) => item.app.name === open.app)?.release?.types?.find((item) => item.name === open.type);
    if (this.open !== open) return;
    this.set.replaceChildren(spec ? facts(Object.entries(spec).filter(([name]) => name !== "name").map(([name, value]) => [name.replaceAll("_", " "), flat(value)])) : element("p.soft", "Its release cannot be read."));
  }
}

const rank = (look) => (classOf(look) === GOOD ? 0 : classOf(look));

export function facts(pairs) {
  return element("dl", pairs.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function flat(value) {
  if (Array.isArray(value)) return value.map(flat).join(", ");
  if (value && typeof value === "object") return Object.entries(value).map(([name, item]) => `${name.replaceAll("_", " ")} ${flat(item)}`).join(", ");
  return String(value);
}

function explained(found) {
  const rows = (found.hosts ?? []).slice(0, HOSTS_MAX).map((host) => {
    const wrong = (host.checks ?? []).filter((check) => !check.passed);
    const why = wrong.length ? wrong.map((check) => `${check.name}: ${check.detail ?? ""}`).join("; ") : (host.terms ?? []).map((term) => `${term.name} ${term.value ?? 0}`).join(", ");
    return row(element("td", host.host, host.current ? element("b", " ◂ here") : ""), element("td", element(`span.state.${host.fits ? "good" : "bad"}`, host.fits ? `fits, ${host.rank ? `no. ${host.rank}` : ""}` : "does not fit")), why);
  });
  const more = (found.hosts ?? []).length - rows.length;
  return [
    found.reason && element("p", found.reason), found.remedy && element("p", element("strong", "What would help: "), found.remedy),
    element("table.tight", element("thead", element("tr", ["Host", "Fits?", "Why"].map((name) => element("th", { scope: "col" }, name)))), element("tbody", rows)),
    more > 0 && element("p.soft", `and ${number(more)} more hosts`),
  ].filter(Boolean);
}
