// The user interface: photos by choice, drop or paste, the camera, the list of faces, and the speed.

const element = (id) => document.getElementById(id);
const [frame, hint, video, view, file, camera, cameras] =
  ["frame", "hint", "video", "view", "file", "camera", "cameras"].map(element);

const LARGEST_SIDE = 4096; // larger photos are shrunk to this first: phones have no canvas for them
const MOST_BARS = 12; // a face's list shows at most so many labels: the most probable ones
const SPOKEN_EVERY = 3000; // milliseconds between two announcements of the camera's faces

const settings = await (await fetch("demo.json")).json();
const { labels } = settings.model;
const reader = new Worker("reader.js", { type: "module" });
const waiting = new Map(); // request number to the promise's resolve and reject
let requests = 0;
let stream = null; // the open camera
let turn = 0; // counts photos and camera sessions, so that a late answer about an earlier one is dropped

reader.onmessage = ({ data: { kind, id, ...answer } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (kind === "trouble") reject(new Error(answer.message));
  else resolve(answer);
};
reader.onerror = ({ message }) => showError(`The model could not be started: ${message ?? "its script failed"}`);

function ask(kind, content, moved = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++requests, { resolve, reject });
    reader.postMessage({ kind, id: requests, ...content }, moved);
  });
}

function showError(message = "") {
  element("trouble").textContent = message;
}

const announce = (message) => (element("status").textContent = message);
const percent = (value) => `${Math.round(value * 100)} %`;

