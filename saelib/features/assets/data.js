"use strict";
// Data arrives as scripts, which a page from disk may load; each calls `received` with its name and content.
const about = JSON.parse(document.getElementById("about").textContent);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const KEPT = 60; // scripts' contents in memory
const contents = new Map(); // name -> promise of the content; the one that was asked for last is the last
const waiting = new Map(); // name -> function that takes the content

function received(name, content) {
  waiting.get(name)?.(content);
}

function load(name) {
  const known = contents.get(name);
  contents.delete(name);
  contents.set(name, known ?? new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(name, resolve);
    const done = () => {
      script.remove();
      if (waiting.delete(name)) reject(new Error(`data/${name}.js could not be read`)); // nothing, if it has resolved
    };
    script.addEventListener("load", done);
    script.addEventListener("error", () => { contents.delete(name); done(); });
    script.src = `data/${name}.js`;
    document.head.append(script);
  }));
  if (contents.size > KEPT) contents.delete(contents.keys().next().value);
  return contents.get(name);
}

/** An element with text or other elements inside. Text never becomes markup. */
function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function percent(rate) {
  if (rate === 0) return "0%";
  return rate < 0.0001 ? "<0.01%" : `${(100 * rate).toFixed(rate < 0.1 ? 2 : 1)}%`;
}

const short = (value) => (value === null ? "" : value.toPrecision(3).replace(/^(-?[\d.]+)e\+?(-?\d+)$/, "$1·10^$2"));

/** An F1, which is from 0 to 1, with as many decimals in every row. */
const fixed = (value) => value.toFixed(2);

/** Sums of steps: [3, 1, 1] -> [3, 4, 5]. */
function summed(steps) {
  let place = 0;
  return steps.map((step) => (place += step));
}
