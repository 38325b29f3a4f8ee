/** What is to be made next. It survives a reload, in this browser. */
import { remember, remembered } from "../store.js";
import { effect, signal } from "../vendor/signals-core.js";

const NAME = "banatie.draft";
const MAX_SEED = Number.MAX_SAFE_INTEGER;

/**
 * Empty text stands for "as the model has it".
 * `references` are images of this project; `mask` is one too, white where it is painted anew.
 */
const EMPTY = {
  prompt: "",
  enhance: true,
  template: "general",
  aspectRatio: "1:1",
  size: "",
  seed: "",
  isSeedLocked: false,
  steps: "",
  guidanceScale: "",
  negativePrompt: "",
  /** @type {{ name: string, weight: number }[]} */
  loras: [],
  count: 1,
  outputFormat: "png",
  quality: "",
  upscale: "",
  /** @type {{ id: string, storageUrl: string, width?: number, height?: number }[]} */
  references: [],
  referenceStrength: 0.6,
  /** @type {null | { id: string, storageUrl: string }} */
  mask: null,
};

/** @typedef {typeof EMPTY} Draft */

/** @type {import("../vendor/signals-core.js").Signal<Draft>} */
export const draft = signal({ ...EMPTY, ...remembered(NAME, {}) });

/** Whether all of it is shown where there is little room. */
export const isUnfolded = signal(false);

effect(() => remember(NAME, draft.value));

/** Change a part of the draft. @param {Partial<Draft>} part */
export function change(part) {
  draft.value = { ...draft.value, ...part };
}

/** The settings as the model has them, with the prompt kept. */
export function reset() {
  draft.value = { ...EMPTY, prompt: draft.value.prompt };
}

/** Take settings that were read from a picture into the draft. @param {Partial<Draft>} settings */
export function recallSettings(settings) {
  draft.value = { ...EMPTY, ...settings };
}

/** A seed that nobody has asked for. */
export function randomSeed() {
  return Math.floor(Math.random() * 2 ** 32);
}

/** The requests that make the draft: `count` of them, each with a seed of its own. */
export function requestsOf(given = draft.value) {
  const first = given.isSeedLocked && given.seed !== "" ? Number(given.seed) : randomSeed();
  return Array.from({ length: given.count }, (_, index) => ({
    ...requestOf(given),
    seed: (first + index) % MAX_SEED,
  }));
}

function requestOf(given) {
  const body = {
    prompt: given.prompt,
    autoEnhance: given.enhance,
    enhancementOptions: { template: given.template },
    outputFormat: given.outputFormat,
    ...(given.size ? { size: given.size } : { aspectRatio: given.aspectRatio }),
  };
  for (const name of ["steps", "guidanceScale", "upscale"]) {
    if (given[name] !== "") body[name] = Number(given[name]);
  }
  if (given.quality !== "" && given.outputFormat !== "png") body.quality = Number(given.quality);
  if (given.negativePrompt.trim()) body.negativePrompt = given.negativePrompt;
  if (given.loras.length) body.loras = given.loras;
  if (given.references.length) {
    body.referenceImages = given.references.map((image) => image.id);
    if (given.mask) body.mask = given.mask.id;
    else body.referenceStrength = given.referenceStrength;
  }
  return body;
}

/** The request that makes a generation again, with `changes`. */
export function requestFor(generation, changes = {}) {
  const prompt = changes.prompt ?? generation.originalPrompt;
  const body = {
    prompt,
    autoEnhance: generation.autoEnhance,
    enhancementOptions: { template: generation.template },
    seed: generation.seed,
    negativePrompt: generation.negativePrompt,
    steps: generation.steps,
    guidanceScale: generation.guidanceScale,
    outputFormat: generation.outputFormat,
    quality: generation.quality,
    upscale: generation.upscale,
    ...(generation.size ? { size: generation.size } : { aspectRatio: generation.aspectRatio }),
    // The tags in a prompt name their LoRAs themselves.
    loras: prompt.includes("<lora:") ? null : generation.loras,
    referenceImages: generation.referencedImages.map((image) => image.imageId),
    referenceStrength: generation.referenceStrength,
    mask: generation.mask,
    ...changes,
  };
  const isGiven = ([, value]) => value !== null && value !== undefined && value !== "";
  return Object.fromEntries(Object.entries(body).filter(isGiven));
}

/**
 * Take settings of a generation into the draft.
 * @param {any} generation
 * @param {"all" | "prompt" | "seed" | "size"} what
 */
export function recall(generation, what = "all") {
  const prompt = { prompt: generation.originalPrompt };
  const seed = { seed: String(generation.seed), isSeedLocked: true };
  const size = { size: generation.size ?? "", aspectRatio: generation.aspectRatio };
  if (what === "prompt") return change(prompt);
  if (what === "seed") return change(seed);
  if (what === "size") return change(size);
  const text = (value) => (value === null || value === undefined ? "" : String(value));
  draft.value = {
    ...EMPTY,
    ...prompt,
    ...seed,
    ...size,
    enhance: generation.autoEnhance,
    template: generation.template,
    steps: text(generation.steps),
    guidanceScale: text(generation.guidanceScale),
    negativePrompt: generation.negativePrompt,
    loras: prompt.prompt.includes("<lora:") ? [] : generation.loras,
    outputFormat: generation.outputFormat,
    quality: text(generation.quality),
    upscale: text(generation.upscale),
    references: generation.referenceImages,
    referenceStrength: generation.referenceStrength ?? EMPTY.referenceStrength,
    mask: generation.mask ? { id: generation.mask, storageUrl: "" } : null,
  };
  return undefined;
}
