/** Choices that are seen rather than read: templates as chips, ratios as shapes. */
import { info } from "../store.js";
import { change, draft } from "../stores/draft.js";
import { samples } from "../stores/samples.js";
import { html, live } from "./html.js";

const WORDS = {
  general: "balanced detail",
  photorealistic: "light, lens, camera",
  illustration: "style, palette",
  minimalist: "clean and simple",
  sticker: "bold outlines",
  product: "studio light",
  comic: "action lines",
};
const SHAPE_AREA = 380;

const SHORT = { photorealistic: "Photo" };

const title = (text) => SHORT[text] ?? text[0].toUpperCase() + text.slice(1);

export const Templates = live(() => {
  const { template, enhance } = draft.value;
  return html`<fieldset class="templates" disabled=${!enhance}>
    <legend>Style</legend>
    <div class="tiles">
      ${info.value.templates.map(
        (name) => html`<label class="chip tile" title=${`${name}: ${WORDS[name]}`}>
          <input type="radio" name="template" value=${name} checked=${template === name}
            onChange=${() => change({ template: name })} />
          <span>
            ${samples.value[name]
              ? html`<img src=${samples.value[name]} alt="" width="72" height="72" loading="lazy" />`
              : html`<i class="blank" aria-hidden="true"></i>`}
            ${title(name)}
          </span>
        </label>`,
      )}
    </div>
  </fieldset>`;
});

export const Ratios = live(() => {
  const { aspectRatio, size } = draft.value;
  return html`<fieldset class="ratios">
    <legend>Shape</legend>
    <div class="chips">
      ${info.value.aspectRatios.map((ratio) => {
        const [width, height] = ratio.split(":").map(Number);
        const factor = Math.sqrt(SHAPE_AREA / (width * height));
        return html`<label class="chip shape" title=${ratio}>
          <input type="radio" name="ratio" value=${ratio} checked=${!size && aspectRatio === ratio}
            onChange=${() => change({ aspectRatio: ratio, size: "" })} />
          <span><i aria-hidden="true" style=${{ width: `${width * factor}px`, height: `${height * factor}px` }}></i>${ratio}</span>
        </label>`;
      })}
    </div>
  </fieldset>`;
});
