/* The teaching page: a softmax policy, exact gradient steps on one sampled token, and what moved.
 *
 * The first half is the model: the formulas of erc_bench.objectives and erc_bench.core.drift for one token,
 * in double precision; tests compare every number on the page with that library's own, differentiated
 * by autograd. The second half draws. Text reaches the page through textContent only.
 */

// ---------------------------------------------------------------- the model

// From the library: nats of exact KL(old || new) above which the trust region is left; the paper's band; the
// prepared states.
const { delta: DELTA, band: BAND, presets } = JSON.parse(document.getElementById("data").textContent);
const ENTROPY_EPS = 1e-8;
const LOG_RATIO_LIMIT = 20;

/** By name in erc-bench: what the page calls an objective, its clip range, and colour and dashes in figures. */
const OBJECTIVES = {
  "reinforce": { label: "REINFORCE", clip: [0.2, 0.2], color: "#b9a0cf", dash: "1.2 1.2" },
  "ppo-clip": { label: "PPO-clip", clip: [0.2, 0.2], color: "#8a8a8a", dash: "4 1.6" },
  "dapo": { label: "GRPO / DAPO", clip: [0.2, 0.28], color: "#56b4e9", dash: "4 1.6" },
  "gppo": { label: "GPPO", clip: [0.2, 0.2], color: "#f0a202", dash: "4 1.6" },
  "erc-dapo": { label: "ERC on DAPO", clip: [0.2, 0.28], color: "#00508c", dash: "" },
  "erc-directional-dapo": {
    label: "Directional ERC", clip: [0.2, 0.28], color: "#009588", dash: "7 1.2 2.4 1.2",
  },
};

const sum = (xs) => xs.reduce((total, x) => total + x, 0);

function logSoftmax(logits) {
  const largest = Math.max(...logits);
  const norm = Math.log(sum(logits.map((z) => Math.exp(z - largest))));
  return logits.map((z) => z - largest - norm);
}

const entropy = (logp) => -sum(logp.map((l) => Math.exp(l) * l));
const entropyRatio = (now, old) => (now + ENTROPY_EPS) / (old + ENTROPY_EPS);
const kl = (logp, logq) => sum(logp.map((l, i) => Math.exp(l) * (l - logq[i])));
const halfChange = (logp, logq) => 0.5 * sum(logp.map((l, i) => Math.abs(Math.exp(l) - Math.exp(logq[i]))));

/** dH, the first-order change of the entropy when the logits move along A grad log pi(a). */
function entropyChange(logp, action, advantage, H) {
  const own = Math.exp(logp[action]) * (logp[action] + H);
  const every = sum(logp.map((l) => Math.exp(2 * l) * (l + H)));
  return advantage * (every - own);
}

/** How far a state's distribution is from the old one. */
function drift(old, logp, action = -1) {
  const H = entropy(logp);
  const oldH = entropy(old);
  const tv = halfChange(old, logp);
  return {
    p: logp.map(Math.exp),
    H,
    oldH,
    rho: entropyRatio(H, oldH),
    kl: kl(old, logp),
    reverse: kl(logp, old),
    tv,
    tvHidden: Math.max(tv - (action < 0 ? 0 : Math.abs(Math.exp(old[action]) - Math.exp(logp[action]))), 0),
  };
}

/** The sampled token under the objective: its value, and w in grad J = w (e_a - pi). */
function token(state, old, logp) {
  const { objective, action, advantage: A, band } = state;
  const at = drift(old, logp, action);
  const gap = logp[action] - old[action];
  const r = Math.exp(Math.min(Math.max(gap, -LOG_RATIO_LIMIT), LOG_RATIO_LIMIT));
  const [low, high] = [1 - state.clip[0], 1 + state.clip[1]];
  const clipped = Math.min(Math.max(r, low), high);
  const flat = Math.abs(gap) > LOG_RATIO_LIMIT; // the clamp's gradient is zero
  let [value, weight, bound] = [A * logp[action], A, false];
  if (objective !== "reinforce") {
    bound = (r > high && A > 0) || (r < low && A < 0);
    value = Math.min(r * A, clipped * A);
    weight = flat ? 0 : bound ? (objective === "gppo" ? clipped * A : 0) : r * A;
  }
  const below = !(at.rho > 1 - band);
  const above = !(at.rho < 1 + band);
  const slope = entropyChange(logp, action, A, at.H);
  const dropped =
    objective === "erc-dapo" ? below || above
      : objective === "erc-directional-dapo" ? (below && slope < 0) || (above && slope > 0)
        : false;
  if (dropped) weight = 0;
  const inside = r >= low && r <= high;
  return {
    ...at, r, clipped, logp: logp[action], value, weight, bound, dropped, slope, inside,
    below, above, flat, violation: at.kl > DELTA, hidden: at.kl > DELTA && inside,
  };
}

