/** What is shown before the first picture: what the model paints, and how to get a larger one. */
import { info } from "../store.js";
import { change } from "../stores/draft.js";
import { hasNone } from "../stores/first_minutes.js";
import { jobs } from "../stores/jobs.js";
import { html, live } from "./html.js";

const BUNDLED_MODEL = "banatie-small";
const TRIES = [
  "a red sports car on a mountain road",
  "a white cat in the snow",
  "a cup of coffee",
  "an old house in the forest",
  "a wizard at night",
  "a guitar on the beach",
  "a castle at sunset",
  "a yellow duck",
];

function pick(prompt) {
  change({ prompt });
  document.getElementById("prompt")?.focus();
}

export const FirstMinutes = live(() => {
  if (!hasNone.value || jobs.value.length) return null;
  const model = info.value.models.painting;
  const isSmall = model === null || model === BUNDLED_MODEL;
  return html`<section class="first" aria-labelledby="first-title">
    <h1 id="first-title">Your first picture</h1>
    <p>${isSmall
      ? "The small model that comes with Banatie paints flat illustrations of a thousand things, in seconds. Try one:"
      : "Say what you want to see, or try one of these:"}</p>
    <ul class="tries">${TRIES.map((prompt) => html`<li key=${prompt}><button onClick=${() => pick(prompt)}>${prompt}</button></li>`)}</ul>
    ${isSmall &&
    html`<h2>When you want more</h2>
      <p>A real Stable Diffusion XL model paints everything, and wants a GPU.</p>
      ${info.value.key?.type === "master"
        ? html`<p><a href="#/machine">Download one, or add yours, on the machine's page</a>, and press Use.</p>`
        : html`<p>Whoever runs this machine gets one with:</p>`}
      <p><code>banatie models pull sdxl-lightning-4step</code></p>
      <p><code>banatie models use sdxl-lightning-4step</code></p>`}
  </section>`;
});
