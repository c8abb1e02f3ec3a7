// Uses every control of a report's first case, for test_report_in_browser.py.
const root = document.querySelector(".case");
const control = (name) => root.querySelector(`.timeline .${name}`);
const set = (element, value) => {
  element.value = value;
  element.dispatchEvent(new Event("change"));
};
const drawn = () => [...root.querySelectorAll("canvas")].map((canvas) => Number(canvas.dataset.drawn));

const headings = [...root.querySelectorAll("thead th")];
const column = headings.findIndex((heading) => heading.textContent.startsWith("short queue p99"));
const sorted = ["up", "down"].map(() => {
  headings[column].querySelector("button").click();
  return [...root.querySelectorAll("tbody th")].map((cell) => cell.textContent);
});

const all = drawn();
set(control("from"), 20);
set(control("to"), 40);
const zoomed = drawn();

const canvas = root.querySelector("canvas");
canvas.setPointerCapture = () => {};
const box = canvas.getBoundingClientRect();
const point = (type, share) => {
  const clientX = box.left + 88 + share * (box.width - 88);
  canvas.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX, clientY: box.top + 5 }));
};
point("pointerdown", 0.25);
point("pointermove", 0.5);
const tip = root.querySelector(".tip").textContent;
point("pointerup", 0.5);
const dragged = ["from", "to"].map((name) => Number(control(name).value));
set(control("second"), "");
const single = drawn().length;

const ttft = root.querySelector('[data-figure="ttft"]');
root.querySelector(".policies button").click();
const lines = ttft.querySelectorAll("path.js-line").length;
set(root.querySelector(".axis"), "tail");
const tail = ttft.layout.yaxis.type;

document.querySelectorAll(".tabs button")[1].click();
const cases = [...document.querySelectorAll(".case")].map((other) => !other.hidden);
const background = () => getComputedStyle(document.body).backgroundColor;
const before = background();
document.getElementById("theme").click();
return { sorted, all, zoomed, tip, dragged, single, lines, tail, cases, themes: [before, background()] };
