/** All that is folded away: size, seed, steps, guidance, negative prompt, LoRAs, count, format. */
import { info } from "../store.js";
import { change, draft, randomSeed, reset } from "../stores/draft.js";
import { made } from "../stores/jobs.js";
import { html, live } from "./html.js";
import { Icon } from "./icons.js";

const MAX_COUNT = 8;
const MAX_LORAS = 4;
const FORMATS = ["png", "webp", "jpeg"];

/** A labelled number; left empty, the model decides. */
const Number_ = ({ name, label, min, max, step = 1, placeholder = "model's own" }) => html`<div class="field">
  <label for=${`set-${name}`}>${label}</label>
  <input id=${`set-${name}`} type="number" inputmode="decimal" min=${min} max=${max} step=${step}
    placeholder=${placeholder} value=${draft.value[name]}
    onInput=${(event) => change({ [name]: event.target.value })} />
</div>`;

const Size = () => {
  const [width = "", height = ""] = draft.value.size.split("x");
  const set = (across, down) => change({ size: across || down ? `${across}x${down}` : "" });
  return html`<fieldset class="field pair">
    <legend>Size in pixels</legend>
    <div><input type="number" aria-label="Width" min="64" max="2048" step="8" placeholder="width"
      required=${Boolean(height)} value=${width} onInput=${(event) => set(event.target.value, height)} />
    <span aria-hidden="true">×</span>
    <input type="number" aria-label="Height" min="64" max="2048" step="8" placeholder="height"
      required=${Boolean(width)} value=${height} onInput=${(event) => set(width, event.target.value)} /></div>
  </fieldset>`;
};

const Seed = () => {
  const { seed, isSeedLocked } = draft.value;
  const toggle = () => {
    const last = made.value[0]?.seed;
    change({ isSeedLocked: !isSeedLocked, seed: seed || String(last ?? randomSeed()) });
  };
  return html`<div class="field">
    <label for="set-seed">Seed</label>
    <div class="joined">
      <input id="set-seed" type="number" inputmode="numeric" min="0" max=${Number.MAX_SAFE_INTEGER} step="1"
        placeholder="another each time" value=${isSeedLocked ? seed : ""} required=${isSeedLocked}
        onInput=${(event) => change({ seed: event.target.value, isSeedLocked: event.target.value !== "" })} />
      <button type="button" class="quiet icon-only" aria-pressed=${isSeedLocked}
        aria-label="Keep the seed" title="Keep the seed" onClick=${toggle}>
        <${Icon} name=${isSeedLocked ? "lock" : "lock-open"} /></button>
    </div>
  </div>`;
};

const Format = () => html`<div class="field">
  <label for="set-format">Format</label>
  <select id="set-format" value=${draft.value.outputFormat}
    onChange=${(event) => change({ outputFormat: event.target.value })}>
    ${FORMATS.map((name) => html`<option value=${name} selected=${draft.value.outputFormat === name}>${name.toUpperCase()}</option>`)}
  </select>
</div>`;

const Loras = () => {
  const names = info.value.loras;
  const { loras } = draft.value;
  if (!names.length && !loras.length) return null;
  const free = names.filter((name) => !loras.some((lora) => lora.name === name));
  const set = (name, weight) =>
    change({ loras: loras.map((lora) => (lora.name === name ? { name, weight } : lora)) });
  return html`<fieldset class="field wide">
    <legend>LoRAs</legend>
    ${loras.map(
      ({ name, weight }) => html`<div class="joined" key=${name}>
        <span class="name">${name}</span>
        <input type="number" aria-label=${`Weight of ${name}`} min="-4" max="4" step="0.05" required
          value=${weight} onInput=${(event) => set(name, Number(event.target.value))} />
        <button type="button" class="quiet icon-only" aria-label=${`Remove ${name}`}
          onClick=${() => change({ loras: loras.filter((lora) => lora.name !== name) })}>
          <${Icon} name="x" /></button>
      </div>`,
    )}
    ${free.length > 0 && loras.length < MAX_LORAS &&
    html`<select aria-label="Add a LoRA" value=""
      onChange=${(event) => change({ loras: [...loras, { name: event.target.value, weight: 1 }] })}>
      <option value="">Add …</option>
      ${free.map((name) => html`<option value=${name}>${name}</option>`)}
    </select>`}
  </fieldset>`;
};

const Negative = () => html`<div class="field wide">
  <label for="set-negative">Not in the picture</label>
  <textarea id="set-negative" dir="auto" rows="2" value=${draft.value.negativePrompt}
    placeholder="blurry, text …"
    onInput=${(event) => change({ negativePrompt: event.target.value })}></textarea>
</div>`;

export const Settings = live(
  () => html`<details class="settings">
    <summary><${Icon} name="chevron-right" />More settings</summary>
    <div class="fields">
      <${Size} />
      <${Seed} />
      <div class="field">
        <label for="set-count">How many</label>
        <input id="set-count" type="number" min="1" max=${MAX_COUNT} required value=${draft.value.count}
          onInput=${(event) => change({ count: Math.min(MAX_COUNT, Math.max(1, Math.round(Number(event.target.value)) || 1)) })} />
      </div>
      <${Number_} name="steps" label="Steps" min="1" max="100" />
      <${Number_} name="guidanceScale" label="Guidance" min="0" max="20" step="0.1" />
      <${Format} />
      ${draft.value.outputFormat !== "png" &&
      html`<${Number_} name="quality" label="Quality" min="1" max="100" placeholder="90" />`}
      <${Number_} name="upscale" label="Upscale" min="1" max="2" step="0.05" placeholder="1" />
      <${Negative} />
      <${Loras} />
      <button type="button" class="quiet small wide" onClick=${reset}>
        <${Icon} name="undo-2" />As the model has them</button>
    </div>
  </details>`,
);