/** The policy before each update and after the last one: `updates + 1` entries. */
function trajectory(state) {
  const old = logSoftmax(state.logits);
  const old2 = state.second && logSoftmax(state.second);
  let logits = [...(state.start ?? state.logits)];
  const points = [];
  for (let k = 0; ; k += 1) {
    const logp = logSoftmax(logits);
    const point = token(state, old, logp);
    if (state.second) {
      // logits = W phi: a step of W along phi_1 moves the second state by the features' cosine
      const moved = state.second.map((z, i) => z + state.cosine * (logits[i] - state.logits[i]));
      point.other = drift(old2, logSoftmax(moved));
    }
    points.push(point);
    if (k === state.updates) return { points, old: old.map(Math.exp), old2: old2?.map(Math.exp) };
    const step = state.step * point.weight;
    logits = logits.map((z, i) => z + step * ((i === state.action ? 1 : 0) - point.p[i]));
  }
}

// ---------------------------------------------------------------- the state and its link

const LIMITS = {
  actions: [2, 8], logit: [-5, 5], advantage: [-3, 3], step: [0.01, 2], updates: [0, 16],
  low: [0.01, 0.99], high: [0.01, 2], band: [0.01, 0.5], cosine: [-0.95, 0.95],
};
const DEFAULT = {
  objective: "dapo", logits: [1.5, 0.7, 0, -0.4], start: null, action: 0, advantage: 1, step: 0.2,
  updates: 4, clip: [0.2, 0.28], band: BAND[0], second: null, cosine: 0.8, compare: null,
};

class Unreadable extends Error {}

const refuse = (field, why) => {
  throw new Unreadable(`${field}: ${why}`);
};

function number(text, field, [low, high]) {
  const value = /^-?\d+(\.\d+)?(e-?\d+)?$/i.test(text) ? Number(text) : NaN;
  if (!(value >= low && value <= high)) refuse(field, `must be a number from ${low} to ${high}`.replace("-", "\u2212"));
  return value;
}

function whole(text, field, limits) {
  const value = number(text, field, limits);
  return Number.isInteger(value) ? value : refuse(field, "must be a whole number");
}

function list(text, field, limits, length) {
  const parts = text.split(",");
  if (parts.length !== length) refuse(field, `must be ${length} numbers`);
  return parts.map((part) => number(part, field, limits));
}

/** The settings that a link may hold. Each parses its own text, given the settings parsed before it. */
const FIELDS = {
  objective: (text) => (Object.hasOwn(OBJECTIVES, text) ? text : refuse("objective", "not known")),
  compare: (text) => (Object.hasOwn(OBJECTIVES, text) ? text : refuse("compare", "not known")),
  logits: (text) => {
    const length = text.split(",").length;
    const [low, high] = LIMITS.actions;
    if (length < low || length > high) refuse("logits", `must be ${low} to ${high} numbers`);
    return list(text, "logits", LIMITS.logit, length);
  },
  start: (text, read) => list(text, "start", LIMITS.logit, read.logits.length),
  second: (text, read) => list(text, "second", LIMITS.logit, read.logits.length),
  action: (text, read) => whole(text, "action", [1, read.logits.length]) - 1,
  advantage: (text) => number(text, "advantage", LIMITS.advantage),
  step: (text) => number(text, "step", LIMITS.step),
  updates: (text) => whole(text, "updates", LIMITS.updates),
  clip: (text) => {
    const [low, high] = list(text, "clip", [0, 10], 2).map(String);
    return [number(low, "clip", LIMITS.low), number(high, "clip", LIMITS.high)];
  },
  band: (text) => number(text, "band", LIMITS.band),
  cosine: (text) => number(text, "cosine", LIMITS.cosine),
};

function preset(name) {
  const given = presets[name];
  const state = { ...DEFAULT, clip: OBJECTIVES[given.objective ?? DEFAULT.objective].clip, ...given };
  state.action = given.action === undefined ? 0 : given.action - 1;
  return structuredClone(state);
}

/** The state that a link describes; throws Unreadable. */
function parse(fragment) {
  const text = fragment.replace(/^#/, "");
  const lessons = document.querySelectorAll(".lesson-step").length;
  if (text.length > 4000) refuse("link", "too long");
  const given = new Map();
  for (const [key, value] of new URLSearchParams(text)) {
    if (!Object.hasOwn(FIELDS, key) && key !== "preset" && key !== "lesson") {
      refuse("link", "has a field that is not known");
    }
    if (given.has(key)) refuse(key, "is there twice");
    given.set(key, value);
  }
  const at = given.has("lesson") ? whole(given.get("lesson"), "lesson", [1, lessons]) - 1 : null;
  if (given.has("preset")) {
    const name = given.get("preset");
    if (!Object.hasOwn(presets, name)) refuse("preset", "not known");
    if (given.size > (at === null ? 1 : 2)) refuse("preset", "allows no other field than lesson");
    return { state: preset(name), lesson: at, name };
  }
  if (given.size === 0) return { state: null, lesson: null };
  if (given.size === 1 && at !== null) {
    return { state: preset(document.querySelectorAll(".lesson-step")[at].dataset.preset), lesson: at };
  }
  const state = structuredClone(DEFAULT);
  if (given.has("objective")) state.clip = OBJECTIVES[FIELDS.objective(given.get("objective"))].clip;
  for (const key of Object.keys(FIELDS)) {
    if (given.has(key)) state[key] = FIELDS[key](given.get(key), state);
  }
  if (state.action >= state.logits.length) refuse("action", "is not among the logits' actions");
  return { state, lesson: at };
}

function serialise(state, lesson) {
  const fields = {
    objective: state.objective,
    logits: state.logits.join(","),
    ...(state.start && { start: state.start.join(",") }),
    action: state.action + 1,
    advantage: state.advantage,
    step: state.step,
    updates: state.updates,
    clip: state.clip.join(","),
    band: state.band,
    ...(state.second && { second: state.second.join(","), cosine: state.cosine }),
    ...(state.compare && { compare: state.compare }),
    lesson: lesson + 1,
  };
  return `#${Object.entries(fields).map(([key, value]) => `${key}=${value}`).join("&")}`;
}

// ---------------------------------------------------------------- pieces of the page

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "line", "circle", "text", "g"].includes(tag);
  const node = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function rounded(value, digits) {
  const places = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 100 ? Math.min(digits, 1) : digits;
  const text = value.toFixed(places);
  return Number(text) === 0 ? (0).toFixed(places) : text.replace("-", "\u2212");
}

