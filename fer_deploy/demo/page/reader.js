// The worker that runs the two networks, so that the page stays responsive.
//
// It receives {kind: "start", id, settings} once and answers {kind: "ready", id}. Then it receives {kind: "read", id,
// picture, side} for each picture, an ImageBitmap, and answers {kind: "faces", id, faces, milliseconds}. Errors are
// answered with {kind: "trouble", id, message}.
import * as ort from "./onnxruntime-web.js";
import { cropSquare, detectorBoxes, detectorInput, shrunk, squareAround } from "./vision.js";

let settings;
let detector;
let classifier;

const answers = { start, read };

onmessage = async ({ data: { kind, id, ...rest } }) => {
  try {
    postMessage({ id, ...(await answers[kind](rest)) });
  } catch (error) {
    postMessage({ kind: "trouble", id, message: error instanceof Error ? error.message : String(error) });
  }
};

async function start(message) {
  settings = message.settings;
  // Threads need cross-origin isolation. Our server sends the headers for it; other hosts may not.
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;
  ort.env.logLevel = "error";
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  detector = await ort.InferenceSession.create(await fetched(settings.detector.file), options);
  classifier = await ort.InferenceSession.create(await fetched(settings.model.file), options);
  return { kind: "ready" };
}

async function fetched(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} could not be loaded (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

async function read({ picture, side }) {
  try {
    const started = performance.now();
    const context = drawn(picture, picture.width, picture.height);
    const boxes = await findFaces(picture, side);
    const found = performance.now();
    const faces = [];
    for (const box of boxes) faces.push(await readFace(context, box));
    return { kind: "faces", faces, milliseconds: { find: found - started, read: performance.now() - found } };
  } finally {
    picture.close();
  }
}

// A context whose pixels can be read, with the picture drawn on white.
function drawn(picture, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  return context;
}

async function findFaces(picture, side) {
  const { minimum_score: minimumScore, minimum_face: minimumFace } = settings.detector;
  const { width, height, factor } = shrunk(picture.width, picture.height, side);
  const { planes, shape } = detectorInput(drawn(picture, width, height).getImageData(0, 0, width, height));
  const [input] = detector.inputNames;
  const outputs = await detector.run({ [input]: new ort.Tensor("float32", planes, shape) });
  const [heat, sizes, offsets] = detector.outputNames.map((name) => outputs[name]);
  const [rows, columns] = heat.dims.slice(2);
  return detectorBoxes(heat.data, sizes.data, offsets.data, rows, columns, minimumScore)
    .map(({ left, top, right, bottom, score }) => ({
      left: left * factor, top: top * factor, right: right * factor, bottom: bottom * factor, score,
    }))
    .filter((box) => box.bottom - box.top >= minimumFace)
    .sort((one, other) => one.left - other.left || one.top - other.top);
}

async function readFace(context, box) {
  const square = squareAround(box, settings.detector.framing);
  const faces = new ort.Tensor("uint8", cropSquare(context, square), [1, square.side, square.side, 3]);
  const { probabilities } = await classifier.run({ faces });
  return { box, square, probabilities: Array.from(probabilities.data) };
}
