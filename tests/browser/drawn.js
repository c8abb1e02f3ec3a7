// What the first case of a report shows, for test_report_in_browser.py.
const root = document.querySelector(".case");
const opaqueColours = (canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3] === 255) colours.add(pixels.slice(i, i + 3).join());
  }
  return colours.size;
};
return {
  plots: [...root.querySelectorAll(".plot")].map((plot) => [
    plot.dataset.figure,
    plot.querySelectorAll(".scatterlayer .trace").length,
    plot.querySelectorAll("path.js-line, path.point").length,
  ]),
  canvases: [...root.querySelectorAll("canvas")].map((canvas) => [
    Number(canvas.dataset.drawn),
    opaqueColours(canvas),
    canvas.width,
  ]),
  resources: performance.getEntriesByType("resource").map((entry) => entry.name),
  wider: document.documentElement.scrollWidth - window.innerWidth,
};