/** A number on the page: rounded text, and the exact value beside its name. */
function show(node, value, digits) {
  node.dataset.value = String(value);
  node.textContent = rounded(value, digits);
  return node;
}

const num = (key, value, digits = 3) =>
  show(element("span", { "class": "n", "data-key": key }), value, digits);
const variable = (text, below) =>
  below ? element("i", {}, text, element("sub", {}, below)) : element("i", {}, text);

const together = (...parts) => element("span", { "class": "together" }, ...parts);

let state;
let lesson = 0;
const clamp = (x, [low, high]) => Math.min(Math.max(x, low), high);
const hundredth = (x) => Math.round(x * 100) / 100;

// ---------------------------------------------------------------- the bars one drags

function logitSlider(field, index, name) {
  const fill = element("div", { "class": "fill" });
  const knob = element("div", { "class": "knob" });
  const [low, high] = LIMITS.logit;
  const node = element("div", {
    "class": `logit ${field}`, "role": "slider", "tabindex": "0", "aria-orientation": "vertical",
    "aria-valuemin": low, "aria-valuemax": high, "data-slider": `${field}.${index}`,
    "aria-label": `Logit of action ${index + 1}, ${name}`,
  }, fill, knob);
  const set = (value) => {
    state[field][index] = clamp(hundredth(value), LIMITS.logit);
    changed();
  };
  const follow = (event) => {
    const box = node.getBoundingClientRect();
    set(high - ((event.clientY - box.top) / box.height) * (high - low));
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    node.focus({ preventScroll: true });
    node.setPointerCapture(event.pointerId);
    follow(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) follow(event);
  });
  const steps = {
    ArrowUp: 0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowLeft: -0.1, PageUp: 1, PageDown: -1,
  };
  node.addEventListener("keydown", (event) => {
    const value = state[field][index];
    if (Object.hasOwn(steps, event.key)) set(value + steps[event.key]);
    else if (event.key === "Home") set(low);
    else if (event.key === "End") set(high);
    else return;
    event.preventDefault();
  });
  const label = element("span", { "class": "n", "data-key": `logit.${field}.${index}` });
  const update = (probability) => {
    const value = state[field][index];
    const at = (x) => `${((high - x) / (high - low)) * 100}%`;
    fill.style.top = at(Math.max(value, 0));
    fill.style.height = `${(Math.abs(value) / (high - low)) * 100}%`;
    knob.style.top = at(value);
    node.setAttribute("aria-valuenow", value);
    node.setAttribute("aria-valuetext", `${rounded(value, 2)}, probability ${rounded(probability, 3)}`);
    show(label, value, 2);
  };
  return { node, label, update };
}

function logitRow(field, title, name) {
  const sliders = state[field].map((_, i) => logitSlider(field, i, name));
  const node = element("div", { "class": "row" },
    element("h4", {}, title),
    element("div", { "class": "columns logits" }, ...sliders.map((s) => s.node)),
    element("div", { "class": "columns values" }, ...sliders.map((s) => s.label)));
  return { node, update: (p) => sliders.forEach((s, i) => s.update(p[i])) };
}

