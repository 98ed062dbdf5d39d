// Read the emotion of faces with onnxruntime-node; sharp reads picture files.
//
//   npm install onnxruntime-node sharp
//   node emotions.mjs plain-distilled-2.onnx face.jpg
//   node emotions.mjs plain-distilled-2.onnx faces.bin 2 48 48      raw RGB bytes: faces, height, width
import { readFile } from "node:fs/promises";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // before the import: ONNX Runtime reports to Microsoft otherwise
const { InferenceSession, Tensor } = await import("onnxruntime-node");

const LABELS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"];

// A picture file as RGB bytes, upright, transparent parts on a white background.
async function readPicture(path) {
  const { default: sharp } = await import("sharp");
  const picture = sharp(path).rotate().flatten({ background: "white" }).toColourspace("srgb").raw();
  const { data, info } = await picture.toBuffer({ resolveWithObject: true });
  return new Tensor("uint8", data, [1, info.height, info.width, 3]);
}

// Faces without a header, row by row, three bytes per pixel.
async function readRaw(path, count, height, width) {
  return new Tensor("uint8", await readFile(path), [count, height, width, 3]);
}

const [model, source, ...shape] = process.argv.slice(2);
const session = await InferenceSession.create(model);
const faces = shape.length ? await readRaw(source, ...shape.map(Number)) : await readPicture(source);
const { probabilities } = await session.run({ faces });
for (let face = 0; face < probabilities.dims[0]; face++) {
  const row = probabilities.data.subarray(face * LABELS.length, (face + 1) * LABELS.length);
  console.log(JSON.stringify(Object.fromEntries(LABELS.map((label, i) => [label, row[i]]))));
}
