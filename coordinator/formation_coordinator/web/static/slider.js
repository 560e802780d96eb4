// The time line: what this coordinator has seen lately, with what happened marked on it.

import { Picture } from "/data.js";
import { byId, clock, gathered, readable, span } from "/dom.js";
import { happened, isMarked, isSevere } from "/events.js";

const STEPS = 1000;

export class Slider {
  // `shown(picture, atMs)`: as it was; `live()`: as it is; `failed(text)`.
  constructor(hear) {
    this.hear = hear;
    this.range = byId("when");
    this.range.max = String(STEPS);
    this.load = gathered(() => this.go(), 60);
    this.range.addEventListener("input", () => this.moved());
    byId("live").addEventListener("click", () => this.live());
    new ResizeObserver(() => this.draw()).observe(byId("marks").parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    setInterval(() => this.draw(), 1000);
    this.say();
  }

  get isPast() {
    return this.atMs !== undefined;
  }

  // From when on something is known.
  know(sinceMs) {
    this.since = sinceMs;
    this.draw();
  }

  moved() {
    const end = Date.now(), share = Number(this.range.value) / STEPS;
    if (share >= 1) return this.live();
    if (!this.isPast) this.end = end;
    this.atMs = Math.round(this.since + share * (this.end - this.since));
    this.say();
    this.load();
  }

  live() {
    this.atMs = this.end = this.part = undefined;
    this.range.value = String(STEPS);
    this.say();
    this.hear.live();
  }

  async go() {
    const at = this.atMs;
    if (at === undefined) return;
    if (this.loading) return void (this.missed = true);
    this.loading = true;
    try {
      if (!this.holds(at)) await this.fetch(at);
      if (this.isPast) this.hear.shown(this.replayed(this.atMs), this.atMs);
    } catch (error) {
      this.hear.failed(`the past cannot be shown: ${error.message}`);
    }
    this.loading = false;
    if (this.missed) {
      this.missed = false;
      this.load();
    }
  }

  holds(at) {
    const { part } = this;
    return part && at >= part.from && (part.until ? at < part.until : at <= part.asked);
  }

  async fetch(at) {
    const asked = Date.now(), response = await fetch(`/map/past?at_ms=${at}`);
    if (!response.ok) throw new Error((await response.json()).error);
    const body = await response.arrayBuffer(), first = new Picture(body);
    const rest = JSON.parse(new TextDecoder().decode(new Uint8Array(body, first.rest)));
    this.part = { body, from: first.t, until: rest.until_ms, asked, changes: rest.changes };
    this.know(rest.since_ms);
    this.before = null;
  }

  // On from where we were, or from the beginning of the part.
  replayed(at) {
    const { part } = this;
    if (!this.before || this.before.atMs > at) this.before = { picture: new Picture(part.body), next: 0, atMs: 0 };
    const { before } = this;
    while (before.next < part.changes.length && part.changes[before.next].t <= at) before.picture.take(part.changes[before.next++]);
    before.atMs = at;
    return before.picture;
  }

  say() {
    const ago = this.isPast ? Date.now() - this.atMs : 0;
    const text = this.isPast ? `${clock(this.atMs)}, ${span(ago)} ago` : this.since ? `live; seen since ${clock(this.since)}` : "live";
    byId("when-said").textContent = readable(text);
    this.range.setAttribute("aria-valuetext", text);
    byId("live").setAttribute("aria-pressed", String(!this.isPast));
    document.body.classList.toggle("past", this.isPast);
  }

  draw() {
    const canvas = byId("marks"), wide = canvas.parentElement.clientWidth, ratio = devicePixelRatio || 1;
    this.say();
    if (!wide || !this.since) return;
    canvas.width = wide * ratio;
    canvas.height = 14 * ratio;
    const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    context.scale(ratio, ratio);
    const end = this.end ?? Date.now(), length = Math.max(1, end - this.since);
    // The range's thumb stands half of itself inside.
    const across = (atMs) => 8 + ((atMs - this.since) / length) * (wide - 16);
    for (const item of happened) {
      const at = Number(item.at_ms);
      if (!isMarked(item) || at < this.since || at > end) continue;
      const severe = isSevere(item);
      context.fillStyle = style.getPropertyValue(severe ? "--bad" : "--soft");
      context.fillRect(across(at) - 1, severe ? 0 : 6, 2, severe ? 14 : 8);
    }
  }
}
