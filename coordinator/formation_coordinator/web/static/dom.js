// Making elements. Whatever comes from the cluster is text: only textContent is ever set.

export const byId = (id) => document.getElementById(id);

// What a terminal would obey, and what turns text around, is shown as what it is: nothing.
export const readable = (text) =>
  String(text ?? "").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

export const byName = new Intl.Collator("en", { numeric: true }).compare;

// element("p.note", {title: "x"}, "text", another)
export function element(what, ...rest) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const item of rest) add(made, item);
  return made;
}

function add(made, item) {
  if (item === undefined || item === null || item === false) return;
  if (item instanceof Node) made.append(item);
  else if (Array.isArray(item)) for (const one of item) add(made, one);
  else if (typeof item === "object") for (const [name, value] of Object.entries(item)) attribute(made, name, value);
  else made.append(document.createTextNode(readable(item)));
}

function attribute(made, name, value) {
  if (value === false || value === undefined || value === null) return;
  if (name in made && typeof value !== "string") made[name] = value;
  else made.setAttribute(name, readable(value));
}

// `said`: the whole of what it does, where the label is short. `act` may fail; then `told` hears.
export function button(label, said, act, kind = "") {
  const made = element(kind ? `button.${kind}` : "button", { type: "button" }, label);
  if (said && said !== label) made.setAttribute("aria-label", readable(said));
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await act();
      button.failed("");
    } catch (error) {
      button.failed(error.message);
    } finally {
      made.disabled = false;
    }
  });
  return made;
}
button.failed = () => {};

export function row(...cells) {
  return element("tr", cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : element("td", cell))));
}

export const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

export const clock = (ms) => new Date(Number(ms)).toLocaleTimeString("en-GB");

// "3 m 20 s"
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return seconds % 60 ? `${Math.floor(seconds / 60)} m ${seconds % 60} s` : `${seconds / 60} m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} m`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

// Calls `act` soon, once, however often it is asked for meanwhile.
export function gathered(act, everyMs) {
  let asked = false, last = 0;
  return () => {
    if (asked) return;
    asked = true;
    setTimeout(() => {
      asked = false;
      last = performance.now();
      act();
    }, Math.max(0, everyMs - (performance.now() - last)));
  };
}

// Puts them there only when something is different: focus and selection stay.
export function replaced(there, made) {
  const same = made.length === there.childNodes.length && made.every((one, i) => one.isEqualNode(there.childNodes[i]));
  if (!same) there.replaceChildren(...made);
}
