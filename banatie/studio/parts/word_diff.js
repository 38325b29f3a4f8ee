/** Which words of a text are new against another. */

const WORD = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*|\s+|[^\s\p{L}\p{N}]/gu;

/**
 * The text `after` in pieces, and what of `before` is missing in it, by the longest common
 * subsequence of their words.
 * @param {string} before
 * @param {string} after
 * @returns {{ kind: "same" | "added" | "removed", text: string }[]}
 */
export function wordDiff(before, after) {
  const old = before.match(WORD) ?? [];
  const now = after.match(WORD) ?? [];
  const lengths = commonLengths(old, now);
  const width = now.length + 1;
  const pieces = [];
  const put = (kind, text) => {
    const last = pieces.at(-1);
    if (last?.kind === kind) last.text += text;
    else pieces.push({ kind, text });
  };
  let i = 0;
  let j = 0;
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && same(old[i], now[j])) {
      put("same", now[j]);
      i++;
      j++;
    } else if (j < now.length && (i === old.length || lengths[i * width + j + 1] >= lengths[(i + 1) * width + j])) {
      put("added", now[j++]);
    } else {
      put("removed", old[i++]);
    }
  }
  return pieces;
}

function commonLengths(old, now) {
  const width = now.length + 1;
  const lengths = new Uint16Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      lengths[i * width + j] = same(old[i], now[j])
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  return lengths;
}

const same = (a, b) => a.toLowerCase() === b.toLowerCase();
