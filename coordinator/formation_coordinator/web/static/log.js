// The end of one instance's log, and what comes.

import { clock, element, readable } from "/dom.js";
import { followed } from "/stream.js";

const LINES_MAX = 1000, LAST_WORDS = 8;

export class Log {
  constructor(refused) {
    this.refused = refused;
    this.box = element("pre.log", { tabindex: "0", "aria-label": "Log", "aria-live": "off" });
    this.lines = [];
    this.stop = () => {};
  }

  follow(slot) {
    this.close();
    this.lines = [];
    this.box.replaceChildren(element("span.soft", "Waiting for the host…"));
    let first = true;
    const query = new URLSearchParams({ app: slot.app, type: slot.type, ordinal: slot.ordinal, tail_lines: "200", follow: "true" });
    this.stop = followed(`/events/Logs?${query}`, (answer) => {
      if (first) this.box.replaceChildren();
      first = false;
      for (const line of answer.lines ?? []) this.write(line);
      if (answer.notice) this.append(element("em", `${answer.notice}\n`));
      if (answer.history_done && !this.lines.length) this.append(element("span.soft", "Nothing was written yet.\n"));
    }, this.refused);
  }

  write(line) {
    const bytes = Uint8Array.from(atob(line.text ?? ""), (char) => char.charCodeAt(0));
    const text = readable(new TextDecoder().decode(bytes)), atMs = Number(line.at_us ?? 0) / 1000;
    this.lines.push({ atMs, text });
    if (this.lines.length > LINES_MAX) this.lines.shift();
    this.append(element(line.stderr ? "span.err" : "span", element("time", clock(atMs)), ` ${text}\n`));
  }

  append(made) {
    const { box } = this, atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.append(made);
    while (box.childNodes.length > LINES_MAX) box.firstChild.remove();
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  // The last ones that it wrote before that.
  before(atMs) {
    return this.lines.filter((line) => line.atMs <= atMs + 200).slice(-LAST_WORDS).map((line) => line.text);
  }

  close() {
    this.stop();
    this.stop = () => {};
  }
}
