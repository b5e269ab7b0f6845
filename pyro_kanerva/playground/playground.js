// The page: what the student has written and chosen, and how it is shown.

const LETTERS = MACHINE.patterns.map(toPattern);
const EMPTY = new Memory();
const STEPS = 10;
const NUMBER_BYTES = 4; // a number of 32 bits
const $ = (id) => document.getElementById(id);

const state = {
  drawing: new Float64Array(N),
  memory: EMPTY,
  stored: [], // { pattern, wrong }, in the order of the memory's records
  chosen: -1, // in stored
  target: null, // the picture that the cue is a damaged copy of
  cue: new Float64Array(N),
  visible: null, // null: every pixel; else true for each pixel that is not hidden
  seed: 1,
  step: STEPS,
  right: null, // what query() returned, for the memory and for the empty one
  empty: null,
  start: null, // of the walk, and its end
  end: null,
  nextLetter: 8, // the first that "Write 8 more" has not written
};
const times = { stroke: 0, query: 0 };
let recallTimer = 0, playTimer = 0;

function toPattern(bits) {
  return Float64Array.from(bits, Number);
}

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const wrongPixels = (pattern, target) => pattern.reduce((sum, value, i) => sum + (value === target[i] ? 0 : 1), 0);
const noiseLevel = () => Number($("noise").value) / 100;
const selected = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const press = (id, on) => $(id).setAttribute("aria-pressed", String(on));

function say(text) {
  $("status").textContent = text;
}

// ---- the memory ----

function writePatterns(patterns) {
  state.memory = state.memory.write(patterns);
  state.stored.push(...patterns.map((pattern) => ({ pattern: pattern.slice(), wrong: null })));
  memoryChanged();
}

function writeDrawing() {
  if (!state.drawing.some(Boolean)) {
    say("The picture is empty. Draw something or choose a picture first.");
    return;
  }
  writePatterns([state.drawing]);
  choose(state.stored.length - 1);
  say(`Written. The memory now holds ${count(state.stored.length, "picture")} in ${K} slots.`);
}

function writeMore(number) {
  const patterns = LETTERS.slice(state.nextLetter, state.nextLetter + number);
  if (!patterns.length) {
    say("All pictures of the page are written. Draw some more yourself, or empty the memory.");
    return;
  }
  state.nextLetter += patterns.length;
  writePatterns(patterns);
  if (state.chosen < 0) choose(0);
  const over = state.stored.length > K ? " There are more pictures than slots: recall every picture to see what that costs." : "";
  say(`${count(patterns.length, "picture")} written. The memory now holds ${state.stored.length} in ${K} slots.${over}`);
}

function eraseChosen() { // Memory.erase of the record that holds the chosen picture
  if (state.chosen < 0) {
    say("Choose a picture in the memory first.");
    return;
  }
  let record = 0, pattern = state.chosen;
  while (pattern >= state.memory.records[record].codes.length) pattern -= state.memory.records[record++].codes.length;
  state.memory = state.memory.erase(record, pattern);
  const [gone] = state.stored.splice(state.chosen, 1);
  state.chosen = -1;
  for (const end of ["start", "end"]) if (state[end] === gone.pattern) state[end] = null;
  memoryChanged();
  recallNow(); // of the same cue
  say(`Erased. The memory no longer holds the picture: ${resultText()} The cue is the same as before.`);
}

function emptyMemory() {
  Object.assign(state, { memory: EMPTY, stored: [], chosen: -1, nextLetter: 0, start: null, end: null });
  memoryChanged();
  scheduleRecall();
  say("The memory is empty. It knows what pictures look like in general, and holds none.");
}

function memoryChanged() {
  state.stored.forEach((one) => { one.wrong = null; });
  $("all-result").textContent = "";
  showStored();
  showMemory();
  showMorph();
  scheduleRecall();
}

// ---- the cue ----

