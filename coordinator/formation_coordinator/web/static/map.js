// The placement map: which part of it is seen, what is under the pointer, walking with the keys.

import { NOWHERE, stateOf, wordOfHost } from "/data.js";
import { byName, gathered, readable } from "/dom.js";
import { Painter } from "/draw.js";
import { indexAt, layout, squareAt } from "/layout.js";

const SQUARE_MAX = 44;

export class PlacementMap {
  // `parts`: {stage, canvas, over, tip, empty}. `choose(id)` and `chooseHost(host)` open something;
  // `say(text)` is heard by those who do not see.
  constructor(parts, { choose, chooseHost, say }) {
    Object.assign(this, parts, { choose, chooseHost, say });
    this.painter = new Painter(this.canvas);
    this.view = { scale: 1, x: 0, y: 0 };
    this.label = this.only = "";
    this.cursor = this.chosen = -1;
    this.dirty = new Set();
    this.stale = { layout: true, all: true };
    this.frames = [];
    this.relayout = gathered(() => this.ask({ layout: true }), 250);
    new ResizeObserver(() => this.ask({ layout: true })).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.painter.learn();
      this.ask({ all: true });
    });
    this.listen();
  }

  show(picture) {
    this.picture = picture;
    this.cursor = -1;
    this.ask({ layout: true });
  }

  // What `Picture.take` gave.
  changed({ moved, looks, places }) {
    if (places || moved.size) this.relayout();
    for (const id of looks) this.dirty.add(id);
    if (looks.length) this.ask({});
  }

  set({ label = this.label, only = this.only }) {
    if (label !== this.label) this.fit();
    Object.assign(this, { label, only });
    this.ask({ layout: true });
  }

  // At most once a frame, however much is told meanwhile.
  ask(what) {
    Object.assign(this.stale, what);
    if (this.asked || !this.picture) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.frame();
    });
  }

  frame() {
    const began = performance.now(), width = this.stage.clientWidth;
    if (!width) return;
    const { layout: anew, all } = this.stale;
    this.stale = {};
    if (anew || !this.made) this.place(width);
    const scene = { picture: this.picture, made: this.made, view: this.view, only: this.only };
    const boxes = anew || all ? null : this.dirtyBoxes();
    this.dirty.clear();
    this.painter.paint(scene, boxes);
    this.mark();
    this.first ??= performance.now();
    this.frames.push(performance.now() - began);
    if (this.frames.length > 5000) this.frames.splice(0, 2500);
  }

  dirtyBoxes() {
    const found = new Set();
    for (const id of this.dirty) {
      const box = this.boxes.get(this.picture.host[id]);
      if (box) found.add(box);
    }
    return found.size > 300 ? null : [...found];
  }

  place(width) {
    const most = Math.max(260, Math.min(innerHeight * 0.62, 900));
    this.made = layout(this.groups(), width, most);
    this.high = Math.round(Math.min(most, Math.max(90, this.made.height)));
    this.boxes = new Map(this.made.boxes.map((box) => [box.host.number, box]));
    this.stage.style.height = `${this.high}px`;
    this.empty.hidden = this.made.boxes.length > 0;
    for (const canvas of [this.canvas, this.over]) canvas.style.height = `${this.high}px`;
    this.painter.size(width, this.high);
    this.over.width = this.painter.width;
    this.over.height = this.painter.height;
    this.hold();
  }

  groups() {
    const groups = new Map();
    for (const host of this.picture.known()) {
      const name = this.label ? (host.labels[this.label] ?? `no ${this.label}`) : "";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push({ host, count: host.cells.length });
    }
    const found = [...groups].sort((a, b) => byName(a[0], b[0]));
    for (const [, hosts] of found) hosts.sort((a, b) => byName(a.host.name, b.host.name));
    const nowhere = this.picture.hosts.get(NOWHERE);
    if (nowhere?.cells.length) found.unshift(["waiting for a host", [{ host: nowhere, count: nowhere.cells.length }]]);
    return found;
  }

  // ---------------------------------------------------------------------- which part is seen

  fit() {
    this.view = { scale: 1, x: 0, y: 0 };
    this.ask({ all: true });
  }

  zoom(by, x = this.stage.clientWidth / 2, y = this.high / 2) {
    const { view } = this, before = view.scale;
    view.scale = Math.max(1, Math.min(Math.max(1, SQUARE_MAX / this.made.step), before * by));
    view.x += x / before - x / view.scale;
    view.y += y / before - y / view.scale;
    this.hold();
    this.ask({ all: true });
  }

  pan(x, y) {
    this.view.x += x / this.view.scale;
    this.view.y += y / this.view.scale;
    this.hold();
    this.ask({ all: true });
  }

  // Something of it is always seen.
  hold() {
    const { view } = this, wide = this.stage.clientWidth / view.scale, high = this.high / view.scale;
    view.x = Math.max(0, Math.min(view.x, this.stage.clientWidth - wide));
    view.y = Math.max(0, Math.min(view.y, Math.max(this.made.height, this.high) - high));
  }

  // ---------------------------------------------------------------------- what is where

  boxAt(x, y) {
    const at = this.world(x, y);
    return this.made?.boxes.find((box) => at.x >= box.x && at.x < box.x + box.wide && at.y >= box.y && at.y < box.y + box.high);
  }

  world(x, y) {
    return { x: this.view.x + x / this.view.scale, y: this.view.y + y / this.view.scale };
  }

  // {box, id}: id -1 for the host itself; nothing where there is no host.
  at(x, y) {
    const box = this.boxAt(x, y);
    if (!box) return null;
    const at = this.world(x, y), index = indexAt(box, at.x, at.y);
    return { box, id: index < 0 ? -1 : (this.picture.cellsOf(box.host)[index] ?? -1) };
  }

  words(id) {
    const slot = this.picture.slotOf(id);
    return `${this.picture.nameOf(id)} ${stateOf(this.picture.look[id])}${slot.host ? ` on ${slot.host}` : ""}`;
  }

  // ---------------------------------------------------------------------- pointer and keys

  listen() {
    const { canvas } = this;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, moved: false };
      canvas.setPointerCapture?.(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return this.hover(event.offsetX, event.offsetY);
      const [x, y] = [drag.x - event.clientX, drag.y - event.clientY];
      if (!drag.moved && Math.abs(x) + Math.abs(y) < 4) return;
      this.pan(x, y);
      drag = { x: event.clientX, y: event.clientY, moved: true };
    });
    canvas.addEventListener("pointerup", () => {
      this.dragged = Boolean(drag?.moved);
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("pointerleave", () => this.hover(-1, -1));
    canvas.addEventListener("click", (event) => {
      if (!this.dragged) this.open(this.at(event.offsetX, event.offsetY));
      this.dragged = false;
    });
    canvas.addEventListener("dblclick", (event) => this.zoom(2.5, event.offsetX, event.offsetY));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 200), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.mark());
    canvas.addEventListener("blur", () => this.mark());
  }

  open(found) {
    if (found && found.id >= 0) this.choose(found.id);
    else if (found && found.box.host.number !== NOWHERE) this.chooseHost(found.box.host);
    else this.choose(-1);
  }

  hover(x, y) {
    const found = x < 0 || !this.picture ? null : this.at(x, y);
    this.tip.hidden = !found;
    this.under = found?.id ?? -1;
    this.mark();
    if (!found) return;
    const host = found.box.host;
    const text = found.id >= 0 ? this.words(found.id) : host.number === NOWHERE ? "waiting for a host" : `${host.name} ${wordOfHost(host)}, ${host.cells.length} instances`;
    this.tip.textContent = readable(text);
    const room = this.stage.clientWidth - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(0, Math.min(x + 14, room))}px`;
    this.tip.style.top = `${y + 26 > this.high - 20 ? y - 34 : y + 18}px`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowRight: () => this.walk(1), ArrowLeft: () => this.walk(-1),
      ArrowDown: () => this.walk(this.boxOf()?.columns ?? 1), ArrowUp: () => this.walk(-(this.boxOf()?.columns ?? 1)),
      PageDown: () => this.jump(1), PageUp: () => this.jump(-1),
      Enter: () => this.choose(this.cursor), " ": () => this.choose(this.cursor),
      h: () => this.boxOf() && this.chooseHost(this.boxOf().host),
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.fit(),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  boxOf() {
    return this.cursor < 0 ? null : this.boxes.get(this.picture.host[this.cursor]);
  }

  // Within a host, then on to the next one that has something.
  walk(by) {
    const box = this.boxOf();
    if (!box) return this.jump(1);
    const cells = this.picture.cellsOf(box.host), to = cells.indexOf(this.cursor) + by;
    if (to >= 0 && to < cells.length) this.go(cells[to]);
    else this.jump(Math.sign(by));
  }

  jump(by) {
    const { boxes } = this.made, from = boxes.indexOf(this.boxOf());
    for (let to = from < 0 && by < 0 ? boxes.length - 1 : from + by; to >= 0 && to < boxes.length; to += by) {
      const cells = this.picture.cellsOf(boxes[to].host);
      if (cells.length) return this.go(cells[by > 0 ? 0 : cells.length - 1]);
    }
  }

  go(id) {
    this.cursor = id;
    const place = this.placeOf(id);
    if (place) this.reveal(place);
    this.mark();
    this.say(this.words(id));
  }

  placeOf(id) {
    const box = this.boxes?.get(this.picture.host[id]), index = box ? this.picture.cellsOf(box.host).indexOf(id) : -1;
    return index < 0 ? null : { ...squareAt(box, index), size: box.step };
  }

  reveal({ x, y, size }) {
    const { view } = this, wide = this.stage.clientWidth / view.scale, high = this.high / view.scale, before = { ...view };
    if (x < view.x || x + size > view.x + wide) view.x = x - wide / 2;
    if (y < view.y || y + size > view.y + high) view.y = y - high / 2;
    this.hold();
    if (before.x !== view.x || before.y !== view.y) this.ask({ all: true });
  }

  // Frames around what is chosen, under the pointer, and where the keys are; the map below stays.
  mark() {
    const context = this.over.getContext("2d"), { ratio, css } = this.painter;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.over.width, this.over.height);
    const focused = document.activeElement === this.canvas;
    for (const [id, colour, thick] of [[this.under, css.fore, 1], [this.chosen, css.fore, 2.5], [focused ? this.cursor : -1, css.busy, 3]]) {
      const place = id >= 0 && this.picture ? this.placeOf(id) : null;
      if (!place) continue;
      const { scale, x, y } = this.view, size = Math.max(4, place.size * scale);
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.strokeRect((place.x - x) * scale - 1.5, (place.y - y) * scale - 1.5, size + 1, size + 1);
    }
  }
}
