// Where on the map each host is, and each of its squares. Pure.

import { NOWHERE } from "/data.js";

// From one square's corner to the next one's, largest first.
const STEPS = [18, 15, 12, 10, 8, 6, 5, 4, 3, 2.5, 2, 1.5, 1];
const ROOMY_FROM = 10;
const GROUP = 26;

// `groups`: [[name, [{host, count}]]]. The largest squares with which all of it fits in.
export function layout(groups, width, height) {
  for (const step of STEPS) {
    const made = flow(groups, step, width);
    if (made.height <= height || step === STEPS[STEPS.length - 1]) return made;
  }
}

function flow(groups, step, width) {
  const roomy = step >= ROOMY_FROM;
  const pad = roomy ? 10 : Math.max(2, step), named = roomy ? 20 : 2.4 * step;
  const boxes = [], titles = [];
  let top = 0;
  for (const [name, hosts] of groups) {
    // What has no host is a strip of its own.
    const strip = hosts[0]?.host.number === NOWHERE, title = strip ? 2 : named;
    if (name) {
      titles.push({ name, y: top, count: strip ? hosts[0].count : hosts.length, what: strip ? "instance" : "host" });
      top += GROUP;
    }
    // All of a group are as wide, so that they stand in columns.
    const most = hosts.reduce((found, item) => Math.max(found, item.count), 1);
    const columns = strip ? Math.max(1, Math.floor((width - 10) / step)) : Math.max(roomy ? 7 : 4, Math.ceil(Math.sqrt(most * 1.3)));
    const wide = columns * step + pad + (roomy ? 8 : 1);
    const across = Math.max(1, Math.floor((width + pad) / wide));
    const gap = roomy && hosts.length >= across ? Math.max(0, (width + pad - across * wide) / across) : 0;
    // Those beside each other are as high, too.
    for (let first = 0; first < hosts.length; first += across) {
      const line = hosts.slice(first, first + across);
      const rows = line.reduce((found, item) => Math.max(found, Math.ceil(item.count / columns)), 1);
      const high = title + rows * step + (roomy ? 6 : 1);
      line.forEach((item, index) => boxes.push({
        host: item.host, x: index * (wide + gap), y: top, columns, step, wide: wide + gap - pad, high, title, inset: roomy ? 4 : 0.5,
      }));
      top += high + pad;
    }
    top += name ? 4 : 0;
  }
  return { step, boxes, titles, height: Math.max(top, 40), gap: step >= 4 ? 1 : step >= 2.5 ? 0.5 : 0 };
}

export const squareAt = (box, index) => ({
  x: box.x + box.inset + (index % box.columns) * box.step,
  y: box.y + box.title + Math.floor(index / box.columns) * box.step,
});

// Which square of the box that is, or -1.
export function indexAt(box, x, y) {
  const column = Math.floor((x - box.x - box.inset) / box.step);
  const line = Math.floor((y - box.y - box.title) / box.step);
  return column < 0 || column >= box.columns || line < 0 ? -1 : line * box.columns + column;
}