function choose(index) {
  state.chosen = index;
  state.target = state.stored[index].pattern;
  state.start ||= state.target;
  if (state.target !== state.start) state.end ||= state.target;
  showStored();
  restore();
  addNoise();
  showMorph();
}

function restore() {
  state.visible = null;
  state.cue = (state.target || state.drawing).slice();
  cueChanged();
}

function addNoise() {
  state.cue = new SaltAndPepper(noiseLevel()).damage(state.target || state.drawing, randomGenerator(state.seed++));
  cueChanged();
}

function hide(isHidden) {
  state.visible = Array.from({ length: N }, (_, i) => {
    const hidden = isHidden(Math.floor(i / MACHINE.width), i % MACHINE.width);
    return !hidden && (!state.visible || state.visible[i]);
  });
  cueChanged();
}

function brushCue(i) {
  const brush = ["ink", "wipe", "hide"].find((name) => $(`brush-${name}`).getAttribute("aria-pressed") === "true");
  if (brush === "hide") {
    state.visible ||= Array(N).fill(true);
    state.visible[i] = false;
    return;
  }
  state.cue[i] = brush === "ink" ? 1 : 0;
  if (state.visible) state.visible[i] = true;
}

function cueChanged() {
  cueEditor.paint();
  scheduleRecall();
}

// ---- recall ----

function scheduleRecall() {
  clearTimeout(recallTimer);
  recallTimer = setTimeout(() => {
    recallNow();
    if (state.target) say(resultText());
  }, 30);
}

function energyFor(memory) {
  const energy = selected("energy") === "point"
    ? pointEnergy()
    : variationalEnergy(memory, drawDeviations(memory, 2, randomGenerator(0)));
  const channel = selected("channel") === "noise" ? new SaltAndPepper(noiseLevel()) : null;
  const visible = state.visible && state.visible.includes(false) ? state.visible : null;
  return new QueryEnergy(memory, state.cue, channel, visible, energy);
}

function recallNow() {
  clearTimeout(recallTimer);
  const start = performance.now();
  state.right = query(energyFor(state.memory), STEPS);
  times.query = performance.now() - start;
  state.empty = query(energyFor(EMPTY), STEPS);
  state.step = STEPS;
  showTimes();
  showRecall();
}

function resultText() {
  const wrong = (result) => wrongPixels(result.patterns[STEPS], state.target);
  return `After ${STEPS} steps the memory gets ${wrong(state.right)} of ${N} pixels wrong; ` +
    `the empty memory gets ${wrong(state.empty)} wrong, the cue ${wrongPixels(state.cue, state.target)}.`;
}

function baselines(cue, visible) {
  const all = state.stored.map((one) => one.pattern), fits = Math.max(1, Math.floor(K * C / N));
  const flip = noiseLevel() / 2, bytes = (patterns) => (patterns.length * N * NUMBER_BYTES).toLocaleString("en");
  const some = all.slice(0, fits);
  return [
    {
      name: "Hopfield network", pattern: hopfield(all, cue, visible, flip),
      text: `${bytes(all)} bytes: ${count(all.length, "picture")}, a number for each pixel`,
    },
    {
      name: "Hopfield network, same size", pattern: hopfield(some, cue, visible, flip),
      text: `${bytes(some)} bytes: only the first ${count(some.length, "picture")} fit`,
    },
    {
      name: "Lookup table", pattern: nearestPattern(all, cue, visible),
      text: `${(all.length * Math.ceil(N / 8)).toLocaleString("en")} bytes: every picture, a bit for each pixel; the nearest one`,
    },
  ];
}