/** Old and new probability of every action side by side; hatched is what moved between unsampled actions. */
function distribution(suffix, sampled) {
  const columns = state.logits.map((_, i) => {
    const bars = Object.fromEntries(["old", "new", "moved"].map((kind) =>
      [kind, element("div", { "class": `bar ${kind}`, "data-bar": `${kind}${suffix}.${i}` })]));
    const node = element("div", { "class": "column" }, bars.old, bars.new, bars.moved);
    const number = (kind) => element("span", { "class": "n", "data-key": `p${suffix}.${kind}.${i}` });
    return { node, bars, old: number("old"), now: number("new") };
  });
  const top = element("span", { "class": "tick top" });
  const middle = element("span", { "class": "tick middle" });
  const bottom = element("span", { "class": "tick bottom" }, "0");
  const foot = sampled ? actionChoice() : null;
  const node = element("div", { "class": "row" },
    element("div", { "class": "plot" }, top, middle, bottom,
      element("div", { "class": "columns bars" }, ...columns.map((c) => c.node))),
    element("div", { "class": "columns values old", "data-name": "old" }, ...columns.map((c) => c.old)),
    element("div", { "class": "columns values new", "data-name": "new" }, ...columns.map((c) => c.now)),
    foot?.node ?? element("div", { "class": "columns values foot" },
      ...state.logits.map((_, i) => element("span", {}, String(i + 1)))));
  const update = (old, now) => {
    const full = Math.max(...old, ...now) > 0.5 ? 1 : 0.5;
    top.textContent = rounded(full, full === 1 ? 0 : 1);
    middle.textContent = rounded(full / 2, full === 1 ? 1 : 2);
    const height = (p) => `${(p / full) * 100}%`;
    columns.forEach((column, i) => {
      const unsampled = !sampled || i !== state.action;
      column.node.classList.toggle("sampled", !unsampled);
      column.bars.old.style.height = height(old[i]);
      column.bars.new.style.height = height(now[i]);
      column.bars.moved.style.bottom = height(Math.min(old[i], now[i]));
      column.bars.moved.style.height = height(unsampled ? Math.abs(now[i] - old[i]) : 0);
      column.bars.moved.classList.toggle("lost", now[i] < old[i]);
      show(column.old, old[i], 3);
      show(column.now, now[i], 3);
    });
    foot?.update();
  };
  return { node, update };
}

function actionChoice() {
  const inputs = state.logits.map((_, i) => {
    const input = element("input", { type: "radio", name: "action", value: i, "aria-label": `Sampled action ${i + 1}` });
    input.addEventListener("change", () => {
      state.action = i;
      changed();
    });
    return input;
  });
  const node = element("div", { "class": "columns actions", "role": "radiogroup", "aria-label": "Sampled action" },
    ...inputs.map((input, i) => element("label", {}, input, element("span", {}, String(i + 1)))));
  return { node, update: () => inputs.forEach((input, i) => { input.checked = i === state.action; }) };
}

let stage = { signature: "" };

/** Bars are built anew only when their number changes, so that a drag keeps its element and focus. */
function buildStage() {
  const signature = [state.logits.length, Boolean(state.start), Boolean(state.second)].join();
  if (stage.signature === signature) return;
  const one = {
    old: logitRow("logits", "Logits of the old policy (drag)", "old policy"),
    start: state.start && logitRow("start", "Logits before update 1 (drag)", "before update 1"),
    bars: distribution("", true),
  };
  const two = state.second && {
    old: logitRow("second", "Logits of the old policy (drag)", "old policy, state 2"),
    bars: distribution("2", false),
  };
  const panel = (title, note, parts) => element("div", { "class": "policy" },
    ...(title ? [element("h3", {}, title, element("small", {}, note))] : []),
    ...[parts.old, parts.start, parts.bars].filter(Boolean).map((part) => part.node));
  byId("policies").style.setProperty("--actions", state.logits.length);
  byId("policies").replaceChildren(...(two
    ? [panel("State 1", "its action was sampled", one), panel("State 2", "no action of it was sampled", two)]
    : [panel(null, null, one)]));
  stage = { signature, one, two };
}

// ---------------------------------------------------------------- gauges

function gauge(host, key, value, [low, high], keys, strict) {
  const half = 2.4 * Math.max(1 - low, high - 1);
  const [from, to] = [Math.max(0, 1 - half), 1 + half];
  const at = (x) => ((clamp(x, [from, to]) - from) / (to - from)) * 100;
  const off = value < from ? "under" : value > to ? "over" : "";
  const inside = strict ? value > low && value < high : value >= low && value <= high;
  const tick = (x, node, side) => {
    const mark = element("span", { "class": `mark ${side}` }, node);
    mark.style.left = `${at(x)}%`;
    return mark;
  };
  const zone = element("div", { "class": "zone" });
  zone.style.left = `${at(low)}%`;
  zone.style.width = `${at(high) - at(low)}%`;
  const needle = element("div", { "class": `needle ${off}` });
  needle.style.left = `${at(value)}%`;
  const one = element("div", { "class": "one" });
  one.style.left = `${at(1)}%`;
  host.dataset.inside = inside;
  host.replaceChildren(
    element("div", { "class": "track" }, zone, one, needle),
    element("div", { "class": "marks" },
      tick(low, num(keys[0], low, 2), "low"), tick(high, num(keys[1], high, 2), "high")));
  return inside;
}

function paintGauges(now) {
  const clipRange = [1 - state.clip[0], 1 + state.clip[1]];
  const bandRange = [1 - state.band, 1 + state.band];
  show(byId("r"), now.r, 3);
  show(byId("rho"), now.rho, 3);
  gauge(byId("gauge-r"), "r", now.r, clipRange, ["bound.clip.low", "bound.clip.high"], false);
  gauge(byId("gauge-rho"), "rho", now.rho, bandRange, ["bound.band.low", "bound.band.high"], true);
  const clips = state.objective !== "reinforce";
  byId("says-r").textContent = now.inside
    ? clips ? "inside the clip range" : "inside the range; REINFORCE has no clip"
    : !clips ? "outside the range; REINFORCE has no clip"
      : state.advantage === 0 ? "outside the range; without an advantage there is no gradient"
      : !now.bound ? "outside, but the clip does not bind: this gradient leads back"
        : state.objective === "gppo" ? "the clip binds; GPPO keeps a bounded gradient"
          : "the clip binds: no gradient";
  const gates = state.objective.startsWith("erc");
  const out = now.below || now.above;
  byId("says-rho").textContent = !out
    ? gates ? "inside the band" : "inside the band; no gate here"
    : !gates ? "outside the band; no gate here"
      : now.dropped ? "outside the band: the gate drops the gradient"
        : state.advantage === 0 ? "outside the band; there is no gradient to drop"
          : "outside, but the gate keeps what leads back";
}

