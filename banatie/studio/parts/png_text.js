/** The text chunks of a PNG file, where programs keep the settings that made it. */

const SIGNATURE = "137,80,78,71,13,10,26,10";

/**
 * Texts by their keywords; empty for what is no PNG.
 * @param {Blob} file
 * @returns {Promise<Record<string, string>>}
 */
export async function pngTexts(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const texts = {};
  if (bytes.subarray(0, 8).join() !== SIGNATURE) return texts;
  const view = new DataView(bytes.buffer);
  let at = 8;
  while (at + 12 <= bytes.length) {
    const length = view.getUint32(at);
    const type = latin1(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (type === "tEXt" || type === "iTXt") {
      const [keyword, text] = await (type === "tEXt" ? plain(data) : international(data));
      texts[keyword] = text;
    }
    if (type === "IEND") break;
    at += 12 + length;
  }
  return texts;
}

const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
const utf8 = (bytes) => new TextDecoder().decode(bytes);

function plain(data) {
  const end = data.indexOf(0);
  return [latin1(data.subarray(0, end)), latin1(data.subarray(end + 1))];
}

/** Keyword, compression flag and method, language, translated keyword, text (PNG, 11.3.3.4). */
async function international(data) {
  const end = data.indexOf(0);
  const language = data.indexOf(0, end + 3);
  const translated = data.indexOf(0, language + 1);
  let text = data.subarray(translated + 1);
  if (data[end + 1] === 1) {
    const inflated = new Blob([text]).stream().pipeThrough(new DecompressionStream("deflate"));
    text = new Uint8Array(await new Response(inflated).arrayBuffer());
  }
  return [latin1(data.subarray(0, end)), utf8(text)];
}
