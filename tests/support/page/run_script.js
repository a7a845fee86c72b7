// Runs page.js without a browser: a document that makes elements as they are asked for, and a vegaEmbed that remembers.
// Reads a line of JSON, { script, page, lists, absent, dark, steps }, from standard input at a time; prints a line for
// each: { values } of the steps, or the { error }.
"use strict";
const fs = require("fs"), readline = require("readline"), vm = require("vm");
const plain = (key, value) => (typeof value === "number" && !isFinite(value) ? String(value) : typeof value === "function" ? undefined : value);

async function answer(given) {
  const elements = {}, views = {}, specs = [], media = { matches: given.dark, listeners: {} }, windowListeners = {};
  function element(selector, fields = {}) {
    const listeners = {};
    return {
      selector, dataset: {}, attributes: {}, textContent: "", className: "", value: "", listeners, ...fields,
      addEventListener: (type, run) => { (listeners[type] ||= []).push(run); },
      setAttribute(name, value) { this.attributes[name] = value; },
      querySelector: (inner) => found(`${selector} ${inner}`),
    };
  }
  function found(selector) {
    if (given.absent.includes(selector)) return null;
    if (selector.endsWith(":checked")) return listed(selector)[0];
    return elements[selector] ||= element(selector, given.elements[selector]);
  }
  const lists = {};
  function listed(selector) {
    if (selector.endsWith(":checked")) return listed(selector.slice(0, -8)).filter((one) => one.checked);
    return lists[selector] ||= (given.lists[selector] || []).map((fields, i) => element(`${selector} ${i}`, fields));
  }
  function vegaEmbed(slot, spec, options) {
    const view = {
      signals: {}, sent: 0, ran: 0,
      signal(name, value) { this.signals[name] = value; this.sent += 1; return this; },
      run() { this.ran += 1; return this; },
      runAsync() { this.ran += 1; return Promise.resolve(); },
      addSignalListener(name, run) {
        if (spec.brushless) throw new Error("no brush");
        this.brush = run;
      },
    };
    views[slot.dataset.chart] = view;
    specs.push({ chart: slot.dataset.chart, spec, options });
    return Promise.resolve({ view });
  }
  const root = element("html");
  const document = {
    documentElement: root, querySelector: found, querySelectorAll: listed,
    getElementById: () => ({ textContent: JSON.stringify(given.page) }),
  };
  const window = {
    matchMedia: () => ({ get matches() { return media.matches; }, addEventListener: (type, run) => { media.listeners[type] = run; } }),
    addEventListener: (type, run) => { windowListeners[type] = run; },
  };
  function fire(selector, type, more = {}) {
    const one = more.at === undefined ? found(selector) : listed(selector)[more.at];
    Object.assign(one, more);
    return Promise.all((one.listeners[type] || []).map((run) => run({ target: one })));
  }
  const context = vm.createContext({ document, window, vegaEmbed, console,
    test: { elements, views, specs, root, media, windowListeners, fire, listed, found } });
  vm.runInContext(fs.readFileSync(given.script, "utf8"), context, { timeout: 5000 });
  await window.ready;
  const values = [];
  for (const step of given.steps) values.push((await vm.runInContext(step, context, { timeout: 5000 })) ?? null);
  return { values };
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const told = await answer(JSON.parse(line)).catch((error) => ({ error: String(error?.stack ?? error) }));
    process.stdout.write(`${JSON.stringify(told, plain)}\n`);
  }
})();
