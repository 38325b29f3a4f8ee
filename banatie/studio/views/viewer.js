/** One picture over the page: looked at closely, compared, and taken further. */
import { html, live } from "../parts/html.js";
import { Icon } from "../parts/icons.js";
import { Facts } from "../parts/picture_facts.js";
import { Compare, Stage, ZOOMS } from "../parts/picture_stage.js";
import { Prompts } from "../parts/prompts.js";
import { Toast } from "../parts/toast.js";
import { say } from "../store.js";
import { randomSeed, recall } from "../stores/draft.js";
import { favourite, remove } from "../stores/gallery.js";
import { useAsReference } from "../stores/reference.js";
import {
  asCurl, asPython, close, compareWith, copy, counterpart, downloadUrl, goTo, makeLike, neighbours, opened, other, problem,
} from "../stores/viewer.js";
import { focusPicture } from "./gallery.js";

const FORMATS = [["png", "PNG"], ["webp", "WebP"], ["jpeg", "JPEG"]];
const UPSCALE = 2;

function recalled(generation, what, word) {
  recall(generation, what);
  say(`${word} taken over`, "Show", close);
}

function taken(generation) {
  useAsReference(generation.outputImage);
  close();
}

function removed(generation) {
  const { older, newer } = neighbours.value;
  remove([generation]);
  if (older || newer) goTo(older || newer);
  else close();
}

const IconButton = ({ icon, label, ...rest }) => html`<button class="quiet icon-only" aria-label=${label} title=${label}
  ...${rest}><${Icon} name=${icon} /></button>`;

const Tools = live(({ generation, zoom, onZoom }) => {
  const { older, newer } = neighbours.value;
  const isCompared = Boolean(other.value);
  return html`<div class="tools" role="toolbar" aria-label="Picture">
    <${IconButton} icon="x" label="Close" onClick=${close} />
    <span class="space"></span>
    <${IconButton} icon="arrow-left" label="Newer" disabled=${!newer} onClick=${() => goTo(newer)} />
    <${IconButton} icon="arrow-right" label="Older" disabled=${!older} onClick=${() => goTo(older)} />
    <span class="space"></span>
    ${!isCompared && html`<button class="quiet" onClick=${onZoom} title="Z" aria-label=${`Zoom, now ${zoom} times`}>
      <${Icon} name="zoom-in" />${zoom}×</button>`}
    ${(isCompared || counterpart.value) &&
    html`<button class="quiet" aria-pressed=${isCompared} aria-label="Compare" title="C"
      onClick=${() => compareWith(isCompared ? "" : counterpart.value.id)}><${Icon} name="columns-2" /><span class="word">Compare</span></button>`}
    <button class="quiet icon-only star" aria-pressed=${generation.favourite} aria-label="Favourite" title="Favourite (F)"
      onClick=${() => favourite([generation], !generation.favourite)}><${Icon} name="star" /></button>
    <${IconButton} icon="trash-2" label="Delete" onClick=${() => removed(generation)} />
  </div>`;
});

