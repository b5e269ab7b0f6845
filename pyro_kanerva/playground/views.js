// What the page shows of its state, which playground.js holds.

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
  const prior = diagonal(PRIOR_MEMORY.covariance), logs = variance.map(Math.log);
  const high = Math.log(Math.max(...prior)), low = Math.min(Math.log(VARIANCE) - 4, ...logs);
  paintBars($("uncertainty"), logs.map((value) => (value - low) / (high - low)), colors.ink);
  const certain = variance.filter((value, k) => value < 0.1 * prior[k]).length;
  $("uncertainty").setAttribute("aria-label", `Uncertainty of each slot. ${certain} of ${K} slots are certain.`);
  $("slots").replaceChildren(...state.memory.slots.map((logits, k) => still(logits.map(sigmoid), `Slot ${k + 1}`)));
}

function paintBars(canvas, lengths, color) { // one bar for each slot
  const columns = 60;
  paintCells(canvas, columns, K * 4, (i) => {
    const row = Math.floor(i / columns), share = lengths[row >> 2];
    return row % 4 < 3 && i % columns < Math.round(share * columns) ? color : colors.paper;
  });
}

function showRecall() {
  const { right, empty, step, target } = state;
  const cards = [
    {
      name: "The memory", main: true, pattern: right.patterns[step],
      text: `${inEnglish(memoryBytes())} bytes, whatever it holds; step ${step}`,
    },
    { name: "Empty memory (the control)", pattern: empty.patterns[step], text: `the same cue, step ${step}` },
    ...baselines(state.cue, state.visible),
  ];
  $("cards").replaceChildren(...cards.map(({ name, pattern, text, main }) => {
    const card = document.createElement("div"), title = document.createElement("b");
    const note = document.createElement("div");
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
  const weight = address[best].toFixed(2);
  $("address").setAttribute("aria-label", `Address at step ${step}: slot ${best + 1} has weight ${weight}`);
}

function memoryBytes() { // mean and row covariance of q(M)
  return NUMBER_BYTES * (K * C + K * K);
}

function showStep(step) {
  state.step = step;
  showRecall();
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
  const strip = shares.map((one) => still(morphAt(one).picture, `${Math.round(100 * one)}% of the way`));
  $("strip").replaceChildren(...strip);
  const nats = -logAddressPrior(address).value;
  $("morph-text").textContent = `How unlikely this address is before any cue: ${nats.toFixed(0)} nats, minus the log ` +
    "of the prior density. The number is low near a slot, and high in between.";
}

function showTimes() {
  const inTenths = (time) => time.toFixed(1);
  $("timing").textContent = `Last stroke: ${inTenths(times.stroke)} ms. Last query of ${STEPS} steps: ` +
    `${inTenths(times.query)} ms.`;
}
