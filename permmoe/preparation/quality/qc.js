"use strict";
// The list of sessions on qc.html: filtered, a page at a time; a sheet is loaded when its session is opened.
const data = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("sessions");
const query = document.getElementById("query");
const modality = document.getElementById("modality");
const PAGE = 25;
const MOST_TEXTS = 4;
const NAMES = data.names;
const WORDS = { good: "good", look: "look at this", failed: "failed, left out" };
let first = 0;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const verdict = () => document.querySelector("input[name=verdict]:checked").value;

function isShown(session) {
  const wanted = verdict();
  const words = query.value.trim().toLowerCase();
  return (
    (!words || `${session.subject} ${session.session}`.toLowerCase().includes(words)) &&
    session.images.some(
      (image) =>
        (modality.value === "" || image.modality === modality.value) && (wanted === "" || image.verdict === wanted),
    )
  );
}

function drawing(measure, value, isFinding) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 160 26");
  svg.setAttribute("aria-hidden", "true");
  const most = Math.max(...measure.counts);
  const step = 160 / measure.counts.length;
  const add = (x, y, width, height, name) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, number] of Object.entries({ x, y, width, height })) bar.setAttribute(key, number.toFixed(2));
    bar.setAttribute("class", name);
    svg.append(bar);
  };
  measure.counts.forEach((count, k) => add(step * k, 24 - (20 * count) / most, step - 0.5, (20 * count) / most, "bar"));
  const share = Math.min(1, Math.max(0, (value - measure.low) / (measure.high - measure.low)));
  add(share * 157, 0, 3, 26, isFinding ? "mark found" : "mark");
  return svg;
}

function written(measure, value) {
  return value.toFixed(measure.digits) + (measure.unit ? ` ${measure.unit}` : "");
}

function table(image) {
  const found = new Set(image.findings.map(([, field]) => field));
  const rows = data.measures[image.modality]
    .filter((measure) => image.values[measure.field] !== null)
    .sort((a, b) => found.has(b.field) - found.has(a.field))
    .map((measure) => {
      const value = image.values[measure.field];
      const isFinding = found.has(measure.field);
      return element(
        "tr",
        isFinding ? { class: "found" } : {},
        element("th", { scope: "row" }, measure.title),
        element("td", {}, written(measure, value)),
        element("td", {}, drawing(measure, value, isFinding)),
        element("td", { class: "quiet" }, written(measure, measure.median)),
      );
    });
  const heads = ["", "this image", "among all images", "median"].map((text) => element("th", { scope: "col" }, text));
  return element(
    "table",
    {},
    element("caption", {}, NAMES[image.modality] ?? image.modality),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows),
  );
}

function filled(session) {
  const alt = `Slices of the images of ${session.subject}, session ${session.session}`;
  const picture = element("img", { src: session.sheet, alt });
  const link = element("a", { href: session.sheet, target: "_blank", rel: "noopener" }, picture);
  picture.addEventListener("error", () => link.replaceWith(element("p", {}, `The sheet is not at ${session.sheet}.`)));
  const numbers = element("details", { class: "numbers" }, element("summary", {}, "All figures"));
  numbers.append(element("div", { class: "tables" }, ...session.images.map(table)));
  return [link, numbers];
}

function shown(session) {
  const badges = session.images.map((image) =>
    element("span", { class: `badge ${image.verdict}` }, `${NAMES[image.modality] ?? image.modality}: ${WORDS[image.verdict]}`),
  );
  const findings = session.images
    .flatMap((image) => image.findings.map(([kind, , text]) => ({ kind, text, of: image.modality })))
    .sort((x, y) => (y.kind === "failed") - (x.kind === "failed"));
  const texts = findings
    .slice(0, MOST_TEXTS)
    .map(({ kind, text, of }) => element("li", { class: kind }, element("b", {}, `${NAMES[of] ?? of} `), text));
  if (findings.length > MOST_TEXTS) {
    texts.push(element("li", { class: "more" }, `and ${findings.length - MOST_TEXTS} more, in bold among all figures`));
  }
  const name = `${session.subject} · ${session.session}`;
  const button = element("button", { type: "button", class: "who", "aria-expanded": "false" }, name);
  const content = element("div", { class: "content" });
  content.hidden = true;
  button.addEventListener("click", () => {
    if (!content.hasChildNodes()) content.append(...filled(session));
    content.hidden = !content.hidden;
    button.setAttribute("aria-expanded", String(!content.hidden));
  });
  const head = element("h3", {}, button, ...badges);
  return element("article", { class: `session ${session.verdict}` }, head, element("ul", {}, ...texts), content);
}

function render() {
  const wanted = data.sessions.filter(isShown);
  first = Math.max(0, Math.min(first, PAGE * Math.floor((wanted.length - 1) / PAGE)));
  const last = Math.min(first + PAGE, wanted.length);
  list.replaceChildren(...wanted.slice(first, last).map(shown));
  const text = wanted.length ? `Sessions ${first + 1} to ${last} of ${wanted.length}` : "No session is like this.";
  for (const place of document.querySelectorAll(".place")) place.textContent = text;
  for (const button of document.querySelectorAll(".previous")) button.disabled = first === 0;
  for (const button of document.querySelectorAll(".next")) button.disabled = last === wanted.length;
}

function turn(by) {
  first += by * PAGE;
  render();
  list.scrollIntoView();
}

function step(by) {
  const heads = [...list.querySelectorAll("button.who")];
  const here = heads.indexOf(document.activeElement);
  heads[Math.max(0, Math.min(heads.length - 1, here + by))]?.focus();
}

document.getElementById("filters").addEventListener("input", () => {
  first = 0;
  render();
});
for (const button of document.querySelectorAll(".previous")) button.addEventListener("click", () => turn(-1));
for (const button of document.querySelectorAll(".next")) button.addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select")) return;
  const done = { j: () => step(1), k: () => step(-1), "/": () => query.focus() }[event.key];
  if (done) {
    event.preventDefault();
    done();
  }
});
render();
