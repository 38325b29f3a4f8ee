/** The pictures, newest first. */
import { request } from "../api.js";
import { html, live } from "../parts/html.js";
import { ratioStyle } from "../parts/ratio.js";
import { pictureUrl, sayError } from "../store.js";
import { made } from "../stores/jobs.js";
import { signal } from "../vendor/signals-core.js";

const PAGE = 60;

/** @type {import("../vendor/signals-core.js").Signal<any[]>} */
const pictures = signal([]);

async function load() {
  try {
    pictures.value = await request("GET", `api/v1/generations?status=success&limit=${PAGE}`);
  } catch (error) {
    sayError(error);
  }
}

export const Gallery = live(
  () => {
    const fresh = new Set(made.value.map((generation) => generation.id));
    const all = [...made.value, ...pictures.value.filter((generation) => !fresh.has(generation.id))];
    return html`<section aria-label="Gallery">
      <ul class="grid">
        ${all
          .filter((generation) => generation.outputImage)
          .map(
            (generation) => html`<li key=${generation.id} style=${ratioStyle(generation)}>
              <a href=${`#/picture/${generation.id}`}>
                <img src=${pictureUrl(generation.outputImage, 320)} alt=${generation.originalPrompt}
                  loading="lazy" decoding="async" />
              </a>
            </li>`,
          )}
      </ul>
    </section>`;
  },
  { mounted: () => void load() },
);
