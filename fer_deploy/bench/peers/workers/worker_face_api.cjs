// `@vladmandic/face-api`: faceExpressionNet.predictExpressions on the RGB crop, with its WASM backend.
// It takes the commands of worker.py in this folder.
'use strict';

const fs = require('fs');
const path = require('path');
const readline = require('readline');

const folder = path.join(process.argv[2], 'node_modules');
const LABELS = ['angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral'];
const NAMES = {
  angry: 'angry', disgust: 'disgusted', fear: 'fearful', happy: 'happy', sad: 'sad', surprise: 'surprised', neutral: 'neutral',
};
const SIDE = 48;
const PIXELS = SIDE * SIDE * 3;
const write = process.stdout.write.bind(process.stdout);
const say = (values) => write(`${JSON.stringify(values)}\n`);
console.log = console.info = console.warn = console.error;

const now = () => Number(process.hrtime.bigint());

function faceAt(faces, index) {
  return faces.subarray(index * PIXELS, (index + 1) * PIXELS);
}

async function load() {
  const tf = require(path.join(folder, '@tensorflow/tfjs'));
  const wasm = require(path.join(folder, '@tensorflow/tfjs-backend-wasm'));
  const faceapi = require(path.join(folder, '@vladmandic/face-api/dist/face-api.node-wasm.js'));
  wasm.setWasmPaths(path.join(folder, '@tensorflow/tfjs-backend-wasm/dist/'));
  wasm.setThreadsCount(Number(process.env.FERDEPLOY_THREADS || '1'));
  await tf.setBackend('wasm');
  await tf.ready();
  const models = path.join(folder, '@vladmandic/face-api/model');
  await faceapi.nets.faceExpressionNet.loadFromDisk(models);
  const call = async (pixels) => {
    const tensor = tf.tensor3d(pixels, [SIDE, SIDE, 3], 'int32');
    const answer = await faceapi.nets.faceExpressionNet.predictExpressions(tensor);
    tensor.dispose();
    return answer;
  };
  const facts = {
    provider: `TensorFlow.js ${tf.version_core} ${tf.getBackend()}, Node ${process.versions.node}`,
    bytes: fs.statSync(path.join(models, 'face_expression_model.bin')).size,
  };
  return { call, facts };
}

async function main() {
  let call;
  try {
    const start = now();
    const loaded = await load();
    call = loaded.call;
    const ready = now();
    await call(new Int32Array(PIXELS).fill(128));
    say({ ready: true, load_ms: (ready - start) / 1e6, first_ms: (now() - ready) / 1e6, ...loaded.facts });
  } catch (error) {
    say({ error: String(error && error.message ? error.message : error) });
    return;
  }
  let faces = new Uint8Array(PIXELS);
  let count = 1;
  let position = 0;
  const prepare = (pixels) => Int32Array.from(pixels);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      if (command.do === 'quit') break;
      if (command.do === 'faces') {
        faces = fs.readFileSync(command.path);
        count = command.count;
        position = 0;
        say({ done: true });
      } else if (command.do === 'score') {
        const all = fs.readFileSync(command.path);
        const answers = new Float32Array(command.count * LABELS.length);
        for (let index = 0; index < command.count; index += 1) {
          const scores = await call(prepare(faceAt(all, index)));
          LABELS.forEach((label, column) => { answers[index * LABELS.length + column] = scores[NAMES[label]]; });
        }
        fs.writeFileSync(command.to, Buffer.from(answers.buffer));
        say({ done: true });
      } else if (command.do === 'time') {
        const inputs = [];
        for (let index = 0; index < command.warm_up + command.calls; index += 1) {
          inputs.push(prepare(faceAt(faces, position)));
          position = (position + 1) % count;
        }
        for (const face of inputs.slice(0, command.warm_up)) await call(face);
        const samples = [];
        const before = process.cpuUsage();
        const start = now();
        for (const face of inputs.slice(command.warm_up)) {
          const one = now();
          await call(face);
          samples.push(now() - one);
        }
        const wall = now() - start;
        const used = process.cpuUsage(before);
        say({ samples, wall, processor: (used.user + used.system) * 1000 });
      } else if (command.do === 'memory') {
        say({ peak_memory_bytes: process.resourceUsage().maxRSS * 1024 });
      } else {
        say({ error: `unknown command ${command.do}` });
      }
    } catch (error) {
      say({ error: String(error && error.message ? error.message : error) });
    }
  }
  process.exit(0);
}

main();
