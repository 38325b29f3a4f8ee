/** The pictures that the next one is made from, and what is done with them. */
import { pictureUrl } from "../store.js";
import { change, draft } from "../stores/draft.js";
import { attachFound, found, isDragging, isUploading, recallFound, removeReference, take } from "../stores/reference.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";
import { isPaintingMask, MaskEditor } from "./mask_editor.js";

const Found = () => html`<div class="found" role="status">
  <p>${found.value.file.name} carries the settings it was made with.</p>
  <div class="row">
    <button type="button" class="primary small" onClick=${recallFound}>Recall them</button>
    <button type="button" class="small" onClick=${attachFound}>Use as reference</button>
    <button type="button" class="quiet icon-only small" aria-label="Leave it"
      onClick=${() => (found.value = null)}><${Icon} name="x" /></button>
  </div>
</div>`;

const Strength = () => html`<label class="strength">
  <span>Strength <b>${Math.round(draft.value.referenceStrength * 100)} %</b></span>
  <input type="range" min="0" max="1" step="0.05" value=${draft.value.referenceStrength}
    onInput=${(event) => change({ referenceStrength: Number(event.target.value) })} />
</label>`;

const Picture = ({ image, isMasked }) => html`<li>
  <img src=${pictureUrl(image, 160)} alt="Reference" />
  ${isMasked && html`<span class="tag">masked</span>`}
  <button type="button" class="icon-only small" aria-label="Remove the reference"
    onClick=${() => removeReference(image.id)}><${Icon} name="x" /></button>
</li>`;

export const References = live(() => {
  const { references, mask } = draft.value;
  return html`<fieldset class="references" aria-busy=${isUploading.value}>
    <legend>Reference</legend>
    ${found.value && html`<${Found} />`}
    ${references.length > 0 &&
    html`<ul>${references.map((image, index) => html`<${Picture} key=${image.id} image=${image} isMasked=${index === 0 && mask} />`)}</ul>
      ${mask ? html`<p class="soft">Only what you painted over is made anew.</p>` : html`<${Strength} />`}
      <div class="row">
        <button type="button" class="small" onClick=${() => (isPaintingMask.value = true)}>
          <${Icon} name="brush" />${mask ? "Paint the mask again" : "Paint a mask"}</button>
        ${mask && html`<button type="button" class="quiet small" onClick=${() => change({ mask: null })}>No mask</button>`}
      </div>`}
    <label class="drop">
      <input type="file" accept="image/*" onChange=${(event) => { take(event.target.files[0]); event.target.value = ""; }} />
      <span><${Icon} name="image-up" />${isUploading.value ? "Sending it to Banatie …" : "Drop, paste or choose a picture"}</span>
    </label>
    ${isPaintingMask.value && references[0] && html`<${MaskEditor} image=${references[0]} />`}
  </fieldset>`;
});

/** What is seen while a picture is dragged over the page. */
export const DropHint = live(
  () => isDragging.value && html`<div class="drop-hint" aria-hidden="true"><span><${Icon} name="image-up" />
    Drop it: as a reference, or for the settings in it</span></div>`,
);
