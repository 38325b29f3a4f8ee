/** A small picture for each template: the newest of one's own, else one of the bundled model. */
import { address, request } from "../api.js";
import { info, pictureUrl, session } from "../store.js";
import { computed, effect, signal } from "../vendor/signals-core.js";
import { made } from "./jobs.js";

const BUNDLED_MODEL = "banatie-small";
const WIDTH = 160;

/** @type {import("../vendor/signals-core.js").Signal<any[]>} */
const earlier = signal([]);

/** The addresses of the pictures by template; null where the model has painted none yet. */
export const samples = computed(() => {
  const model = info.value.models.painting;
  const own = [...made.value, ...earlier.value].filter(
    (generation) =>
      generation.model === model && generation.autoEnhance && generation.outputImage &&
      !generation.referencedImages.length,
  );
  return Object.fromEntries(
    info.value.templates.map((template) => {
      const newest = own.find((generation) => generation.template === template);
      if (newest) return [template, pictureUrl(newest.outputImage, WIDTH)];
      const isBundled = model === null || model === BUNDLED_MODEL;
      return [template, isBundled ? address(`studio/samples/${template}.webp`).href : null];
    }),
  );
});

effect(() => {
  if (session.value !== "in") return;
  request("GET", "api/v1/generations?status=success&limit=100").then(
    (generations) => (earlier.value = generations),
    // Without them the chips show the bundled model's pictures or none.
    () => {},
  );
});
