// The steps between a picture and the two networks: the detector's input and output, and the crop of a face.
//
// The same rules as in fer_deploy/detection (centerface.py, framing.py, suppress.py). The numbers come with the settings.
// A picture here is ImageData: RGBA, row by row. A box is {left, top, right, bottom, score}, in pixels.

const STEP = 32; // the detector wants sides that are multiples of this
const STRIDE = 4; // its output has a quarter of its input's size
const OVERLAP = 0.3; // of two boxes that overlap by more, the better one stays

/** The size to which a picture is shrunk so that its longer side is at most `side`. */
export function shrunk(width, height, side) {
  const factor = Math.max(1, Math.max(width, height) / side);
  return { width: Math.max(1, Math.round(width / factor)), height: Math.max(1, Math.round(height / factor)), factor };
}

/** The detector's input: float32 [1, 3, height, width], planes of blue, green and red, 0 to 255, padded with black. */
export function detectorInput({ data, width, height }) {
  const padded = (length) => Math.max(2, Math.ceil(length / STEP)) * STEP;
  const rows = padded(height);
  const columns = padded(width);
  const planes = new Float32Array(3 * rows * columns);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * 4;
      const to = y * columns + x;
      planes[to] = data[from + 2];
      planes[to + rows * columns] = data[from + 1];
      planes[to + 2 * rows * columns] = data[from];
    }
  }
  return { planes, shape: [1, 3, rows, columns] };
}

/** Boxes, best first, from the detector's outputs: a heat map, the boxes' logarithmic sizes, and their offsets. */
export function detectorBoxes(heat, sizes, offsets, rows, columns, minimumScore) {
  const boxes = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      if (!(heat[at] >= minimumScore)) continue;
      const height = Math.exp(sizes[at]) * STRIDE;
      const width = Math.exp(sizes[at + rows * columns]) * STRIDE;
      const y = (row + offsets[at] + 0.5) * STRIDE;
      const x = (column + offsets[at + rows * columns] + 0.5) * STRIDE;
      boxes.push({
        left: x - width / 2, top: y - height / 2, right: x + width / 2, bottom: y + height / 2, score: heat[at],
      });
    }
  }
  return keepBest(boxes);
}

function keepBest(boxes) {
  const kept = [];
  for (const box of boxes.sort((one, other) => other.score - one.score)) {
    if (kept.every((better) => overlap(box, better) <= OVERLAP)) kept.push(box);
  }
  return kept;
}

function overlap(one, other) {
  const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
  if (width <= 0 || height <= 0) return 0;
  const area = ({ left, top, right, bottom }) => (right - left) * (bottom - top);
  return (width * height) / (area(one) + area(other) - width * height);
}

/** The square that a classifier is given for a box, in whole pixels; it may reach outside the picture. */
export function squareAround(box, { scale, down }) {
  const size = Math.sqrt((box.right - box.left) * (box.bottom - box.top));
  const side = Math.max(1, Math.round(scale * size));
  return {
    left: Math.round((box.left + box.right) / 2 - side / 2),
    top: Math.round((box.top + box.bottom) / 2 + down * size - side / 2),
    side,
  };
}

/** A square's RGB bytes, cut out of a canvas; where it reaches outside, the picture's edge is repeated. */
export function cropSquare(context, { left, top, side }) {
  const { width, height } = context.canvas;
  const clamp = (value, length) => Math.min(Math.max(value, 0), length - 1);
  const x = clamp(left, width);
  const y = clamp(top, height);
  const columns = clamp(left + side - 1, width) - x + 1;
  const { data } = context.getImageData(x, y, columns, clamp(top + side - 1, height) - y + 1);
  const pixels = new Uint8Array(side * side * 3);
  for (let row = 0, to = 0; row < side; row++) {
    const line = (clamp(top + row, height) - y) * columns;
    for (let column = 0; column < side; column++) {
      const from = (line + clamp(left + column, width) - x) * 4;
      pixels[to++] = data[from];
      pixels[to++] = data[from + 1];
      pixels[to++] = data[from + 2];
    }
  }
  return pixels;
}