const Actions = live(({ generation }) => {
  const button = (label, act, icon) => html`<button class="small" onClick=${act}>
    ${icon && html`<${Icon} name=${icon} />`}${label}</button>`;
  const canCompare = !counterpart.value && generation.autoEnhance;
  return html`<section class="actions" aria-label="Actions">
    <h3>Go on from here</h3>
    <div class="row">
      ${button("Make again", () => makeLike(generation, {}, "It is being made again"), "rotate-ccw")}
      ${button("Vary", () => makeLike(generation, { seed: randomSeed() }, "A variation is being made"), "dice-5")}
      ${button("Use as reference", () => taken(generation), "image-up")}
      ${!generation.upscale &&
      button("Enlarge", () => makeLike(generation, { upscale: UPSCALE }, "It is being made twice as large"), "zoom-in")}
      ${canCompare &&
      button("Make it without enhancement", () =>
        makeLike(generation, { autoEnhance: false }, "It is being made from your words, to compare"), "columns-2")}
    </div>
    <h3>Take over for the next one</h3>
    <div class="row">
      ${button("All", () => recalled(generation, "all", "All settings"))}
      ${button("Prompt", () => recalled(generation, "prompt", "Prompt"))}
      ${button("Seed", () => recalled(generation, "seed", "Seed"))}
      ${button("Size", () => recalled(generation, "size", "Size"))}
    </div>
    <h3>Download</h3>
    <div class="row">
      ${FORMATS.map(([format, name]) => html`<a class="button small" href=${downloadUrl(generation, format)}
        download=${`banatie-${generation.id.slice(0, 8)}.${format === "jpeg" ? "jpg" : format}`}>
        <${Icon} name="download" />${name}</a>`)}
    </div>
    <h3>Copy the request</h3>
    <div class="row">
      ${button("curl", () => copy(asCurl(generation), "The curl command"), "copy")}
      ${button("Python", () => copy(asPython(generation), "The Python program"), "copy")}
    </div>
  </section>`;
});

function onKeyDown(event, nextZoom) {
  const isTyping = event.target.closest("input, textarea, select");
  const generation = opened.value;
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !generation) return;
  const isScrolled = event.target.closest(".stage")?.dataset.zoom > 1;
  if (event.key === "ArrowLeft" && !isScrolled) goTo(neighbours.value.newer);
  else if (event.key === "ArrowRight" && !isScrolled) goTo(neighbours.value.older);
  else if (event.key === "f") favourite([generation], !generation.favourite);
  else if (event.key === "z") nextZoom();
  else if (event.key === "c" && other.value) compareWith("");
  else if (event.key === "c" && counterpart.value) compareWith(counterpart.value.id);
  else if (event.key === "Delete" || event.key === "Backspace") removed(generation);
  else return;
  event.preventDefault();
}

const show = (dialog) => {
  if (!dialog || dialog.open) return;
  dialog.showModal();
  dialog.focus();
};

export const Viewer = live(
  ({ id }, self) => {
    const generation = opened.value;
    const zoom = self.state.zoomed === id ? (self.state.zoom ?? 1) : 1;
    const nextZoom = () =>
      self.setState({ zoomed: id, zoom: ZOOMS[(ZOOMS.indexOf(zoom) + 1) % ZOOMS.length] });
    self.refs.id = id;
    return html`<dialog class="viewer" aria-label="Picture" tabindex="-1" ref=${show}
      onCancel=${(event) => { event.preventDefault(); close(); }} onKeyDown=${(event) => onKeyDown(event, nextZoom)}>
      ${!generation &&
      html`<div class="tools"><${IconButton} icon="x" label="Close" onClick=${close} /></div>
        <p class="problem" role="alert">${problem.value}</p>`}
      ${generation && html`<${Tools} generation=${generation} zoom=${zoom} onZoom=${nextZoom} />
        ${other.value?.outputImage && generation.outputImage
          ? html`<${Compare} generation=${generation} other=${other.value} key=${other.value.id} />`
          : generation.outputImage
            ? html`<${Stage} generation=${generation} zoom=${zoom} onZoom=${nextZoom} />`
            : html`<p class="stage" role="status">${generation.errorMessage ?? "It is not painted yet."}</p>`}
        <aside aria-label="About this picture">
          <${Prompts} generation=${generation} key=${id} />
          ${generation.warnings.map((text) => html`<p class="warning"><${Icon} name="triangle-alert" />${text}</p>`)}
          ${generation.outputImage && html`<${Actions} generation=${generation} />`}
          <${Facts} generation=${generation} />
        </aside>`}
      <${Toast} />
    </dialog>`;
  },
  {
    mounted: (self) => () => {
      // The dialog is gone only after this; then the keyboard is where the picture was.
      const { id } = self.refs;
      requestAnimationFrame(() => focusPicture(id));
    },
  },
);