function recallAll() { // every stored picture, from a cue with new noise
  let index = 0;
  const totals = { memory: 0, cue: 0, hopfield: 0, fits: 0, table: 0 }, channel = new SaltAndPepper(noiseLevel());
  const next = () => {
    const one = state.stored[index];
    if (!one || state.stored.length !== number) return;
    const cue = channel.damage(one.pattern, randomGenerator(1000 + index));
    const result = query(new QueryEnergy(state.memory, cue, channel, null, pointEnergy()), STEPS);
    const others = baselines(cue, null);
    one.wrong = wrongPixels(result.patterns[STEPS], one.pattern);
    totals.memory += one.wrong;
    totals.cue += wrongPixels(cue, one.pattern);
    ["hopfield", "fits", "table"].forEach((name, i) => { totals[name] += wrongPixels(others[i].pattern, one.pattern); });
    index += 1;
    $("all-result").textContent = `Recalling ${index} of ${number} …`;
    if (index < number) {
      setTimeout(next);
      return;
    }
    const mean = (total) => (total / number).toFixed(1);
    const text = `Wrong pixels of ${N}, mean of ${count(number, "picture")} in ${K} slots: cue ${mean(totals.cue)}, ` +
      `memory ${mean(totals.memory)}, Hopfield network ${mean(totals.hopfield)}, ` +
      `Hopfield network of the memory's size ${mean(totals.fits)}, lookup table ${mean(totals.table)}.`;
    $("all-result").textContent = `${text} The number under each picture above is that of the memory.`;
    say(text);
    showStored();
  };
  const number = state.stored.length;
  if (number) next();
  else say("The memory is empty. Write pictures first.");
}

// ---- what is shown ----

function thumbnail(picture, label, pressed, action, note = "") {
  const button = document.createElement("button");
  button.setAttribute("aria-label", label + (note ? `, ${note}` : ""));
  if (pressed !== null) button.setAttribute("aria-pressed", String(pressed));
  const canvas = pictureCanvas(picture, "");
  canvas.setAttribute("aria-hidden", "true");
  button.append(canvas, note.replace(/ .*/, ""));
  button.addEventListener("click", action);
  return button;
}

function still(picture, label) {
  const figure = document.createElement("figure");
  figure.append(pictureCanvas(picture, label));
  return figure;
}

function showLetters() {
  $("letters").replaceChildren(...LETTERS.map((letter, i) => thumbnail(letter, `Picture ${i + 1}`, null, () => {
    state.drawing = letter.slice();
    drawingEditor.paint();
    say(`Picture ${i + 1} is on the drawing board. Write it into the memory.`);
  })));
}

function showStored() {
  const focused = [...$("stored").children].indexOf(document.activeElement);
  $("stored").dataset.empty = "Nothing is written yet.";
  $("stored").replaceChildren(...state.stored.map(({ pattern, wrong }, i) => thumbnail(
    pattern, `Stored picture ${i + 1}`, i === state.chosen,
    () => choose(i), wrong === null ? "" : `${wrong} pixels wrong`,
  )));
  $("stored").children[focused]?.focus();
  $("count").textContent = `${count(state.stored.length, "picture")} in ${K} slots`;
}

function showMemory() {
  const { loc, covariance } = state.memory.posterior, variance = diagonal(covariance);
  const largest = 2.5 * Math.sqrt(sumOf(loc.map((value) => value * value)) / loc.length);
  paintCells($("matrix"), C, K, (i) => {
    const share = Math.min(1, Math.abs(loc[i]) / largest);
    return blend(colors.paper, loc[i] > 0 ? colors.plus : colors.minus, share);
  });
  $("matrix").setAttribute("aria-label", `Memory matrix of ${K} slots by ${C} numbers`);
  const scales = variance.map((value) => 0.5 * Math.log(value)), prior = diagonal(PRIOR_MEMORY.covariance);
  const high = Math.max(...prior.map((value) => 0.5 * Math.log(value))), low = Math.min(Math.log(MACHINE.code_scale) - 2, ...scales);
  paintBars($("uncertainty"), scales.map((value) => (value - low) / (high - low)), colors.ink);
  const certain = variance.filter((value, k) => value < 0.1 * prior[k]).length;
  $("uncertainty").setAttribute("aria-label", `Uncertainty of each slot. ${certain} of ${K} slots are certain.`);
  $("slots").replaceChildren(...state.memory.slots.map((logits, k) => still(logits.map(sigmoid), `Slot ${k + 1}`)));
}

