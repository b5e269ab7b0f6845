// Pictures on canvases, and drawing on them by pointer and by keys.

let colors = {};

function readColors() { // the colors of the scheme, light or dark, as [red, green, blue]
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "hidden", "stripe", "wrong", "grid", "plus", "minus", "accent"]) {
    const text = style.getPropertyValue(`--${name}`).trim();
    colors[name] = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  }
}

const blend = (from, to, share) => from.map((value, i) => value + (to[i] - value) * share);
const css = (color) => `rgb(${color.map(Math.round).join(",")})`;

// Paint columns x rows cells, one pixel of the canvas each; `colorOf(i)` is that of cell i.
function paintCells(canvas, columns, rows, colorOf) {
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  for (let i = 0; i < columns * rows; i++) image.data.set([...colorOf(i), 255], 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A picture with entries in [0, 1]; where `target` is given, wrong pixels are orange: light where ink is missing.
function paintPicture(canvas, picture, target = null) {
  paintCells(canvas, MACHINE.width, MACHINE.height, (i) => {
    if (target && picture[i] !== target[i]) return picture[i] ? colors.wrong : blend(colors.paper, colors.wrong, 0.6);
    return blend(colors.paper, colors.ink, picture[i]);
  });
}

function pictureCanvas(picture, label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  paintPicture(canvas, picture);
  return canvas;
}

const CELL = 10; // canvas pixels of a picture's pixel, where one draws
const RADIUS = 1.25; // of the brush, in the picture's pixels

// A canvas to draw on. `brush(i)` changes pixel i, `colorOf(i)` shows it, and `ended()` follows each stroke.
class Editor {
  constructor(canvas, label, brush, colorOf, ended) {
    Object.assign(this, { canvas, brush, colorOf, ended, label });
    this.context = canvas.getContext("2d");
    this.cursor = { x: (MACHINE.width >> 1) + 0.5, y: (MACHINE.height >> 1) + 0.5 };
    this.last = null;
    this.strokeTime = 0; // milliseconds of all handlers of the last stroke
    canvas.width = CELL * MACHINE.width;
    canvas.height = CELL * MACHINE.height;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "drawing");
    canvas.setAttribute("aria-label", `${label}. The arrows move the cursor, the space bar draws.`);
    canvas.addEventListener("pointerdown", (event) => this.timed(() => this.begin(event)));
    canvas.addEventListener("pointermove", (event) => this.timed(() => this.draw(event)));
    canvas.addEventListener("pointerup", () => this.timed(() => this.end()));
    canvas.addEventListener("pointercancel", () => this.timed(() => this.end()));
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.paint());
  }

  timed(action) {
    const start = performance.now();
    action();
    this.strokeTime += performance.now() - start;
  }

  place(event) { // in the picture's pixels
    const box = this.canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width * MACHINE.width,
      y: (event.clientY - box.top) / box.height * MACHINE.height,
    };
  }

  begin(event) {
    if (event.button > 0) return;
    this.strokeTime = 0;
    if (event.isTrusted) this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.line(this.last, this.last);
  }

  draw(event) {
    if (!this.last) return;
    const place = this.place(event);
    this.line(this.last, place);
    this.last = place;
  }

  end() {
    if (!this.last) return;
    this.last = null;
    this.ended();
  }

  line(from, to) { // every pixel near the line
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to.x - from.x, to.y - from.y)));
    for (let s = 0; s <= steps; s++) {
      const x = from.x + (to.x - from.x) * s / steps, y = from.y + (to.y - from.y) * s / steps;
      for (let row = Math.floor(y - RADIUS); row <= y + RADIUS; row++) {
        for (let column = Math.floor(x - RADIUS); column <= x + RADIUS; column++) {
          const near = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= RADIUS;
          const inside = row >= 0 && row < MACHINE.height && column >= 0 && column < MACHINE.width;
          if (!near || !inside) continue;
          this.brush(row * MACHINE.width + column);
          this.paintPixel(row * MACHINE.width + column);
        }
      }
    }
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === " " || event.key === "Enter") {
      this.line(this.cursor, this.cursor);
      this.ended();
    } else if (moves[event.key]) {
      const [x, y] = moves[event.key];
      this.moveCursor(Math.floor(this.cursor.x) + x, Math.floor(this.cursor.y) + y);
      say(`${this.label}, column ${Math.floor(this.cursor.x) + 1}, row ${Math.floor(this.cursor.y) + 1}`);
    } else {
      return;
    }
    event.preventDefault();
  }

  moveCursor(column, row) { // to the middle of a pixel
    this.cursor.x = Math.min(MACHINE.width - 1, Math.max(0, column)) + 0.5;
    this.cursor.y = Math.min(MACHINE.height - 1, Math.max(0, row)) + 0.5;
    this.paint();
  }

  paint() {
    for (let i = 0; i < N; i++) this.paintPixel(i);
    if (!this.canvas.matches(":focus-visible")) return; // the cursor, for those who draw with keys
    this.context.lineWidth = 3;
    this.context.strokeStyle = css(colors.wrong);
    this.context.strokeRect(CELL * (this.cursor.x - 0.5), CELL * (this.cursor.y - 0.5), CELL, CELL);
  }

  paintPixel(i) {
    const { context } = this, color = this.colorOf(i);
    const x = CELL * (i % MACHINE.width), y = CELL * Math.floor(i / MACHINE.width);
    context.fillStyle = css(colors.grid);
    context.fillRect(x, y, CELL, CELL);
    context.fillStyle = css(color);
    context.fillRect(x, y, CELL - 1, CELL - 1);
    if (color === colors.hidden) { // stripes: hidden pixels differ not by color alone
      context.fillStyle = css(colors.stripe);
      context.fillRect(x, y + 3, CELL - 1, 3);
    }
  }
}

// The energy of every step as a curve; `now` is the step that is shown.
function plotEnergy(svg, energies, now, label) {
  const [width, height, left, bottom] = [320, 150, 56, 22];
  const low = Math.min(...energies), high = Math.max(...energies), range = Math.max(high - low, 1);
  const x = (n) => left + (width - left - 10) * n / Math.max(1, energies.length - 1);
  const y = (energy) => 10 + (height - bottom - 20) * (high - energy) / range;
  const points = energies.map((energy, n) => `${x(n)},${y(energy)}`).join(" ");
  const dots = energies.map((energy, n) =>
    `<circle class="${n === now ? "now" : ""}" cx="${x(n)}" cy="${y(energy)}" r="${n === now ? 5 : 3.5}"/>`).join("");
  const ticks = energies.map((_, n) =>
    n % 2 ? "" : `<text x="${x(n)}" y="${height - 4}" text-anchor="middle">${n}</text>`).join("");
  const levels = [high, ...(high - low > 0.1 ? [low] : [])].map((energy) =>
    `<text x="${left - 10}" y="${y(energy) + 4}" text-anchor="end">${energy.toFixed(1)}</text>`).join("");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "xMinYMid");
  svg.setAttribute("aria-label", label);
  svg.innerHTML = `<path class="axis" d="M${left - 5},5 V${height - bottom} H${width}"/>` +
    `<polyline class="curve" points="${points}"/>${dots}${ticks}${levels}`;
}