// ---------------------------------------------------------------- numbers

function paintMeasures(now) {
  const rows = [
    ["KL(old‖new)", "nats", "kl", "kl", 4], ["KL(new‖old)", "nats", "kl.reverse", "reverse", 4],
    ["Total variation", "", "tv", "tv", 4], ["of it hidden", "", "tv.hidden", "tvHidden", 4],
    ["Entropy, old", "nats", "entropy.old", "oldH", 3], ["Entropy, new", "nats", "entropy.new", "H", 3],
  ];
  if (now.other) rows.push(["Entropy ratio ρ", "", "rho", "rho", 3]);
  const cells = ([, , key, field, digits]) => [
    element("td", {}, num(key, now[field], digits)),
    ...(now.other ? [element("td", {}, num(`${key}2`, now.other[field], digits))] : []),
  ];
  byId("measures").classList.toggle("two", Boolean(now.other));
  byId("measures").replaceChildren(
    ...(now.other ? [element("thead", {}, element("tr", {}, element("td", {}),
      element("th", { scope: "col" }, "State 1"), element("th", { scope: "col" }, "State 2")))] : []),
    element("tbody", {}, ...rows.map((row) => element("tr", {},
      element("th", { scope: "row" }, row[0], row[1] ? element("small", {}, ` ${row[1]}`) : ""), ...cells(row)))));
}

function paintVerdict(now) {
  const node = byId("verdict");
  const r = [together(variable("r"), " = ", num("r", now.r, 3))];
  const divergence = ["KL = ", num("kl", now.kl, 4)];
  const range = [together(
    "[", num("bound.clip.low", 1 - state.clip[0], 2), ", ", num("bound.clip.high", 1 + state.clip[1], 2), "]")];
  const limit = num("delta", DELTA, 2);
  const seen = now.hidden
    ? ["Hidden violation", [...divergence, " nats > ", limit, ", yet ", ...r, " is inside the clip range ", ...range, "."]]
    : now.violation
      ? ["Visible violation", [...divergence, " nats > ", limit, ", and ", ...r, " is outside the clip range ", ...range, "."]]
      : ["Inside the trust region", [...divergence, " nats, at most ", limit, "."]];
  const parts = [element("div", {}, ...seen[1])];
  if (now.other) {
    parts.push(element("div", {}, "State 2: KL = ", num("kl2", now.other.kl, 4), " nats, ",
      now.other.kl > DELTA ? "outside the trust region; no ratio was computed there." : "inside the trust region."));
  }
  node.dataset.verdict = now.hidden ? "hidden" : now.violation ? "seen" : "inside";
  if (byId("verdict-says").textContent !== seen[0]) byId("verdict-says").textContent = seen[0]; // announced once
  byId("verdict-numbers").replaceChildren(...parts);
}

// ---------------------------------------------------------------- the formula with its numbers

const SYMBOLS = {
  r: () => variable("r"), A: () => variable("A"), rho: () => variable("ρ"),
  low: () => element("span", {}, "1 − ", variable("ε", "low")),
  high: () => element("span", {}, "1 + ", variable("ε", "high")),
};

