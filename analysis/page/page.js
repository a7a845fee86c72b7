"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const root = document.documentElement;
const views = {};
const signals = { convention: page.convention, laws: page.laws.slice(0, 1), law: page.laws[0], picked: null,
  at: page.fitted?.[1], ramp: null };
const find = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];

// Numbers as the rest of the report writes them: 59.4k parameters, 1.23e+12 FLOPs.
function count(value) {
  if (value === null || !isFinite(value)) return "open";
  for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= limit * 0.9995) return trimmed((value / limit).toPrecision(3)) + unit;
  }
  return trimmed(value.toPrecision(3));
}
const trimmed = (text) => String(Number(text)); // 1k, not 1.00k
const flops = (value) => (value === null || !isFinite(value) ? "open" : value.toExponential(2));
const nats = (value) => (value === null || !isFinite(value) ? "open" : value >= 0.1 ? value.toFixed(4) // equivalent: both write .1000
  : value >= 1e-4 ? value.toPrecision(4) : value.toExponential(3));
const written = { flops, n_params: count, tokens: count, loss: nats };

// A number as tables are read: 1.3T, 2.5 x 10^13, 1,000,000, 2,5e13. NaN for another text, and for 1,234.
const SCALES = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 };
const EITHER = "^[1-9][0-9]{0,2},[0-9]{3}(?![0-9.,])"; // a comma between thousands, or one of decimals
function amount(text) {
  const plain = text.trim().toLowerCase().replace(new RegExp("\\s*[x\u00d7]\\s*10\\^"), "e").replace(new RegExp("^10\\^"), "1e");
  const [, digits, power, unit] = plain.match("^([^a-z]*[0-9][.]?)(e[-+]?[0-9]+)?\\s*([kmbgt]?)$") ?? [];
  if (digits === undefined || digits.match(EITHER)) return NaN;
  const thousands = digits.match("^[1-9][0-9]{0,2}([,'_\\s])[0-9]{3}(\\1[0-9]{3})*([.][0-9]+)?$");
  return Number((thousands ? digits.replaceAll(thousands[1], "") : digits.replace(",", ".")) + (power ?? "")) * SCALES[unit];
}

// --- theme: more compute stands out more; other colours are the variables of the style sheet
const RAMPS = {
  light: ["#97c7a4", "#62aa9c", "#3c8a95", "#2c688a", "#2a4676", "#231f4d", "#140f2b"],
  dark: ["#3f5f8f", "#3d7fa0", "#4c9ca3", "#6db8a5", "#97cfa8", "#c4e3ab", "#f2f4c0"],
};
const media = window.matchMedia("(prefers-color-scheme: dark)");
function setTheme(name) {
  root.dataset.theme = name;
  signals.ramp = RAMPS[name];
  return draw();
}
// Paper is light whatever the screen is: colours of the charts change at once, before the page is laid out for it.
function setRamp(name) {
  for (const view of Object.values(views)) view.signal("ramp", RAMPS[name]).run();
}
function config() {
  const ink = "var(--ink)", muted = "var(--muted)", law = "var(--link)";
  const text = { labelColor: ink, titleColor: ink, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500 };  // equivalent: sizes of letters, which look alike
  return {
    background: null, font: "system-ui, DejaVu Sans, sans-serif", view: { stroke: null },
    axis: { ...text, gridColor: "var(--line)", gridOpacity: 0.6, domainColor: muted, tickColor: muted },
    legend: text, line: { color: law }, area: { color: law }, rule: { color: muted }, point: { color: law },
  };
}

