/** Pictures that come from outside: dropped, pasted or chosen, as a reference or for their settings. */
import { request } from "../api.js";
import { readParameters } from "../parts/parameters.js";
import { pngTexts } from "../parts/png_text.js";
import { info, say } from "../store.js";
import { signal } from "../vendor/signals-core.js";
import { change, draft, isUnfolded, recallSettings } from "./draft.js";

const MAX_SIDE = 2048;

/** A file that carries its settings and waits for what is to be done with it. @type {import("../vendor/signals-core.js").Signal<null | { file: File, settings: any }>} */
export const found = signal(null);

/** Whether a picture is on its way to the server. */
export const isUploading = signal(false);

/** Whether something is dragged over the page. */
export const isDragging = signal(false);

/** Take a file that was dropped, pasted or chosen. @param {File | undefined} file */
export async function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) {
    say(`${file.name} is no picture`);
    return;
  }
  isUnfolded.value = true;
  const texts = await pngTexts(file).catch(() => ({}));
  const settings = texts.parameters ? readParameters(texts.parameters) : null;
  if (settings) found.value = { file, settings };
  else await attach(file);
}

/** Take the settings of the file that was found. */
export function recallFound() {
  if (found.value) recallSettings(found.value.settings);
  found.value = null;
}

/** Use the file that was found as a reference. */
export async function attachFound() {
  const file = found.value?.file;
  found.value = null;
  if (file) await attach(file);
}

/** Use a picture of this project as a reference. @param {any} image */
export function useAsReference(image) {
  const most = info.value.limits.maxFiles;
  const others = draft.value.references.filter((other) => other.id !== image.id);
  if (others.length >= most) {
    say(`At most ${most} pictures are used at once`);
    return;
  }
  isUnfolded.value = true;
  const isFirst = others.length === 0;
  change({
    references: [...others, image],
    ...(isFirst ? { mask: null, size: "", aspectRatio: nearestRatio(image) } : {}),
  });
}

/** Leave a reference out, and its mask if it is the first. @param {string} id */
export function removeReference(id) {
  const { references, mask } = draft.value;
  change({
    references: references.filter((image) => image.id !== id),
    mask: references[0]?.id === id ? null : mask,
  });
}

/** Keep a painted mask, white where the picture is made anew. @param {Blob} blob a PNG */
export async function keepMask(blob) {
  const mask = await upload(blob, "mask.png");
  if (mask) change({ mask });
}

async function attach(file) {
  const image = await fitting(file)
    .then((blob) => upload(blob, file.name))
    .catch(() => say(`${file.name} cannot be read as a picture`));
  if (image) useAsReference(image);
}

async function upload(blob, name) {
  const form = new FormData();
  form.set("file", blob, name);
  isUploading.value = true;
  try {
    return await request("POST", "api/v1/images/upload", form);
  } catch (error) {
    say(error.message);
    return null;
  } finally {
    isUploading.value = false;
  }
}

/** The file as it is if the server takes it, else a copy that it takes. */
async function fitting(file) {
  const { supportedFormats, maxFileSize } = info.value.limits;
  if (supportedFormats.includes(file.type) && file.size <= maxFileSize) return file;
  const bitmap = await createImageBitmap(file);
  const factor = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(
    Math.round(bitmap.width * factor),
    Math.round(bitmap.height * factor),
  );
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/webp", quality: 0.92 });
}

function nearestRatio({ width, height }) {
  const distance = (ratio) => {
    const [across, down] = ratio.split(":").map(Number);
    return Math.abs(Math.log((width * down) / (height * across)));
  };
  const ratios = info.value.aspectRatios;
  return width ? [...ratios].sort((a, b) => distance(a) - distance(b))[0] : ratios[0];
}

/* A picture may be dropped or pasted anywhere on the page. */
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
let leaving = 0;
addEventListener("dragover", (event) => {
  if (!carriesFile(event) || !info.value) return;
  event.preventDefault();
  isDragging.value = true;
  // A drag that leaves the window tells nobody; while it lasts, it tells several times a second.
  clearTimeout(leaving);
  leaving = setTimeout(() => (isDragging.value = false), 300);
});
addEventListener("drop", (event) => {
  if (!carriesFile(event) || !info.value) return;
  event.preventDefault();
  isDragging.value = false;
  take(event.dataTransfer?.files[0]);
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (!file || !info.value) return;
  event.preventDefault();
  take(file);
});
