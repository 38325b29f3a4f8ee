/** Reads the `parameters` text that Stable Diffusion WebUI (A1111) and Banatie keep in a PNG. */

const SETTING = /\s*([\w ][\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g;
const NEGATIVE = "Negative prompt:";

/**
 * The settings that Banatie knows, in the names of the draft; null if there are none.
 * @param {string} text
 */
export function readParameters(text) {
  const lines = text.trim().split("\n");
  const settings = settingsOf(lines.at(-1) ?? "");
  if (!("Steps" in settings)) return null;
  const words = lines.slice(0, -1).join("\n");
  const cut = words.indexOf(NEGATIVE);
  const prompt = (cut < 0 ? words : words.slice(0, cut)).trim();
  const original = settings["Original prompt"];
  return {
    prompt: original ?? prompt,
    // Without an original the text is what was painted, and is to be painted as it stands.
    enhance: original !== undefined,
    negativePrompt: cut < 0 ? "" : words.slice(cut + NEGATIVE.length).trim(),
    steps: number(settings.Steps),
    guidanceScale: number(settings["CFG scale"]),
    seed: number(settings.Seed),
    isSeedLocked: /^\d+$/.test(settings.Seed ?? ""),
    size: /^\d+x\d+$/.test(settings.Size ?? "") ? settings.Size : "",
  };
}

function settingsOf(line) {
  const settings = {};
  for (const [, name, value] of line.matchAll(SETTING)) {
    settings[name.trim()] = value.startsWith('"') ? unquoted(value) : value.trim();
  }
  return settings;
}

function unquoted(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value.slice(1, -1);
  }
}

const number = (text) => (text !== undefined && /^\d+(\.\d+)?$/.test(text) ? text : "");