function paintBars(canvas, lengths, color) { // one bar for each slot
  const columns = 60;
  paintCells(canvas, columns, K * 4, (i) => {
    const row = Math.floor(i / columns), share = lengths[row >> 2];
    return row % 4 < 3 && i % columns < share * columns ? color : colors.paper;
  });
}

function showRecall() {
  const { right, empty, step, target } = state;
  const cards = [
    { name: "The memory", pattern: right.patterns[step], text: `${memoryBytes().toLocaleString("en")} bytes, step ${step}`, main: true },
    { name: "Empty memory (the control)", pattern: empty.patterns[step], text: `the same cue, step ${step}` },
    ...baselines(state.cue, state.visible),
  ];
  $("cards").replaceChildren(...cards.map(({ name, pattern, text, main }) => {
    const card = document.createElement("div"), title = document.createElement("b"), note = document.createElement("div");
    card.className = main ? "card right" : "card";
    title.textContent = name;
    note.textContent = text;
    card.append(title);
    if (!pattern) {
      note.textContent = "It holds no picture.";
    } else {
      const result = target ? `${wrongPixels(pattern, target)} of ${N} pixels wrong` : "";
      const canvas = pictureCanvas(pattern, `${name}: ${result}`), line = document.createElement("strong");
      paintPicture(canvas, pattern, target);
      line.textContent = result;
      card.append(canvas, line);
    }
    card.append(note);
    return card;
  }));
  $("step").value = step;
  $("step-value").textContent = `${step} of ${STEPS}`;
  for (const [name, result] of [["right", right], ["empty", empty]]) {
    const { energies } = result;
    const label = `Energy of steps 0 to ${STEPS}: from ${energies[0].toFixed(1)} to ${energies[STEPS].toFixed(1)} nats`;
    plotEnergy($(`plot-${name}`), energies, step, label);
  }
  const address = right.addresses[step];
  paintBars($("address"), address.map((value) => Math.min(1, Math.abs(value))), colors.accent);
  const best = argmax(address);
  $("address").setAttribute("aria-label", `Address at step ${step}: slot ${best + 1} has weight ${address[best].toFixed(2)}`);
}

function memoryBytes() { // mean and row covariance of q(M)
  return NUMBER_BYTES * (K * C + K * K);
}

function showStep(step) {
  state.step = step;
  showRecall();
}

function play() {
  clearInterval(playTimer);
  showStep(0);
  playTimer = setInterval(() => {
    if (state.step === STEPS) {
      clearInterval(playTimer);
      if (state.target) say(resultText());
    } else {
      showStep(state.step + 1);
    }
  }, 400);
}

// The decoder along the line between two addresses, M^T ((1 - s) w0 + s w1).
function morphAt(share) {
  const [from, to] = [state.start, state.end].map((pattern) => state.memory.read(pattern).heaviestMean);
  const address = from.map((value, k) => value + share * (to[k] - value));
  return { address, picture: state.memory.predict(address).logits.map(sigmoid) };
}

function showMorph() {
  $("morph-value").textContent = `${$("morph").value}%`;
  if (!state.start || !state.end) {
    $("morph-text").textContent = "Choose two pictures in the memory, one for the start and one for the end.";
    $("strip").replaceChildren();
    paintPicture($("morphed"), new Float64Array(N));
    return;
  }
  const share = Number($("morph").value) / 100, { address, picture } = morphAt(share);
  paintPicture($("morphed"), picture);
  $("morphed").setAttribute("aria-label", `Decoded picture, ${$("morph").value}% of the way`);
  const shares = Array.from({ length: 9 }, (_, i) => i / 8);
  $("strip").replaceChildren(...shares.map((one) => still(morphAt(one).picture, `${Math.round(100 * one)}% of the way`)));
  const nats = -logAddressPrior(address).value;
  $("morph-text").textContent = `How unlikely this address is before any cue: ${nats.toFixed(0)} nats, minus the log of ` +
    "the prior density. The number is low near a slot, and high in between.";
}

