/** Painting a mask over a picture: what is covered is made anew. */
import { pictureUrl } from "../store.js";
import { keepMask } from "../stores/reference.js";
import { signal } from "../vendor/signals-core.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";

export const isPaintingMask = signal(false);

const MAX_SIDE = 1024;
/** What is covered; in the mask itself it is white. */
const PAINT = "#0d9488";
/** The brush's diameter, in hundredths of the picture's longer side. */
const brush = signal(10);
const isErasing = signal(false);

/** @typedef {{ isErasing: boolean, width: number, points: [number, number][] }} Stroke */
/** @type {import("../vendor/signals-core.js").Signal<Stroke[]>} */
const strokes = signal([]);

const canvas = () => /** @type {HTMLCanvasElement} */ (document.getElementById("mask"));

function draw(onto = canvas()) {
  const context = /** @type {CanvasRenderingContext2D} */ (onto.getContext("2d"));
  context.clearRect(0, 0, onto.width, onto.height);
  Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: PAINT });
  for (const stroke of strokes.value) {
    context.globalCompositeOperation = stroke.isErasing ? "destination-out" : "source-over";
    context.lineWidth = stroke.width;
    context.beginPath();
    const [first, ...others] = stroke.points;
    context.moveTo(...first);
    // A line to where it is already: a dot.
    for (const point of others.length ? others : [first]) context.lineTo(...point);
    context.stroke();
  }
}

function pointOf(event) {
  const { left, top, width, height } = canvas().getBoundingClientRect();
  const x = ((event.clientX - left) / width) * canvas().width;
  const y = ((event.clientY - top) / height) * canvas().height;
  return /** @type {[number, number]} */ ([x, y]);
}

function begin(event) {
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  const width = (brush.value / 100) * Math.max(canvas().width, canvas().height);
  strokes.value = [...strokes.value, { isErasing: isErasing.value, width, points: [pointOf(event)] }];
  draw();
}

function go(event) {
  if (!event.target.hasPointerCapture(event.pointerId)) return;
  strokes.value.at(-1)?.points.push(pointOf(event));
  draw();
}

function undo() {
  strokes.value = strokes.value.slice(0, -1);
  draw();
}

async function done() {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [canvas().width, canvas().height];
  const context = /** @type {CanvasRenderingContext2D} */ (whole.getContext("2d"));
  context.drawImage(canvas(), 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "white";
  context.fillRect(0, 0, whole.width, whole.height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "black";
  context.fillRect(0, 0, whole.width, whole.height);
  isPaintingMask.value = false;
  whole.toBlob((blob) => blob && keepMask(blob));
}

function onKeyDown(event) {
  event.stopPropagation();
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  if (event.key === "[") brush.value = Math.max(2, brush.value - 2);
  if (event.key === "]") brush.value = Math.min(40, brush.value + 2);
}

export const MaskEditor = live(
  ({ image }) => {
    const { width = 1, height = 1 } = image;
    const factor = Math.min(1, MAX_SIDE / Math.max(width, height));
    return html`<dialog id="mask-editor" class="mask-editor" aria-labelledby="mask-title" onKeyDown=${onKeyDown}
      onClose=${() => (isPaintingMask.value = false)}>
      <h2 id="mask-title">Paint over what is to be made anew</h2>
      <div class="canvas" style=${{ "--ratio": `${width} / ${height}`, "--across": width / height }}>
        <img src=${pictureUrl(image)} alt="" draggable=${false} />
        <canvas id="mask" width=${Math.round(width * factor)} height=${Math.round(height * factor)}
          aria-label="Mask" onPointerDown=${begin} onPointerMove=${go}></canvas>
      </div>
      <div class="row tools">
        <button type="button" class="small" aria-pressed=${!isErasing.value} onClick=${() => (isErasing.value = false)}>
          <${Icon} name="brush" />Brush</button>
        <button type="button" class="small" aria-pressed=${isErasing.value} onClick=${() => (isErasing.value = true)}>
          <${Icon} name="eraser" />Eraser</button>
        <label class="size">Size <input type="range" min="2" max="40" value=${brush.value}
          onInput=${(event) => (brush.value = Number(event.target.value))} /></label>
        <button type="button" class="quiet small" disabled=${!strokes.value.length} onClick=${undo}>
          <${Icon} name="undo-2" />Undo</button>
        <span class="space"></span>
        <button type="button" class="quiet" onClick=${() => (isPaintingMask.value = false)}>Leave it</button>
        <button type="button" class="primary" disabled=${!strokes.value.length} onClick=${done}>Use this mask</button>
      </div>
    </dialog>`;
  },
  {
    mounted: () => {
      strokes.value = [];
      isErasing.value = false;
      /** @type {HTMLDialogElement} */ (document.getElementById("mask-editor")).showModal();
    },
  },
);
