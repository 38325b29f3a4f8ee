/** Shapes: the ratio of a picture before it is there. */

/** Width and height in proportion. @returns {[number, number]} */
export function shapeOf({ size, aspectRatio, outputImage }) {
  if (outputImage) return [outputImage.width, outputImage.height];
  const [width, height] = (size || aspectRatio).split(/[x:]/).map(Number);
  return width > 0 && height > 0 ? [width, height] : [1, 1];
}

/** The style that keeps a place of this shape. */
export function ratioStyle(generation) {
  const [width, height] = shapeOf(generation);
  return { "--ratio": `${width} / ${height}`, "--across": width / height };
}