// --- charts
async function embed(slot) {
  const name = slot.dataset.chart === "residuals" ? `residuals by ${find("#residuals-by").value}` : slot.dataset.chart;
  const chart = page.charts[name];
  const params = chart.params.map((param) => (param.name in signals ? { ...param, value: signals[param.name] } : param));
  const datasets = { ...chart.datasets, ...page.datasets };
  const spec = { ...chart, params, datasets, autosize: { type: "fit-x", contains: "padding" } };
  const { view } = await vegaEmbed(slot, spec, { mode: "vega-lite", renderer: "svg", actions: false, config: config() });
  views[slot.dataset.chart] = view;
  try { view.addSignalListener("brush", (_, box) => pick(box)); } catch { /* this chart has no brush */ }
  return send(view);
}
const draw = () => Promise.all(all(".chart").map(embed));
function send(view) {
  for (const [name, value] of Object.entries(signals)) view.signal(name, value);
  return view.runAsync().then(hideBrush);
}
// The rectangles of a brush are a tool, not a picture: a screen reader has nothing to say of them.
function hideBrush() {
  for (const mark of all("[class*='brush_brush']")) {
    mark.removeAttribute("role");
    mark.removeAttribute("aria-roledescription");
    mark.setAttribute("aria-hidden", "true");
  }
}
function update() {
  const place = find("#shown");
  if (place) place.textContent = `${signals.convention}; laws ${signals.laws.join(", ") || "none"}; residuals of ${signals.law}`;
  return Promise.all(Object.values(views).map(send));
}

// A brush in one chart picks its runs in every chart.
function pick(box) {
  const sides = Object.entries(box || {}).filter(([, range]) => Array.isArray(range));
  const inside = (run) => sides.every(([field, range]) => {
    const value = field === "residual" ? Math.log(run.loss / run[signals.law]) : run[field];
    return value >= Math.min(...range) && value <= Math.max(...range);
  });
  const runs = page.datasets.points.filter((run) => run.convention === signals.convention);
  signals.picked = sides.length ? runs.filter(inside).map((run) => run.run_id) : null;
  const place = find("#picked");
  place.textContent = signals.picked === null ? "" : `${signals.picked.length} of ${runs.length} runs brushed`;
  return update();
}

function chartControls() {
  find("#convention")?.addEventListener("change", (event) => { signals.convention = event.target.value; update(); });
  find("#law")?.addEventListener("change", (event) => { signals.law = event.target.value; update(); });
  find("#residuals-by")?.addEventListener("change", () => embed(find('[data-chart="residuals"]')));
  all("input[name='laws']").forEach((box) => box.addEventListener("change", () => {
    signals.laws = all("input[name='laws']:checked").map((checked) => checked.value);
    update();
  }));
}

