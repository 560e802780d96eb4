// The placement map: hosts, grouped by one of their labels, and in each a cell for each instance.

const SIZES = [14, 11, 8, 6, 4, 3, 2];
const GAP = 1, PAD = 6, TITLE = 16, GROUP = 24, NAMED_FROM = 8;
const COLOURS = {
  healthy: "--good", finished: "--good", starting: "--warn", waiting: "--warn", stopping: "--warn",
  restarting: "--warn", unready: "--bad", backoff: "--bad", failed: "--bad",
};

export class PlacementMap {
  // `choose(instance)` is called with what was clicked, null for nothing.
  constructor(canvas, choose) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.hosts = [];
    this.cells = [];
    this.chosen = "";
    this.asked = false;
    canvas.addEventListener("click", (event) => choose(this.at(event.offsetX, event.offsetY)));
    new ResizeObserver(() => this.ask()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.ask());
  }

  // `hosts`: {name, state, labels}; `instances`: as WatchInstances tells them.
  show(hosts, instances, label) {
    const byHost = new Map(hosts.map((host) => [host.name, []]));
    for (const item of instances) byHost.get(item.host)?.push(item);
    this.groups = new Map();
    for (const host of hosts) {
      const name = label ? (host.labels[label] ?? `no ${label}`) : "";
      if (!this.groups.has(name)) this.groups.set(name, []);
      this.groups.get(name).push({ ...host, items: byHost.get(host.name) });
    }
    this.ask();
  }

  // At most once a frame, however much is told meanwhile.
  ask() {
    if (this.asked || !this.groups) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  // The largest cells with which all of it is not much higher than wide.
  layout(width) {
    for (const size of SIZES) {
      const boxes = [];
      let y = 0;
      for (const [name, hosts] of [...this.groups].sort((a, b) => a[0].localeCompare(b[0]))) {
        if (name) {
          boxes.push({ title: name, x: 0, y });
          y += GROUP;
        }
        y = this.flow(hosts, size, width, y, boxes) + PAD;
      }
      if (y <= width || size === SIZES[SIZES.length - 1]) return { size, boxes, height: Math.max(y, TITLE) };
    }
  }

  flow(hosts, size, width, top, boxes) {
    const most = Math.max(1, ...hosts.map((host) => host.items.length));
    const columns = Math.max(size >= NAMED_FROM ? 6 : 4, Math.ceil(Math.sqrt(most)));
    const step = size + GAP;
    const wide = columns * step + PAD;
    const titled = size >= NAMED_FROM ? TITLE : 0;
    let x = 0, y = top, high = 0;
    for (const host of hosts) {
      const height = titled + Math.max(1, Math.ceil(host.items.length / columns)) * step + PAD;
      if (x + wide > width && x > 0) {
        x = 0;
        y += high;
        high = 0;
      }
      boxes.push({ host, x, y, columns, wide, height, titled });
      x += wide;
      high = Math.max(high, height);
    }
    return y + high;
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const width = this.canvas.parentElement.clientWidth;
    const { size, boxes, height } = this.layout(width);
    const ratio = devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    const context = this.context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "top";
    this.cells = [];
    for (const box of boxes) {
      context.fillStyle = colour("--soft");
      if (box.title !== undefined) context.fillText(box.title, box.x, box.y + 6);
      else this.drawHost(box, size, colour);
    }
  }

  drawHost(box, size, colour) {
    const context = this.context, step = size + GAP;
    const away = box.host.state !== "ready";
    context.strokeStyle = away ? colour("--bad") : colour("--line");
    context.strokeRect(box.x + 0.5, box.y + 0.5, box.wide - 3, box.height - 3);
    if (box.titled) {
      context.fillStyle = away ? colour("--bad") : colour("--soft");
      context.fillText(box.host.name, box.x + 3, box.y + 2, box.wide - 8);
    }
    box.host.items.forEach((item, index) => {
      const x = box.x + 2 + (index % box.columns) * step;
      const y = box.y + 2 + box.titled + Math.floor(index / box.columns) * step;
      const state = item.status.state.replace("INSTANCE_STATE_", "").toLowerCase();
      context.globalAlpha = item.surplus || item.host_silent ? 0.4 : 1;
      context.fillStyle = colour(COLOURS[state] ?? "--soft");
      context.fillRect(x, y, size, size);
      context.globalAlpha = 1;
      if (item.status.uid === this.chosen) {
        context.strokeStyle = colour("--fore");
        context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
      }
      this.cells.push({ x, y, size, item });
    });
  }

  at(x, y) {
    const found = this.cells.find((c) => x >= c.x && x < c.x + c.size && y >= c.y && y < c.y + c.size);
    this.chosen = found ? found.item.status.uid : "";
    this.ask();
    return found ? found.item : null;
  }
}