function formulaRows(now) {
  const { objective, advantage } = state;
  const A = () => num("set.advantage", advantage, 2);
  const value = () => num("value", now.value, 4);
  const s = SYMBOLS;
  const rows = [];
  if (objective === "reinforce") {
    rows.push(["Objective", [variable("J"), " = ", s.A(), " log ", variable("π", "a")]],
      ["here", ["= ", A(), " × ", num("logp", now.logp, 4), " = ", value()]]);
  } else {
    const bounds = objective === "gppo"
      ? ["(", s.low(), ") ", s.r(), "/sg(", s.r(), "), (", s.high(), ") ", s.r(), "/sg(", s.r(), ")"]
      : [s.low(), ", ", s.high()];
    rows.push(["Objective", [variable("J"), " = min(", s.r(), " ", s.A(), ", clip(", s.r(), ", ", ...bounds, ") ", s.A(), ")"]],
      ...(objective === "gppo" ? [["here", [element("small", {}, "sg: taken as a constant, without a gradient")]]] : []),
      ["here", ["= min(", num("r", now.r, 4), " × ", A(), ", ", num("clipped", now.clipped, 4), " × ", A(), ") = ", value()]]);
  }
  const low = () => num("bound.band.low", 1 - state.band, 2);
  const high = () => num("bound.band.high", 1 + state.band, 2);
  const verdict = (yes) => element("b", {}, yes ? "kept" : "dropped");
  if (objective === "erc-dapo") {
    rows.push(["Gate", ["keep the gradient if ", low(), " < ", s.rho(), " < ", high(), "; here ",
      together(s.rho(), " = ", num("rho", now.rho, 4)), ": ", verdict(!now.dropped)]]);
  }
  if (objective === "erc-directional-dapo") {
    rows.push(["Gate", ["drop it if ", s.rho(), " ≥ ", high(), " and d", variable("H"), " > 0, or ", s.rho(), " ≤ ", low(), " and d",
      variable("H"), " < 0; here ",
      together(s.rho(), " = ", num("rho", now.rho, 4)), ", ",
      together("d", variable("H"), " = ", num("slope", now.slope, 4)), ": ", verdict(!now.dropped)]]);
  }
  const why = now.dropped ? ["dropped by the gate"]
    : objective === "reinforce" ? [variable("A"), ", whatever the ratio"]
      : now.flat ? ["the logarithm of ", variable("r"), " is held at its limit"]
      : !now.bound ? [variable("r"), " ", variable("A")]
        : objective === "gppo" ? ["the bound times ", variable("A"), ": the clip binds, the gradient stays"]
          : ["the clip binds"];
  rows.push(["Gradient", [element("span", {}, "∇", element("sub", {}, "logits"), " ", variable("J"), " = ", variable("w"), " (", variable("e", "a"), " − ", variable("π"), "), "),
    variable("w"), " = ", num("weight", now.weight, 4), element("small", {}, " (", ...why, ")")]]);
  rows.push(["Next step", [`the logit of action ${state.action + 1} would move by `,
    num("pull", state.step * now.weight * (1 - now.p[state.action]), 4)]]);
  return rows;
}

function paintFormula(now) {
  byId("formula").replaceChildren(...formulaRows(now).flatMap(([name, parts]) =>
    [element("dt", {}, name === "here" ? "" : name), element("dd", {}, ...parts)]));
  byId("formula-name").textContent = OBJECTIVES[state.objective].label;
}

// ---------------------------------------------------------------- the course of the updates

const MULTIPLES = [
  {
    key: "r", title: "ratio r", digits: 3,
    zone: () => [1 - state.clip[0], 1 + state.clip[1]], bounds: ["bound.clip.low", "bound.clip.high"],
  },
  {
    key: "rho", title: "entropy ratio ρ", digits: 3,
    zone: () => [1 - state.band, 1 + state.band], bounds: ["bound.band.low", "bound.band.high"],
  },
  { key: "kl", title: "KL(old‖new)", digits: 4, zone: () => [0, DELTA], bounds: [null, "delta"] },
  { key: "tv", title: "total variation", digits: 4, zone: () => null },
];

/** A dash pattern of the figures, in pixels. */
const dashes = (pattern) => pattern.split(" ").filter(Boolean).map((length) => 1.8 * length).join(" ") || null;

function multiple({ key, title, digits, zone, bounds }, points, rivals, width) {
  const [height, left, right, top, bottom] = [132, 6, 36, 8, 22];
  const series = points.map((p) => p[key]);
  const others = points[0].other && key !== "r" ? points.map((p) => p.other[key]) : [];
  const region = zone();
  const rival = rivals.map((p) => p[key]);
  const values = [...series, ...others, ...rival, ...(region ?? [0, 0.1])];
  let [lowest, highest] = [Math.min(...values), Math.max(...values)];
  const room = 0.1 * (highest - lowest);
  [lowest, highest] = [lowest === 0 ? 0 : lowest - room, highest + room];
  const n = Math.max(points.length - 1, 1);
  const x = (k) => left + (k / n) * (width - left - right);
  const y = (v) => top + ((highest - v) / (highest - lowest)) * (height - top - bottom);
  const path = (vs) => vs.map((v, k) => `${k ? "L" : "M"}${x(k).toFixed(2)} ${y(v).toFixed(2)}`).join("");
  const style = OBJECTIVES[state.objective];
  const parts = [];
  if (region) {
    const [from, to] = [y(region[1]), y(region[0])];
    parts.push(element("rect", { "class": "zone", x: 0, width: width - right + 6, y: from, height: to - from }));
    const crowded = to - from < 11;
    bounds.forEach((name, side) => {
      if (!name || (crowded && side === 0)) return;
      parts.push(show(element("text", {
        "class": "n", "data-key": name, x: width, y: y(region[side]) + 3.5, "text-anchor": "end",
      }), region[side], 2));
    });
  }
  parts.push(element("line", { "class": "axis", x1: 0, x2: width - right + 6, y1: height - bottom + 4, y2: height - bottom + 4 }));
  const every = n > 8 ? 4 : n > 4 ? 2 : 1;
  points.forEach((_, k) => {
    if (k % every === 0) {
      parts.push(element("text", { x: x(k), y: height - 4, "text-anchor": "middle" }, String(k)));
    }
  });
  if (others.length) parts.push(element("path", { "class": "other", d: path(others) }));
  if (rival.length) {
    const { color, dash } = OBJECTIVES[state.compare];
    parts.push(element("path", { "class": "halo", d: path(rival), "stroke-dasharray": dashes(dash) }));
    parts.push(element("path", {
      "class": "rival", d: path(rival), stroke: color, "stroke-dasharray": dashes(dash), "data-rival": key, "data-end": rival.at(-1),
    }));
  }
  for (const name of ["halo", "series"]) {
    parts.push(element("path", { "class": name, d: path(series), "stroke-dasharray": dashes(style.dash) }));
  }
  points.forEach((p, k) => {
    const at = [x(k), y(p[key])];
    const half = (width - left - right) / n < 16 ? 2.2 : 3.5;
    const kind = p.dropped ? "dropped" : p.bound ? "bound" : "free";
    parts.push(kind === "dropped"
      ? element("path", { "class": "point dropped", d: `M${at[0] - half} ${at[1] - half}l${2 * half} ${2 * half}m0 ${-2 * half}l${-2 * half} ${2 * half}` })
      : kind === "bound"
        ? element("rect", { "class": "point bound", x: at[0] - half, y: at[1] - half, width: 2 * half, height: 2 * half })
        : element("circle", { "class": "point free", cx: at[0], cy: at[1], r: 0.75 * half }));
  });
  const last = series.length - 1;
  return element("figure", { "class": "multiple" },
    element("figcaption", {}, title, num(key, series[last], digits)),
    element("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${title} by update, from ${rounded(series[0], digits)} to ${rounded(series[last], digits)}; the table below has every value`,
    }, ...parts));
}

