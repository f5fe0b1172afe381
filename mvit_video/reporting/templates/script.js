"use strict";
// Charts: the values at the pointer, or, by the arrow keys, at the next point. Text only; nothing is ever parsed as markup.
for (const chart of document.querySelectorAll(".chart")) {
  const lines = JSON.parse(chart.dataset.lines);
  const plot = JSON.parse(chart.dataset.plot);
  const drawing = chart.querySelector("svg");
  const cursor = chart.querySelector(".cursor");
  const readout = chart.querySelector(".readout");
  const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  let at = -1;

  const nearest = (values, wanted) => {
    let best = 0;
    for (let i = 1; i < values.length; i++) {
      if (Math.abs(values[i] - wanted) < Math.abs(values[best] - wanted)) best = i;
    }
    return best;
  };
  const show = (place) => {
    at = Math.max(0, Math.min(places.length - 1, place));
    const x = places[at];
    const left = plot.left + ((x - plot.low) / (plot.high - plot.low)) * (plot.width - plot.left - plot.right);
    cursor.setAttribute("x1", left);
    cursor.setAttribute("x2", left);
    cursor.classList.add("on");
    const parts = lines.map((line) => {
      const i = nearest(line.x, x);
      const where = line.x[i] === x ? "" : " (step " + line.x[i] + ")";
      return line.label + " " + line.y[i] + where;
    });
    readout.textContent = "step " + x + ": " + parts.join(", ");
  };
  const hide = () => {
    cursor.classList.remove("on");
    readout.textContent = "";
    at = -1;
  };

  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * plot.width - plot.left) / (plot.width - plot.left - plot.right);
    show(nearest(places, plot.low + share * (plot.high - plot.low)));
  });
  drawing.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
}

// Clips: they play by themselves, unless the reader wants no motion; one button stops and starts all of them.
const clips = [...document.querySelectorAll("video")];
const button = document.querySelector("#pause");
if (button) {
  const playing = () => clips.some((clip) => !clip.paused);
  const label = () => (button.textContent = playing() ? "Pause all clips" : "Play all clips");
  for (const clip of clips) {
    clip.addEventListener("play", label);
    clip.addEventListener("pause", label);
    // A page without sound may play by itself; a browser may forbid it all the same, and then the controls do it.
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) clip.play().catch(label);
  }
  button.addEventListener("click", () => {
    const stop = playing();
    for (const clip of clips) stop ? clip.pause() : clip.play().catch(label);
  });
  label();
}

// Tables of options: rows that hold the text.
for (const field of document.querySelectorAll("input[data-table]")) {
  const rows = [...document.getElementById(field.dataset.table).tBodies[0].rows];
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