// A label among other words: where its letters run from right to left, the words around it stay in their order.
const isolated = (label) => (/[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(label) ? `\u2068${label}\u2069` : label);

function best({ probabilities }) {
  const at = probabilities.indexOf(Math.max(...probabilities));
  return { label: labels[at], probability: probabilities[at] };
}

// The labels to list, as their places: all in the model's order or, of many, the most probable first.
function listed({ probabilities }) {
  const places = labels.map((_, i) => i);
  if (labels.length <= MOST_BARS) return places;
  return places.sort((one, other) => probabilities[other] - probabilities[one] || one - other).slice(0, MOST_BARS);
}

function inWords(faces) {
  if (faces.length === 0) return "No face found.";
  return `${faces.length} ${faces.length === 1 ? "face" : "faces"}: ${faces.map((face) => isolated(best(face).label)).join(", ")}.`;
}

// ---- the list of faces

function listFaces(faces) {
  element("none").hidden = faces.length > 0;
  element("none").textContent = "None found.";
  const list = element("faces");
  while (list.children.length > faces.length) list.lastChild.remove();
  while (list.children.length < faces.length) list.append(emptyItem());
  faces.forEach((face, i) => fillItem(list.children[i], face, i + 1));
}

function emptyItem() {
  const item = document.createElement("li");
  const rows = labels.slice(0, MOST_BARS).map(() => {
    const row = document.createElement("div");
    row.innerHTML =
      '<dt dir="auto"></dt>' +
      '<dd><span class="bar" aria-hidden="true"><span></span></span><span class="percent"></span></dd>';
    return row;
  });
  const table = document.createElement("dl");
  table.append(...rows);
  item.append(document.createElement("h3"), table);
  if (labels.length > MOST_BARS) {
    const rest = document.createElement("p");
    rest.className = "rest";
    rest.textContent = `and ${labels.length - MOST_BARS} less probable labels`;
    item.append(rest);
  }
  return item;
}

function fillItem(item, face, number) {
  const { label, probability } = best(face);
  item.querySelector("h3").textContent = `Face ${number}: ${isolated(label)}, ${percent(probability)}`;
  const places = listed(face);
  item.querySelectorAll("dl > div").forEach((row, i) => {
    const share = face.probabilities[places[i]];
    row.querySelector("dt").textContent = labels[places[i]];
    row.querySelector(".bar span").style.width = `${share * 100}%`;
    row.querySelector(".percent").textContent = percent(share);
  });
}

// ---- frames around faces, in the picture

function drawFaces(context, faces, { mirrored = false } = {}) {
  const { width, height } = context.canvas;
  const unit = Math.max(width / frame.clientWidth, height / (innerHeight * 0.75)); // picture pixels per screen pixel
  const line = 20 * unit;
  context.lineWidth = 2.5 * unit;
  context.font = `600 ${14 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  faces.forEach((face, i) => {
    const across = face.box.right - face.box.left;
    const left = mirrored ? width - face.box.right : face.box.left;
    const words = `${i + 1} ${isolated(shortened(context, best(face).label, width - 40 * unit))}`;
    const room = context.measureText(words).width + 10 * unit;
    const x = Math.min(Math.max(0, left), Math.max(0, width - room));
    const y = Math.max(0, face.box.top - line);
    context.strokeStyle = "#67d2ea";
    context.strokeRect(left, face.box.top, across, face.box.bottom - face.box.top);
    context.fillStyle = "#0b1a20";
    context.fillRect(x, y, room, line);
    context.fillStyle = "#ffffff";
    context.fillText(words, x + 5 * unit, y + line / 2);
  });
}

// A label that is no wider than `room`, shortened at its end where it must be.
function shortened(context, label, room) {
  if (context.measureText(label).width <= room) return label;
  let letters = [...label];
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > room) letters = letters.slice(0, -1);
  return `${letters.join("")}…`;
}

function show(what) {
  hint.hidden = what !== "nothing";
  video.hidden = what !== "camera";
  view.hidden = what === "nothing";
  view.ariaHidden = what === "camera" ? "true" : null;
  frame.classList.toggle("full", what !== "nothing");
}

// ---- photos

async function readPhoto(source) {
  closeCamera();
  showError();
  const myTurn = ++turn;
  announce("Reading the photo…");
  let picture;
  try {
    picture = await asBitmap(source);
  } catch {
    if (myTurn !== turn) return;
    announce("");
    showError(`${source.name || "That"} is not a picture that this browser can read.`);
    return;
  }
  const kept = await createImageBitmap(picture); // the worker takes ownership of `picture`
  try {
    const { faces, milliseconds } = await ask("read", { picture, side: settings.detector.photo_side }, [picture]);
    if (myTurn !== turn) return;
    drawPhoto(kept, faces);
    listFaces(faces);
    announce(inWords(faces));
    showSpeed(null, milliseconds);
  } catch (error) {
    if (myTurn !== turn) return;
    announce("");
    showError(`The photo could not be read: ${error.message}`);
  } finally {
    kept.close();
  }
}

async function asBitmap(source) {
  const whole = await createImageBitmap(source, { colorSpaceConversion: "none" });
  const factor = Math.max(whole.width, whole.height) / LARGEST_SIDE;
  if (factor <= 1) return whole;
  const resizeWidth = Math.max(1, Math.round(whole.width / factor));
  const resizeHeight = Math.max(1, Math.round(whole.height / factor));
  const smaller = await createImageBitmap(whole, { resizeWidth, resizeHeight, resizeQuality: "high" });
  whole.close();
  return smaller;
}

function drawPhoto(photo, faces) {
  [view.width, view.height] = [photo.width, photo.height];
  const context = view.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, view.width, view.height);
  context.drawImage(photo, 0, 0);
  drawFaces(context, faces);
  show("photo");
}

function firstPicture(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find(({ type }) => type.startsWith("image/")) ?? files[0];
}

// ---- the camera

async function openCamera(deviceId) {
  showError();
  closeCamera();
  const myTurn = ++turn;
  announce("Opening the camera…");
  const wanted = { width: { ideal: 640 }, height: { ideal: 480 } };
  let opened;
  try {
    if (!navigator.mediaDevices) throw new Error("browsers open it only over https or on localhost");
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
    opened = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, ...which }, audio: false });
  } catch (error) {
    announce("");
    showError(`The camera could not be opened: ${whyNoCamera(error)}.`);
    return;
  }
  if (myTurn !== turn) {
    stopTracks(opened);
    return;
  }
  stream = opened;
  stream.getVideoTracks()[0].onended = () => closeCamera("The camera was closed.");
  video.srcObject = stream;
  video.classList.toggle("mirrored", facesUser(stream));
  await video.play();
  camera.textContent = "Close the camera";
  camera.ariaPressed = "true";
  await listCameras();
  announce("The camera is open.");
  await watch(myTurn);
}

function whyNoCamera(error) {
  const known = {
    NotAllowedError: "permission was denied",
    NotFoundError: "this device has no camera",
    NotReadableError: "another program is using it",
  };
  return known[error.name] ?? error.message;
}

const stopTracks = (opened) => opened.getTracks().forEach((track) => track.stop());
const facesUser = (opened) => opened.getVideoTracks()[0].getSettings().facingMode !== "environment";

function closeCamera(words = "") {
  if (!stream) return;
  turn++;
  stopTracks(stream);
  stream = null;
  video.srcObject = null;
  camera.textContent = "Open the camera";
  camera.ariaPressed = "false";
  cameras.hidden = true;
  show("nothing");
  listFaces([]);
  element("none").textContent = "None yet.";
  element("speed").textContent = "";
  announce(words);
}

async function listCameras() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  cameras.replaceChildren(...found.map(({ deviceId, label }, i) => new Option(label || `Camera ${i + 1}`, deviceId)));
  cameras.value = stream?.getVideoTracks()[0].getSettings().deviceId ?? "";
  cameras.hidden = found.length < 2;
}

// Reads one frame after another until the turn ends: as fast as the machine allows, without a backlog.
async function watch(myTurn) {
  const times = [];
  let spoken = "";
  let spokenAt = -Infinity;
  try {
    while (myTurn === turn) {
      await new Promise(requestAnimationFrame); // pauses while the page is hidden
      if (myTurn !== turn) return;
      if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) continue;
      const picture = await createImageBitmap(video);
      const { width, height } = picture;
      const { faces, milliseconds } = await ask("read", { picture, side: settings.detector.camera_side }, [picture]);
      if (myTurn !== turn) return;
      [view.width, view.height] = [width, height];
      drawFaces(view.getContext("2d"), faces, { mirrored: video.classList.contains("mirrored") });
      show("camera");
      listFaces(faces);
      times.push(performance.now());
      while (times.length > 30) times.shift();
      showSpeed(times, milliseconds);
      const words = inWords(faces);
      if (words !== spoken && times.at(-1) - spokenAt > SPOKEN_EVERY) {
        announce((spoken = words));
        spokenAt = times.at(-1);
      }
    }
  } catch (error) {
    if (myTurn === turn) {
      closeCamera();
      showError(`The camera image could not be read: ${error.message}`);
    }
  }
}

function showSpeed(times, { find, read }) {
  const rate = times?.length > 1 ? ((times.length - 1) * 1000) / (times.at(-1) - times[0]) : null;
  const parts = [`faces found in ${Math.round(find)} ms`, `read in ${Math.round(read)} ms`];
  if (rate) parts.unshift(`${rate.toFixed(1)} frames a second`);
  element("speed").textContent = parts.join(" · ");
}

// ---- start

function aboutModel({ name, precision, accuracy, accuracy_split: split, trained_on: data }) {
  const parts = [`Model ${name}, ${precision}`];
  if (data) parts.push(`trained on ${data}`);
  if (accuracy) parts.push(`accuracy ${(accuracy * 100).toFixed(1)} % on ${split}`);
  return `${parts.join(", ")}.`;
}

file.addEventListener("change", () => {
  const [chosen] = file.files;
  file.value = ""; // so that the same photo can be chosen again
  if (chosen) readPhoto(chosen);
});
camera.addEventListener("click", () => (stream ? closeCamera("The camera is closed.") : openCamera()));
cameras.addEventListener("change", () => openCamera(cameras.value));
addEventListener("dragover", (event) => {
  event.preventDefault();
  frame.classList.add("over");
});
addEventListener("dragleave", () => frame.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  frame.classList.remove("over");
  const dropped = firstPicture(event.dataTransfer);
  if (dropped && !file.disabled) readPhoto(dropped);
});
addEventListener("paste", (event) => {
  const pasted = firstPicture(event.clipboardData);
  if (pasted && !file.disabled) readPhoto(pasted);
});

element("model").textContent = aboutModel(settings.model);
element("weak").hidden = !settings.model.seven; // which is known of FER2013's labels only
try {
  await ask("start", { settings });
  file.disabled = camera.disabled = false;
  announce("Ready.");
} catch (error) {
  announce("");
  showError(`The model could not be started: ${error.message}`);
}