// --- calculator: Python's rows, interpolated linearly in logarithms
function answer(given, value) {
  const rows = page.calculator.filter((row) => row.given === given);
  const end = rows.length - 2;
  let i = rows.findIndex((row) => row[given] > value) - 1;
  i = Math.max(0, Math.min(end, i < -1 ? end : i));
  const [low, high] = [rows[i], rows[i + 1]];
  const share = Math.log(value / low[given]) / Math.log(high[given] / low[given]);
  const between = (name) => (low[name] > 0 && high[name] > 0 ? low[name] * (high[name] / low[name]) ** share : null);
  const found = {};
  for (const name of Object.keys(low)) if (name !== "given") found[name] = between(name);
  found[given] = found[`${given}_low`] = found[`${given}_high`] = value;
  return found;
}
function givenQuantity() { return find("input[name='given']:checked").value; }
function range(given) {
  const rows = page.calculator.filter((row) => row.given === given);
  return [rows[0][given], rows[rows.length - 1][given]];
}
function aim(value) {
  const [slider, box] = [find("#budget"), find("#exact")];
  const [low, high] = range(givenQuantity());
  slider.min = Math.ceil(Math.log10(low) * 100) / 100;
  slider.max = Math.floor(Math.log10(high) * 100) / 100;
  slider.value = Math.log10(value);
  box.value = value.toPrecision(3);
  judge("exact", "");
  slider.setAttribute("aria-valuetext", written[givenQuantity()](value));
  show(value);
}
function show(value) {
  const given = givenQuantity();
  const found = answer(given, value);
  for (const name of ["flops", "n_params", "tokens", "loss"]) {
    const place = find(`#best-${name}`);
    place.dataset.value = found[name];
    place.querySelector(".value").textContent = written[name](found[name]);
    const isGiven = name === given;
    place.querySelector(".span").textContent = isGiven ? "as given"
      : `90%: ${written[name](found[`${name}_low`])} to ${written[name](found[`${name}_high`])}`;
    place.dataset.low = found[`${name}_low`];
    place.dataset.high = found[`${name}_high`];
  }
  find("#best-tokens .more").textContent = `${(found.tokens / found.n_params).toPrecision(3)} tokens per parameter`;
  price(found.flops);
  warn(found.flops);
  signals.at = found.flops;
  update();
}
function price(compute) {
  const speed = read("speed", (value) => value > 0, "is not above 0"), hours = compute / speed / 3600;
  const each = read("price", (value) => value >= 0, "is not 0 or more"), cost = hours * each;
  const short = (value) => (value === 0 ? "0" : value >= 0.01 && value < 1e6
    ? value.toLocaleString("en", { maximumSignificantDigits: 3 }) : value.toExponential(2));
  find("#best-cost .value").textContent = isFinite(cost) ? short(cost) : "give a price and a speed";
  find("#best-cost .span").textContent = !isFinite(hours) ? ""
    : `${short(hours)} device-hours at ${short(speed)} FLOP/s${isFinite(each) ? `, ${short(each)} each` : ""}`;
}
// What is typed is used as it stands, or the field is marked and the line of warnings says why not.
const FIELDS = { exact: "Exactly", price: "Price", speed: "FLOP/s" };
const refused = {};
function judge(name, why) {
  find(`#${name}`).setAttribute("aria-invalid", String(why !== ""));
  refused[name] = why;
}
function read(name, takes, wanted) {
  const text = find(`#${name}`).value.trim(), value = amount(text);
  const no = text.match(EITHER) ? "may have a comma of thousands or of decimals: write it without" : "is no number like 1e12, 1.3T or 2,500,000";
  const why = isNaN(value) ? no : !isFinite(value) ? "is beyond 1.8e308" : takes(value) ? "" : wanted;
  judge(name, why && `${FIELDS[name]}: \u201c${text}\u201d ${why}.`);
  return why ? NaN : value;
}
function warn(compute) {
  const place = find("#warning"), faults = Object.values(refused).filter(Boolean);
  if (refused.exact) faults.push(`Shown is ${flops(compute)} FLOPs.`);
  place.className = faults.length > 0 || compute / page.fitted[1] > 10 ? "beyond" : "";
  place.textContent = [...faults, reach(compute)].join(" ");
}
// How far a compute lies from the runs, and what is to be trusted there.
function reach(compute) {
  const [low, high] = page.fitted;
  const beyond = compute / high;
  const times = trimmed(beyond.toPrecision(2));
  if (beyond > 100) return `Extrapolates ${times} times beyond the largest run: trust neither the point nor its interval, see isoflop predict.`;
  if (beyond > 10) return `Extrapolates ${times} times beyond the largest run: the interval does not cover a wrong form of the law, see isoflop predict.`;
  if (beyond > 1.001) return `${times} times beyond the largest run.`;
  if (compute < low * 0.999) return `Below the smallest run, by a factor ${(low / compute).toPrecision(2)}.`;
  return "Inside the range of the runs.";
}
function calculatorControls() {
  if (!page.calculator) return;
  const [slider, box] = [find("#budget"), find("#exact")];
  slider.addEventListener("input", () => aim(10 ** Number(slider.value)));
  box.addEventListener("change", () => {
    const text = box.value, [low, high] = range(givenQuantity());
    const value = read("exact", (typed) => typed >= low && typed <= high, `lies outside ${low.toExponential()} to ${high.toExponential()}, where this calculator ends`);
    if (isNaN(value)) return warn(signals.at);
    aim(value);
    box.value = text;
  });
  all("input[name='given']").forEach((radio) => radio.addEventListener("change", () =>
    aim(Number(find(`#best-${radio.value}`).dataset.value))));
  ["#price", "#speed"].forEach((id) => find(id).addEventListener("input", () => {
    price(signals.at);
    warn(signals.at);
  }));
  aim(page.fitted[1]);
}

find("#theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
media.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
window.addEventListener("beforeprint", () => {
  all("details").forEach((part) => { part.open = true; });
  setRamp("light");
});
window.addEventListener("afterprint", () => setRamp(root.dataset.theme));
chartControls();
window.ready = setTheme(media.matches ? "dark" : "light").then(calculatorControls).then(update).then(() => true);
