// Paints the map. Squares go into a buffer of pixels, which costs what is visible, not how many
// there are; names and signs are drawn over it.

import { BUSY, BAD, NOWHERE, READY, STALE, SURPLUS, CORDONED, classOf, wordOfHost } from "/data.js";
import { squareAt } from "/layout.js";
import { number, readable } from "/dom.js";

const NAMES = ["back", "box", "line", "good", "old", "busy", "bad", "fore", "soft"];
// In pixels of the screen: from where on a square can hold a sign, a number; a title can be read.
const SIGN_FROM = 6, LABEL_FROM = 20, TITLE_FROM = 13;
// Smaller than this and a host is a bar of its parts.
const SQUARE_FROM = 1.5;
const COLOURS = ["good", "old", "busy", "bad"];
// Which of them a look has, by state and whether it is stale.
const COLOUR = Uint8Array.from({ length: 64 }, (_, look) =>
  classOf(look) === BAD ? 3 : classOf(look) === BUSY ? 2 : look & STALE ? 1 : 0);

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.cut = new Map();
    this.learn();
  }

  // Colours as the style says them, for light or dark.
  learn() {
    const style = getComputedStyle(document.documentElement), probe = document.createElement("canvas").getContext("2d");
    this.css = {};
    this.ink = {};
    for (const name of NAMES) {
      probe.fillStyle = style.getPropertyValue(`--map-${name}`).trim() || "#888888";
      this.css[name] = probe.fillStyle;
      this.ink[name] = pixel(probe.fillStyle);
    }
    const inks = (share) => Uint32Array.from(COLOURS, (name, index) => mixed(this.ink[name], this.ink.box, index < 2 ? share : share && share - 0.3));
    this.inks = { plain: inks(0), pale: inks(0.62), faint: Uint32Array.from(COLOURS, (name) => mixed(this.ink[name], this.ink.box, 0.82)) };
  }

  size(width, height) {
    const ratio = (this.ratio = Math.min(3, devicePixelRatio || 1));
    [this.width, this.height] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (this.canvas.width === this.width && this.canvas.height === this.height && this.image) return;
    [this.canvas.width, this.canvas.height] = [this.width, this.height];
    this.image = this.context.createImageData(this.width, this.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // `scene`: {picture, made, view, only}; `boxes`: only these, whatever else is there stays.
  paint(scene, boxes = null) {
    this.scene = scene;
    this.zoom = scene.view.scale * this.ratio;
    const seen = (boxes ?? scene.made.boxes).filter((box) => this.isSeen(box));
    if (!boxes) this.pixels.fill(this.ink.back);
    for (const box of seen) this.box(box);
    if (!boxes) this.context.putImageData(this.image, 0, 0);
    else for (const box of seen) this.put(box);
    const context = this.context;
    context.textBaseline = "middle";
    if (!boxes) this.titles(scene.made.titles);
    for (const box of seen) this.words(box);
    return seen.length;
  }

  across(x) {
    return Math.round((x - this.scene.view.x) * this.zoom);
  }

  down(y) {
    return Math.round((y - this.scene.view.y) * this.zoom);
  }

  isSeen(box) {
    const x = (box.x - this.scene.view.x) * this.zoom, y = (box.y - this.scene.view.y) * this.zoom;
    return x < this.width && y < this.height && x + box.wide * this.zoom > 0 && y + box.high * this.zoom > 0;
  }

  put(box) {
    const x = Math.max(0, this.across(box.x)), y = Math.max(0, this.down(box.y));
    const right = Math.min(this.width, this.across(box.x + box.wide) + 1), low = Math.min(this.height, this.down(box.y + box.high) + 1);
    if (right > x && low > y) this.context.putImageData(this.image, 0, 0, x, y, right - x, low - y);
  }

  fill(left, top, right, low, ink) {
    left = Math.max(0, left);
    right = Math.min(this.width, right);
    low = Math.min(this.height, low);
    for (let y = Math.max(0, top); y < low; y++) this.pixels.fill(ink, y * this.width + left, y * this.width + Math.max(left, right));
  }

  box(box) {
    const left = this.across(box.x), top = this.down(box.y);
    const right = this.across(box.x + box.wide), low = this.down(box.y + box.high);
    const host = box.host, calm = host.state === READY && !(host.flags & CORDONED);
    const edge = calm ? this.ink.line : host.state === READY ? this.ink.busy : this.ink.bad;
    const thick = calm || box.step * this.zoom < 4 ? 1 : Math.max(2, Math.round(this.ratio));
    if (calm && box.inset < 1) this.fill(left, top, right, low, this.ink.box);
    else {
      this.fill(left, top, right, low, edge);
      this.fill(left + thick, top + thick, right - thick, low - thick, this.ink.box);
    }
    const cells = this.scene.picture.cellsOf(host);
    if (box.step * this.zoom < SQUARE_FROM) this.bar(box, cells);
    else if (box.step * this.zoom < SIGN_FROM) this.small(box, cells);
    else cells.forEach((id, index) => this.square(box, id, index));
  }

  // Which of the colours a host's squares have: pale where it is not heard.
  inksOf(host) {
    return host.state === READY ? this.inks.plain : this.inks.pale;
  }

  inkOf(id, inks) {
    const { picture, only } = this.scene;
    const set = only && picture.kinds[picture.kind[id]][0] !== only ? this.inks.faint : inks;
    return set[COLOUR[picture.look[id] & 63]];
  }

  gap(whole) {
    return whole >= 4 ? Math.max(1, Math.round(whole / 9)) : whole >= 2.5 ? 1 : 0;
  }

  // Many that are too small for signs: where columns and lines are is reckoned once.
  small(box, cells) {
    const { pixels, width, height } = this, gap = this.gap(box.step * this.zoom), inks = this.inksOf(box.host);
    const lefts = [], rights = [];
    for (let column = 0; column < box.columns; column++) {
      const x = box.x + box.inset + column * box.step, left = this.across(x);
      lefts.push(Math.max(0, left));
      rights.push(Math.min(width, Math.max(left + 1, this.across(x + box.step) - gap)));
    }
    for (let first = 0, y = box.y + box.title; first < cells.length; first += box.columns, y += box.step) {
      const top = this.down(y), low = Math.min(height, Math.max(top + 1, this.down(y + box.step) - gap));
      const count = Math.min(box.columns, cells.length - first);
      if (low <= 0 || top >= height) continue;
      for (let column = 0; column < count; column++) {
        const ink = this.inkOf(cells[first + column], inks), right = rights[column];
        for (let line = Math.max(0, top); line < low; line++)
          for (let x = line * width + lefts[column], end = line * width + right; x < end; x++) pixels[x] = ink;
      }
    }
  }

  square(box, id, index) {
    const place = squareAt(box, index), picture = this.scene.picture, look = picture.look[id];
    let left = this.across(place.x), top = this.down(place.y);
    const gap = this.gap(box.step * this.zoom);
    let right = Math.max(left + 1, this.across(place.x + box.step) - gap);
    let low = Math.max(top + 1, this.down(place.y + box.step) - gap);
    const size = right - left, ink = this.inkOf(id, this.inksOf(box.host));
    if (look & SURPLUS && size >= 4) {
      const off = Math.floor(size / 4);
      [left, top, right, low] = [left + off, top + off, right - off, low - off];
    }
    this.fill(left, top, right, low, ink);
    if (size < SIGN_FROM) return;
    const thick = Math.max(1, Math.round(size / 7));
    if (classOf(look) === BUSY) this.fill(left + thick, top + thick, right - thick, low - thick, this.ink.box);
    else if (classOf(look) === BAD) this.cross(left, top, right, low, thick);
    else if (look & STALE) this.corner(right, low, Math.floor(size / 2));
  }

  cross(left, top, right, low, thick) {
    const most = right - left - 2 * thick;
    for (let step = 0; step < most; step++) {
      const y = top + thick + step;
      this.fill(left + thick + step, y, left + thick + step + thick, y + 1, this.ink.box);
      this.fill(right - thick - step - thick, y, right - thick - step, y + 1, this.ink.box);
    }
  }

  corner(right, low, size) {
    for (let step = 0; step < size; step++) this.fill(right - step, low - size + step, right, low - size + step + 1, this.ink.box);
  }

  // Its parts, what is in trouble on top.
  bar(box, cells) {
    const parts = new Map(), inks = this.inksOf(box.host);
    for (const id of cells) {
      const ink = this.inkOf(id, inks);
      parts.set(ink, (parts.get(ink) ?? 0) + 1);
    }
    const left = this.across(box.x + box.inset), right = Math.max(left + 1, this.across(box.x + box.inset + box.columns * box.step));
    const start = this.down(box.y), low = this.down(box.y + box.high), worst = [...inks].reverse();
    let top = start;
    for (const ink of [...parts.keys()].sort((a, b) => worst.indexOf(a) - worst.indexOf(b))) {
      const next = Math.max(top + 1, Math.round(top + ((low - start) * parts.get(ink)) / cells.length));
      this.fill(left, top, right, Math.min(low, next), ink);
      top = next;
    }
  }

  titles(titles) {
    const context = this.context, size = 13 * this.ratio;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillStyle = this.css.fore;
    for (const title of titles) {
      const y = this.down(title.y + 12);
      if (y < -size || y > this.height + size) continue;
      context.fillText(`${readable(title.name)}  ·  ${number(title.count)} ${title.what}${title.count === 1 ? "" : "s"}`, Math.max(4, this.across(0)), y);
    }
  }

  words(box) {
    const high = box.title * this.zoom;
    if (high >= TITLE_FROM * this.ratio) this.title(box, high);
    if (box.step * this.zoom >= LABEL_FROM * this.ratio) this.labels(box);
  }

  title(box, high) {
    const context = this.context, host = box.host, size = Math.min(12 * this.ratio, high * 0.7);
    const word = host.number === NOWHERE ? "" : wordOfHost(host), calm = word === "ready" || !word;
    const left = this.across(box.x + box.inset) + 1, room = this.across(box.x + box.wide) - left - 6 * this.ratio;
    context.font = `${calm ? "" : "600 "}${size}px system-ui, sans-serif`;
    context.fillStyle = calm ? this.css.soft : host.state === READY ? this.css.busy : this.css.bad;
    const name = host.number === NOWHERE ? "no host" : readable(host.name);
    context.fillText(this.fitting(calm ? name : `${name} ${word}`, room, context.font), left, this.down(box.y) + high / 2 + 1);
  }

  labels(box) {
    const context = this.context, picture = this.scene.picture;
    const size = Math.round(box.step * this.zoom * 0.36);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    picture.cellsOf(box.host).forEach((id, index) => {
      if (classOf(picture.look[id]) === BAD || picture.look[id] & SURPLUS) return;
      const place = squareAt(box, index);
      context.fillStyle = classOf(picture.look[id]) === BUSY ? this.css.fore : this.css.box;
      context.fillText(String(picture.ordinal[id]), this.across(place.x + box.step * 0.46), this.down(place.y + box.step * 0.48));
    });
    context.textAlign = "start";
  }

  // As much of a name as there is room for.
  fitting(text, room, font) {
    const key = `${Math.round(room)} ${font} ${text}`;
    let found = this.cut.get(key);
    if (found === undefined) {
      found = text;
      while (found.length > 1 && this.context.measureText(found).width > room)
        found = `${found.replace(/…$/, "").slice(0, Math.min(-1, -Math.floor(found.length / 8)))}…`;
      if (this.cut.size > 20000) this.cut.clear();
      this.cut.set(key, found);
    }
    return found;
  }
}

// "#rrggbb" as canvases keep it in memory, lowest byte first.
function pixel(css) {
  const value = parseInt(css.slice(1), 16);
  return (0xff000000 | ((value & 0xff) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

function mixed(one, other, share) {
  let made = 0xff000000;
  for (const bits of [0, 8, 16]) {
    const value = Math.round(((one >> bits) & 0xff) * (1 - share) + ((other >> bits) & 0xff) * share);
    made |= value << bits;
  }
  return made >>> 0;
}
