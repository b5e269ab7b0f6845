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
const inEnglish = (number) => number.toLocaleString("en");
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
  const more = " There are more pictures than slots: recall every picture to see what that costs.";
  say(`${count(patterns.length, "picture")} written. The memory now holds ${state.stored.length} in ${K} slots.` +
    (state.stored.length > K ? more : ""));
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
  const flip = noiseLevel() / 2, bytes = (patterns) => inEnglish(patterns.length * N * NUMBER_BYTES);
  const some = all.slice(0, fits);
  return [
    {
      name: "Hopfield network", pattern: hopfield(all, cue, visible, flip),
      text: `${bytes(all)} bytes: ${count(all.length, "picture")}, a number for each pixel`,
    },
    {
      name: "Small Hopfield network", pattern: hopfield(some, cue, visible, flip),
      text: `${bytes(some)} bytes: as many pictures as fit into the matrix, ${some.length}`,
    },
    {
      name: "Lookup table", pattern: nearestPattern(all, cue, visible),
      text: `${inEnglish(all.length * Math.ceil(N / 8))} bytes: ${count(all.length, "picture")}, a bit for each pixel; ` +
        "it answers with the nearest",
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
    ["hopfield", "fits", "table"].forEach((name, i) => {
      totals[name] += wrongPixels(others[i].pattern, one.pattern);
    });
    index += 1;
    $("all-result").textContent = `Recalling ${index} of ${number} …`;
    if (index < number) {
      setTimeout(next);
      return;
    }
    const mean = (total) => (total / number).toFixed(1);
    const text = `Wrong pixels of ${N}, mean of ${count(number, "picture")} in ${K} slots: cue ${mean(totals.cue)}, ` +
      `memory ${mean(totals.memory)}, Hopfield network ${mean(totals.hopfield)}, ` +
      `small Hopfield network ${mean(totals.fits)}, lookup table ${mean(totals.table)}.`;
    $("all-result").textContent = `${text} The number under each picture above is that of the memory.`;
    say(text);
    showStored();
  };
  const number = state.stored.length;
  if (number) next();
  else say("The memory is empty. Write pictures first.");
}

// ---- what the student does ----

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

function setMorph(end) {
  if (state.chosen < 0) {
    say("Choose a picture in the memory first.");
    return;
  }
  state[end] = state.target;
  showMorph();
}

function strokeEnded(editor) {
  times.stroke = editor.strokeTime;
  showTimes();
}

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
  $("version").textContent = `pyro_kanerva ${MACHINE.version}: ${K} slots of ${C} numbers, pictures of ` +
    `${MACHINE.width} x ${MACHINE.height} pixels.`;
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