function paintCourse(points) {
  const host = byId("multiples");
  const width = Math.max(120, Math.floor((host.clientWidth - 24) / 2));
  const compared = state.compare && state.compare !== state.objective;
  const rivals = compared ? trajectory({ ...state, objective: state.compare }).points : [];
  host.replaceChildren(...MULTIPLES.map((m) => multiple(m, points, rivals, width)));
  byId("rival-legend").hidden = !compared;
  if (compared) byId("rival-legend").replaceChildren(swatch(state.compare), `${OBJECTIVES[state.compare].label}, same settings`);
  const other = Boolean(points[0].other);
  byId("other-legend").hidden = !other;
  const columns = [["r", "r", 4], ["rho", "ρ", 4], ["kl", "KL", 5], ["tv", "TV", 4]];
  const second = other ? [["rho", "ρ, state 2", 4], ["kl", "KL, state 2", 5], ["tv", "TV, state 2", 4]] : [];
  const head = element("tr", {}, ...["after update", ...columns.map((c) => c[1]), ...second.map((c) => c[1]), "next gradient"]
    .map((text) => element("th", { scope: "col" }, text)));
  const says = (p) => p.dropped ? "dropped by the gate"
    : p.bound ? (state.objective === "gppo" ? "bounded by the clip" : "zero: the clip binds") : "flows";
  const rows = points.map((p, k) => element("tr", {}, element("th", { scope: "row" }, String(k)),
    ...columns.map(([key, , digits]) => element("td", {}, num(`t.${k}.${key}`, p[key], digits))),
    ...second.map(([key, , digits]) => element("td", {}, num(`t.${k}.${key}2`, p.other[key], digits))),
    element("td", { "class": "says" }, says(p))));
  byId("course").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- controls

/** By the id of a range input: where its value is kept, and how many digits it shows. */
const RANGES = {
  advantage: { read: () => state.advantage, write: (v) => { state.advantage = v; }, digits: 1 },
  step: { read: () => state.step, write: (v) => { state.step = v; }, digits: 2 },
  updates: { read: () => state.updates, write: (v) => { state.updates = v; }, digits: 0 },
  "clip.low": { read: () => state.clip[0], write: (v) => { state.clip[0] = v; }, digits: 2 },
  "clip.high": { read: () => state.clip[1], write: (v) => { state.clip[1] = v; }, digits: 2 },
  band: { read: () => state.band, write: (v) => { state.band = v; }, digits: 2 },
  actions: { read: () => state.logits.length, write: resize, digits: 0 },
  cosine: { read: () => state.cosine, write: (v) => { state.cosine = v; }, digits: 2 },
};

function resize(count) {
  for (const field of ["logits", "start", "second"]) {
    if (state[field]) state[field] = Array.from({ length: count }, (_, i) => state[field][i] ?? 0);
  }
  state.action = Math.min(state.action, count - 1);
}

function swatch(name) {
  const { color, dash } = OBJECTIVES[name];
  const line = (kind, stroke) => element("line", { "class": kind, x1: 1, x2: 29, y1: 5, y2: 5, stroke, "stroke-dasharray": dashes(dash) });
  return element("svg", { "class": "swatch", viewBox: "0 0 30 10", "aria-hidden": "true" }, line("halo", null), line("arm", color));
}

function buildControls() {
  for (const [name, { write }] of Object.entries(RANGES)) {
    byId(`in-${name}`).addEventListener("input", (event) => {
      write(Number(event.target.value));
      changed();
    });
  }
  byId("objectives").replaceChildren(...Object.entries(OBJECTIVES).map(([name, { label }]) => {
    const input = element("input", { type: "radio", name: "objective", value: name });
    input.addEventListener("change", () => {
      state.objective = name;
      state.clip = [...OBJECTIVES[name].clip];
      changed();
    });
    return element("label", {}, input, swatch(name), element("span", {}, label));
  }));
  byId("in-compare").append(...Object.entries(OBJECTIVES).map(([name, { label }]) => element("option", { value: name }, label)));
  byId("in-compare").addEventListener("change", (event) => {
    state.compare = event.target.value || null;
    changed();
  });
  byId("in-shared").addEventListener("change", (event) => {
    state.second = event.target.checked ? [...state.logits].reverse() : null;
    changed();
  });
  byId("in-away").addEventListener("change", (event) => {
    state.start = event.target.checked ? [...state.logits] : null;
    changed();
  });
}

function paintControls() {
  for (const [name, { read, digits }] of Object.entries(RANGES)) {
    const input = byId(`in-${name}`);
    if (Number(input.value) !== read()) input.value = read();
    show(byId(`out-${name}`), read(), digits);
  }
  for (const input of document.querySelectorAll("input[name=objective]")) input.checked = input.value === state.objective;
  byId("in-shared").checked = Boolean(state.second);
  byId("in-away").checked = Boolean(state.start);
  byId("in-compare").value = state.compare ?? "";
  byId("cosine-field").hidden = !state.second;
  document.documentElement.style.setProperty("--arm", OBJECTIVES[state.objective].color);
}

// ---------------------------------------------------------------- lesson, link, start

function paintLesson() {
  const steps = [...document.querySelectorAll(".lesson-step")];
  steps.forEach((step, i) => { step.hidden = i !== lesson; });
  byId("lesson-at").textContent = `${lesson + 1} of ${steps.length}`;
  byId("back").disabled = lesson === 0;
  byId("next").disabled = lesson === steps.length - 1;
}

function goTo(step) {
  lesson = step;
  const shown = document.querySelectorAll(".lesson-step")[step];
  paintLesson();
  load(shown.dataset.preset);
  if (document.activeElement === document.body) byId(byId("next").disabled ? "back" : "next").focus();
}

function load(name, from) {
  state = preset(name);
  note("");
  changed();
  if (from) byId("policies").scrollIntoView({ block: "center", behavior: calm() ? "auto" : "smooth" });
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function note(text) {
  byId("note").textContent = text;
  byId("note").hidden = !text;
}

let writing = 0;

/** The address follows the state with a delay, because browsers limit how often it may change. */
function writeLink() {
  clearTimeout(writing);
  document.body.dataset.link = "behind";
  writing = setTimeout(linkNow, 250);
}

function linkNow() {
  clearTimeout(writing);
  history.replaceState(null, "", serialise(state, lesson));
  document.body.dataset.link = "current";
}

async function copyLink() {
  linkNow();
  const field = byId("link");
  field.value = location.href;
  let copied = false;
  try {
    await navigator.clipboard.writeText(location.href);
    copied = true;
  } catch {
    field.hidden = false;
    field.select();
    copied = document.execCommand("copy");
  }
  field.hidden = copied;
  byId("copied").textContent = copied ? "Copied. What follows # works with any copy of this page." : "Copy it from here:";
}

function changed() {
  paint();
  writeLink();
}

function paint() {
  const { points, old, old2 } = trajectory(state);
  const now = points.at(-1);
  buildStage();
  paintControls();
  stage.one.old.update(old);
  stage.one.start?.update(points[0].p);
  stage.one.bars.update(old, now.p);
  stage.two?.old.update(old2);
  stage.two?.bars.update(old2, now.other.p);
  paintGauges(now);
  paintMeasures(now);
  paintVerdict(now);
  paintFormula(now);
  paintCourse(points);
  Object.assign(document.body.dataset, { bound: now.bound, dropped: now.dropped, hidden: now.hidden });
}

/** The lesson step about a preset, or else the current step. */
function stepOf(name) {
  const found = [...document.querySelectorAll(".lesson-step")].findIndex((step) => [step.dataset.preset, step.dataset.also].includes(name));
  return found < 0 ? lesson : found;
}

function read() {
  const first = document.documentElement.dataset.preset;
  try {
    const link = parse(location.hash);
    state = link.state ?? preset(first);
    lesson = link.lesson ?? stepOf(link.name ?? first);
    note("");
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    state = preset(first);
    lesson = stepOf(first);
    note(`This link cannot be read (${error.message}). The page shows its default instead.`);
  }
  paintLesson();
  paint();
}

buildControls();
byId("back").addEventListener("click", () => goTo(lesson - 1));
byId("next").addEventListener("click", () => goTo(lesson + 1));
byId("again").addEventListener("click", () => load(document.querySelectorAll(".lesson-step")[lesson].dataset.preset));
byId("copy").addEventListener("click", copyLink);
for (const button of document.querySelectorAll("button[data-preset]")) {
  button.addEventListener("click", () => load(button.dataset.preset, button));
}
window.addEventListener("hashchange", read);
read();
let wide = byId("multiples").clientWidth;
new ResizeObserver(([{ contentRect }]) => {
  if (Math.abs(contentRect.width - wide) < 1) return;
  wide = contentRect.width;
  paintCourse(trajectory(state).points);
}).observe(byId("multiples"));
document.body.dataset.ready = "true";
