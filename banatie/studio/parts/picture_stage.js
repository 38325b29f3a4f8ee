/** One picture as large as there is room, larger still, or two of them under a slider. */
import { pictureUrl } from "../store.js";
import { html, live } from "./html.js";
import { ratioStyle } from "./ratio.js";

/** How many times the size that fits. */
export const ZOOMS = [1, 2, 4];

/** Drag what is larger than its place. */
function drag(event) {
  const stage = event.currentTarget;
  if (event.button || stage.dataset.zoom === "1" || event.pointerType === "touch") return;
  event.preventDefault();
  const start = { x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop };
  const move = ({ clientX, clientY }) => stage.scrollTo(start.x - clientX, start.y - clientY);
  const end = () => {
    stage.removeEventListener("pointermove", move);
    stage.classList.remove("dragged");
  };
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("dragged");
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", end, { once: true });
  stage.addEventListener("pointercancel", end, { once: true });
}

const nameOf = (generation) => (generation.autoEnhance ? "Enhanced" : "Your words");

/** @param {{ generation: any, zoom: number, onZoom: () => void }} props */
export const Stage = ({ generation, zoom, onZoom }) => {
  const image = generation.outputImage;
  return html`<div class="stage" tabindex=${zoom > 1 ? 0 : -1} data-zoom=${String(zoom)} onPointerDown=${drag}
    role="group" aria-label=${zoom > 1 ? `Picture, ${zoom} times as large` : "Picture"}>
    <img key=${image.id} src=${pictureUrl(image)} alt=${generation.originalPrompt} width=${image.width} draggable=${false}
      height=${image.height} style=${{ ...ratioStyle(generation), "--zoom": zoom }} onDblClick=${onZoom} />
  </div>`;
};

/** @param {{ generation: any, other: any }} props */
export const Compare = live(({ generation, other }, self) => {
  const split = self.state.split ?? 50;
  // Of two of one seed, the original stands at the left.
  const [left, right] = generation.autoEnhance && !other.autoEnhance ? [other, generation] : [generation, other];
  const isOneKind = left.autoEnhance === right.autoEnhance;
  return html`<div class="stage compare" style=${{ ...ratioStyle(left), "--split": `${split}%` }}>
    <div class="two">
      <img src=${pictureUrl(left.outputImage)} alt=${left.originalPrompt} />
      <img class="over" src=${pictureUrl(right.outputImage)} alt=${right.originalPrompt} />
      <span class="line" aria-hidden="true"></span>
      <span class="name left">${isOneKind ? `Seed ${left.seed}` : nameOf(left)}</span>
      <span class="name right">${isOneKind ? `Seed ${right.seed}` : nameOf(right)}</span>
      <input type="range" min="0" max="100" value=${split} aria-label="How much of the left picture is shown"
        onInput=${(event) => self.setState({ split: Number(event.target.value) })} />
    </div>
  </div>`;
});
