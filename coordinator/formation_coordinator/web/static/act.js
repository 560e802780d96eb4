// Asking the coordinator for something, and being sure first.

import { byId, button, element, number } from "/dom.js";

const STEPS_SHOWN = 6;
export const me = { csrf: "", may: { operate: false, apps: [] } };

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Formation-Csrf": me.csrf },
    body: JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `the coordinator answered ${response.status}`);
  return answer;
}

export const ask = (name, body = {}) => post(`/api/${name}`, body);

export async function get(path, query) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `the coordinator answered ${response.status}`);
  return answer;
}

// As the coordinator matches them; it decides, this only spares buttons.
export function mayChange(app) {
  return me.may.apps.some((pattern) => {
    const parts = pattern.split(/([*?])/).map((part) => ({ "*": ".*", "?": "." })[part] ?? part.replace(/[.+^${}()|\\]/g, "\\$&"));
    try {
      return new RegExp(`^${parts.join("")}$`).test(app);
    } catch {
      return false;
    }
  });
}

// A dialog that says what will happen. `plan`: asked what exactly that is; then only that is done.
export function confirmed({ title, lines = [], label, plan, act, kind = "" }) {
  const dialog = byId("ask"), before = document.activeElement;
  const expected = element("div.plan", { role: "status" });
  let revision;
  const go = button(label, label, async () => {
    try {
      await act(revision);
      dialog.close();
    } catch (error) {
      expected.replaceChildren(element("p.wrong", error.message));
    }
  }, kind || "first");
  const no = button("Leave it", "", () => dialog.close());
  dialog.replaceChildren(
    element("h2", { id: "ask-title" }, title), lines.map((line) => element("p", line)).reduce((all, one) => (all.append(one), all), element("div")),
    expected, element("p.buttons", go, no),
  );
  dialog.onclose = () => before?.isConnected && before.focus();
  dialog.showModal();
  no.focus();
  if (!plan) return;
  expected.replaceChildren(element("p.soft", "Asking what would happen…"));
  go.disabled = true;
  ask("Plan", plan).then((found) => {
    revision = found.revision;
    expected.replaceChildren(...planned(found));
  }, (error) => expected.replaceChildren(element("p.wrong", error.message))).finally(() => (go.disabled = false));
}

function planned(plan) {
  const totals = Object.entries(plan.totals ?? {}).map(([kind, count]) => `${kind} ${number(count)}`);
  const steps = (plan.steps ?? []).slice(0, STEPS_SHOWN).map((step) => {
    const way = [step.from_host && `from ${step.from_host}`, step.to_host && `to ${step.to_host}`].filter(Boolean).join(" ");
    return element("li", `${step.kind} ${step.app}/${step.type}.${step.ordinal} ${way}`);
  });
  const more = Object.values(plan.totals ?? {}).reduce((sum, count) => sum + count, 0) - steps.length;
  const unplaced = (plan.unplaced ?? []).map((item) =>
    element("p.wrong", `${number(item.count)} × ${item.app}/${item.type} would have no host: ${item.reason}${item.remedy ? ` (${item.remedy})` : ""}`));
  return [
    element("p", element("strong", totals.length ? `It would ${totals.join(", ")}.` : "Nothing would start, stop or move.")),
    element("ul", steps, more > 0 && element("li", `and ${number(more)} more`)),
    ...unplaced,
    ...(plan.notes ?? []).map((note) => element("p.soft", note)),
  ];
}

// What must not change meanwhile, if it was planned.
const only = (revision) => (revision ? { if_revision: revision } : {});

export const actions = {
  scale(app, type, before, quantity) {
    const changes = [{ type, kind: "KIND_SET", quantity }];
    confirmed({
      title: `Scale ${app}/${type} from ${before} to ${quantity}?`, label: `Scale to ${quantity}`,
      plan: { scale: { app, changes } }, act: (revision) => ask("Scale", { app, changes, ...only(revision) }),
    });
  },
  restart(app, type, ordinal = 0) {
    const what = ordinal ? `${app}/${type}.${ordinal}` : `${app}/${type}`;
    confirmed({
      title: `Restart ${what}?`, label: "Restart",
      lines: [ordinal ? "It is stopped where it is, and started again." : "One after the other, as its rollout rules say."],
      act: () => ask("Restart", { app, type, ordinal }),
    });
  },
  retry: (app, type, ordinal) => ask("Retry", { app, type, ordinal }),
  steer(app, action) {
    const words = {
      PAUSE: ["Pause the change of", "What runs stays as it is, old and new side by side, until somebody resumes it."],
      RESUME: ["Go on with the change of", "The next step begins at once."],
      PROMOTE: ["Promote the canary of", "All others follow it, step by step."],
      ABORT: ["Abort the change of", "It goes back to the release that was everywhere before, step by step."],
    }[action];
    confirmed({
      title: `${words[0]} ${app}?`, label: action[0] + action.slice(1).toLowerCase(), lines: [words[1]], kind: action === "ABORT" ? "danger" : "",
      act: () => ask("SteerRollout", { app, action: `ACTION_${action}` }),
    });
  },
  drain(host) {
    confirmed({
      title: `Drain ${host}?`, label: "Drain", kind: "danger",
      lines: ["It takes nothing new, and what it has goes elsewhere: the new one works before the old one stops."],
      plan: { drain_host: host }, act: (revision) => ask("SetHost", { host, draining: true, ...only(revision) }),
    });
  },
  cordon(host) {
    confirmed({
      title: `Cordon ${host}?`, label: "Cordon", lines: ["It takes nothing new. What runs there stays."],
      act: () => ask("SetHost", { host, cordoned: true }),
    });
  },
  uncordon(host) {
    confirmed({
      title: `Let ${host} take instances again?`, label: "Uncordon", lines: ["New instances may come. Nothing moves there by itself."],
      act: () => ask("SetHost", { host, cordoned: false, draining: false }),
    });
  },
};
