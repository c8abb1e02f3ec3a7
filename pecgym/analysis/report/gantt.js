"use strict";

/** Seconds as text, with as many digits as a window of `span` seconds needs. */
function timeText(seconds, span) {
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(span))));
  return `${seconds.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} s`;
}

/** Round numbers in [from, to], about `count` of them. */
function roundSteps(from, to, count) {
  const raw = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const steps = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) steps.push(i * step);
  return steps;
}

/** The timeline of one run on a canvas: a line per replica, time from left to right. */
class Gantt {
  static LABEL_PX = 88;
  static AXIS_PX = 24;
  static NODE_GAP_PX = 7;

  /** payload: as curves.timeline_payload makes it. onZoom(from, to): the reader has dragged over a window. */
  constructor(parent, policy, payload, kinds, firstLongKind, colour, onZoom) {
    Object.assign(this, { payload, kinds, firstLongKind, colour, onZoom });
    this.lines = payload.slices.map((ticks) => {
      let at = 0;
      return Float64Array.from(ticks, (tick) => (at += tick) * payload.tick_s);
    });
    const n = this.lines.length;
    this.nodes = Math.ceil(n / payload.replicasPerNode);
    this.rowPx = Math.max(3, Math.min(26, Math.floor(420 / n)));
    this.heightPx = n * this.rowPx + (this.nodes - 1) * Gantt.NODE_GAP_PX + Gantt.AXIS_PX;
    this.element = document.createElement("div");
    this.element.className = "gantt";
    const heading = document.createElement("h3");
    const resolution = payload.resolution_s ? ` · slices below ${payload.resolution_s} s are put together` : "";
    heading.textContent = policy;
    heading.append(Object.assign(document.createElement("small"), { textContent: resolution }));
    this.canvas = document.createElement("canvas");
    this.canvas.style.height = `${this.heightPx}px`;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `what ${n} replicas did over time under ${policy}`);
    this.element.append(heading, this.canvas);
    parent.append(this.element);
    this.#listen();
  }

  /** Draws the window [from, to), seconds. */
  draw(from, to) {
    const scale = window.devicePixelRatio || 1;
    const width = this.element.clientWidth;
    Object.assign(this, { from, to, widthPx: width });
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(this.heightPx * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const colours = this.kinds.map((_, kind) => this.colour(`--kind${kind}`));
    const inks = this.kinds.map((_, kind) => this.colour(`--on${kind}`));
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    let drawn = 0;
    this.lines.forEach((_, replica) => {
      pen.fillStyle = this.colour("--track");
      pen.fillRect(Gantt.LABEL_PX, this.#top(replica), width - Gantt.LABEL_PX, this.#barPx());
      drawn += this.#drawReplica(pen, replica, colours, inks);
    });
    this.#drawLabels(pen);
    this.#drawAxis(pen);
    this.canvas.dataset.drawn = drawn;
  }

  #barPx() {
    return this.rowPx > 6 ? this.rowPx - 2 : this.rowPx;
  }

  #top(replica) {
    return replica * this.rowPx + Math.floor(replica / this.payload.replicasPerNode) * Gantt.NODE_GAP_PX;
  }

  #x(seconds) {
    return Gantt.LABEL_PX + ((seconds - this.from) / (this.to - this.from)) * (this.widthPx - Gantt.LABEL_PX);
  }

  #seconds(x) {
    return this.from + ((x - Gantt.LABEL_PX) / (this.widthPx - Gantt.LABEL_PX)) * (this.to - this.from);
  }

  /** The first slice of a replica that ends after a time. */
  #firstAfter(line, seconds) {
    let low = 0;
    let high = line.length / 2;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (line[2 * middle + 1] > seconds) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Thick slices as bars, thin ones as shares of their pixel column. */
  #drawReplica(pen, replica, colours, inks) {
    const line = this.lines[replica];
    const kinds = this.payload.kinds[replica];
    const top = this.#top(replica);
    const bar = this.#barPx();
    const columns = new Map();
    const labels = [];
    let drawn = 0;
    for (let i = this.#firstAfter(line, this.from); 2 * i < line.length && line[2 * i] < this.to; i++, drawn++) {
      const kind = Number(kinds[i]);
      const left = Math.max(this.#x(line[2 * i]), Gantt.LABEL_PX);
      const right = Math.min(this.#x(line[2 * i + 1]), this.widthPx);
      if (right - left >= 1.5) {
        pen.fillStyle = colours[kind];
        pen.fillRect(left, top, right - left, bar);
        if (kind >= this.firstLongKind && bar >= 12) labels.push([left, right, kind, `#${this.payload.rows[replica][i]}`]);
        continue;
      }
      for (let at = Math.floor(left); at < right; at++) {
        if (!columns.has(at)) columns.set(at, new Float64Array(this.kinds.length));
        columns.get(at)[kind] += Math.min(right, at + 1) - Math.max(left, at);
      }
    }
    for (const [at, shares] of columns) {
      let bottom = top + bar;
      shares.forEach((share, kind) => {
        if (!share) return;
        const height = Math.min(share, 1) * bar;
        pen.fillStyle = colours[kind];
        pen.fillRect(at, bottom - height, 1, height);
        bottom -= height;
      });
    }
    for (const [left, right, kind, text] of labels) {
      if (pen.measureText(text).width + 6 > right - left) continue;
      pen.fillStyle = inks[kind];
      pen.fillText(text, left + 3, top + bar / 2 + 0.5);
    }
    return drawn;
  }

  #drawLabels(pen) {
    pen.fillStyle = this.colour("--faint");
    pen.textAlign = "left";
    if (this.rowPx >= 12) {
      this.lines.forEach((_, replica) => pen.fillText(`replica ${replica}`, 30, this.#top(replica) + this.#barPx() / 2));
    }
    for (let node = 0; node < this.nodes; node++) {
      const first = node * this.payload.replicasPerNode;
      const last = Math.min(first + this.payload.replicasPerNode, this.lines.length) - 1;
      const [top, bottom] = [this.#top(first), this.#top(last) + this.#barPx()];
      pen.fillStyle = this.colour("--line");
      pen.fillRect(this.rowPx >= 12 ? 22 : 60, top, 2, bottom - top);
      pen.save();
      pen.fillStyle = this.colour("--ink");
      pen.textAlign = "center";
      pen.translate(this.rowPx >= 12 ? 10 : 40, (top + bottom) / 2);
      if (this.rowPx >= 12) pen.rotate(-Math.PI / 2);
      pen.fillText(`node ${node}`, 0, 0, this.rowPx >= 12 ? bottom - top : undefined);
      pen.restore();
    }
  }

  #drawAxis(pen) {
    const bottom = this.heightPx - Gantt.AXIS_PX + 3;
    pen.textAlign = "center";
    for (const tick of roundSteps(this.from, this.to, Math.max(2, this.widthPx / 130))) {
      const x = this.#x(tick);
      pen.fillStyle = this.colour("--line");
      pen.fillRect(x, bottom, 1, 4);
      pen.fillStyle = this.colour("--faint");
      if (x < this.widthPx - 24) pen.fillText(timeText(tick, this.to - this.from), x, bottom + 12);
    }
    pen.textAlign = "left";
  }

  /** What stands in the tip at a place of the canvas; empty over labels and gaps. */
  describe(x, y) {
    const replica = this.lines.findIndex((_, r) => y >= this.#top(r) && y < this.#top(r) + this.rowPx);
    if (replica < 0 || x < Gantt.LABEL_PX) return "";
    const line = this.lines[replica];
    const [now, until] = [this.#seconds(x), this.#seconds(x + 1)];
    const span = this.to - this.from;
    const first = this.#firstAfter(line, now);
    const seconds = new Float64Array(this.kinds.length);
    let count = 0;
    for (let i = first; 2 * i < line.length && line[2 * i] < until; i++, count++) {
      seconds[this.payload.kinds[replica][i]] += Math.min(line[2 * i + 1], until) - Math.max(line[2 * i], now);
    }
    const place = `replica ${replica}, ${timeText(now, span)}`;
    if (!count) return `${place}\nidle`;
    if (count > 1) {
      const shares = this.kinds.map((name, kind) => [seconds[kind] / (until - now), name]).filter(([share]) => share);
      return [place, ...shares.map(([share, name]) => `${(100 * share).toFixed(0)}% ${name}`)].join("\n");
    }
    const row = this.payload.rows[replica][first];
    const [start, end] = [line[2 * first], line[2 * first + 1]];
    const what = this.kinds[this.payload.kinds[replica][first]] + (row >= 0 ? `, request ${row}` : "");
    return `${place}\n${what}\n${timeText(start, span)} to ${timeText(end, span)} (${timeText(end - start, end - start)})`;
  }

  #listen() {
    const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    const brush = Object.assign(document.createElement("div"), { className: "brush", hidden: true });
    this.element.append(tip, brush);
    let began = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [Math.max(Gantt.LABEL_PX, Math.min(event.clientX - box.left, box.width)), event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      began = place(event)[0];
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (began !== null) {
        brush.hidden = false;
        brush.style.cssText = `left:${Math.min(began, x)}px;width:${Math.abs(x - began)}px;top:${this.canvas.offsetTop}px;height:${this.heightPx - Gantt.AXIS_PX}px`;
      }
      tip.textContent = this.describe(event.clientX - this.canvas.getBoundingClientRect().left, y);
      tip.hidden = !tip.textContent;
      const right = event.clientX > window.innerWidth - 260;
      tip.style.cssText = `top:${event.clientY + 14}px;` + (right ? `right:${window.innerWidth - event.clientX + 12}px` : `left:${event.clientX + 12}px`);
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const x = place(event)[0];
      if (began !== null && Math.abs(x - began) > 4) this.onZoom(this.#seconds(Math.min(began, x)), this.#seconds(Math.max(began, x)));
      began = null;
      brush.hidden = true;
    });
    this.canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    this.canvas.addEventListener("dblclick", () => this.onZoom(0, Infinity));
  }
}