function setMorph(end) {
  if (state.chosen < 0) {
    say("Choose a picture in the memory first.");
    return;
  }
  state[end] = state.target;
  showMorph();
}

function showTimes() {
  $("timing").textContent = `Last stroke ${times.stroke.toFixed(1)} ms, last query of ${STEPS} steps ${times.query.toFixed(0)} ms.`;
}

function strokeEnded(editor) {
  times.stroke = editor.strokeTime;
  showTimes();
}

// ---- what the student does ----

const pixelColor = (pattern, i) => (pattern[i] ? colors.ink : colors.paper);

const drawingEditor = new Editor(
  $("drawing"), "Drawing board",
  (i) => { state.drawing[i] = $("pen").getAttribute("aria-pressed") === "true" ? 1 : 0; },
  (i) => pixelColor(state.drawing, i),
  () => strokeEnded(drawingEditor),
);
const cueEditor = new Editor(
  $("cue"), "Cue", brushCue,
  (i) => (state.visible && !state.visible[i] ? colors.hidden : pixelColor(state.cue, i)),
  () => { strokeEnded(cueEditor); scheduleRecall(); },
);

function chooseOneOf(ids) { // buttons of which one is pressed
  ids.forEach((id) => $(id).addEventListener("click", () => ids.forEach((other) => press(other, other === id))));
}

const ACTIONS = {
  write: writeDrawing,
  clear: () => { state.drawing.fill(0); drawingEditor.paint(); },
  more: () => writeMore(8),
  overload: () => writeMore(LETTERS.length),
  erase: eraseChosen,
  empty: emptyMemory,
  all: recallAll,
  "add-noise": addNoise,
  "hide-right": () => hide((row, column) => column >= MACHINE.width / 2),
  "hide-bottom": () => hide((row) => row >= MACHINE.height / 2),
  restore,
  play,
  "morph-start": () => setMorph("start"),
  "morph-end": () => setMorph("end"),
};

function showEverything() {
  readColors();
  drawingEditor.paint();
  cueEditor.paint();
  showLetters();
  showStored();
  showMemory();
  if (state.right) showRecall();
  showMorph();
}

function begin() {
  document.documentElement.style.setProperty("--aspect", `${MACHINE.width} / ${MACHINE.height}`);
  $("version").textContent = `pyro_kanerva ${MACHINE.version}: ${K} slots of ${C} numbers, pictures of ${MACHINE.width} x ${MACHINE.height} pixels.`;
  Object.entries(ACTIONS).forEach(([id, action]) => $(id).addEventListener("click", action));
  chooseOneOf(["pen", "eraser"]);
  chooseOneOf(["brush-ink", "brush-wipe", "brush-hide"]);
  const showNoise = () => { $("noise-value").textContent = `${$("noise").value}%`; };
  $("noise").addEventListener("input", () => { showNoise(); addNoise(); });
  document.querySelectorAll('input[type="radio"]').forEach((input) => input.addEventListener("change", scheduleRecall));
  $("step").addEventListener("input", () => { clearInterval(playTimer); showStep(Number($("step").value)); });
  $("morph").addEventListener("input", showMorph);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showEverything);
  showNoise();
  state.drawing = LETTERS[LETTERS.length - 1].slice();
  readColors();
  state.memory = EMPTY.write(LETTERS.slice(0, 8));
  state.stored = LETTERS.slice(0, 8).map((pattern) => ({ pattern, wrong: null }));
  choose(0);
  choose(1);
  recallNow();
  showEverything();
  say(`${count(state.stored.length, "picture")} are in the memory. ${resultText()}`);
}
