// Sort and filter tables; compare pictures. The page is whole without it.
"use strict";

for (const tools of document.querySelectorAll("[data-tools]")) tools.hidden = false;

const amount = (text) => {
  const number = parseFloat(text.replace("\u2212", "-").replace("+", "").replace("\u221e", "Infinity"));
  return Number.isNaN(number) ? null : number;
};

function sort(table, column, up) {
  const read = (row) => row.cells[column].firstChild.textContent.trim();
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [a, b].map((row) => (column ? amount(read(row)) : null));
    if (x === null && y === null) {
      const words = read(a).localeCompare(read(b), undefined, { numeric: true });
      return up ? words : -words;
    }
    if (x === null || y === null) return x === null ? 1 : -1; // without a value: always last
    return up ? x - y : y - x;
  });
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll(".sort"))
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    sort(heading.closest("table"), heading.cellIndex, up);
  });

for (const field of document.querySelectorAll("input[type=search]"))
  field.addEventListener("input", () => {
    const place = field.closest(".table");
    const words = field.value.toLowerCase().split(/\s+/);
    const rows = [...place.querySelector("tbody").rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    place.querySelector("output").textContent = field.value ? `${left} of ${rows.length} rows` : "";
  });

const viewer = document.getElementById("viewer");
const [left, right] = viewer.querySelectorAll("select");
const [cut, apart] = viewer.querySelectorAll("input");
const stage = viewer.querySelector(".stage");
const remark = viewer.querySelector(".note");
let shown = [];

function difference(a, b) {
  const canvas = document.createElement("canvas");
  canvas.width = b.naturalWidth;
  canvas.height = b.naturalHeight;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const [from, to] = [a, b].map((image) => {
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height);
  });
  for (let i = 0; i < to.data.length; i++)
    if (i % 4 < 3) to.data[i] = 127 + 10 * (to.data[i] - from.data[i]);
  pen.putImageData(to, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${b.alt} less ${a.alt}, ten times magnified`);
  canvas.className = b.className;
  return canvas;
}

async function draw() {
  const [a, b] = [left, right].map((choice) => {
    const image = shown[choice.value].querySelector("img").cloneNode();
    image.loading = "eager";
    return image;
  });
  await Promise.all([a.decode(), b.decode()]);
  const sizes = [a, b].map((image) => `${image.naturalWidth} × ${image.naturalHeight}`);
  const subtract = apart.checked && sizes[0] === sizes[1];
  remark.textContent = `As embedded here: ${sizes.join(" and ")} px.`;
  if (apart.checked && !subtract) remark.textContent += " They differ in size: no difference.";
  cut.disabled = subtract;
  const edge = document.createElement("div");
  edge.className = "edge";
  if (subtract) return stage.replaceChildren(difference(a, b));
  b.classList.add("over");
  stage.replaceChildren(a, b, edge);
}

function fill(choice, chosen) {
  choice.replaceChildren();
  for (const kind of ["photo", "sample"]) {
    const group = document.createElement("optgroup");
    group.label = `${kind}s`;
    shown.forEach((picture, index) => {
      if (picture.dataset.key.split(":")[0] !== kind) return;
      group.append(new Option(picture.querySelector("img").alt, index, false, picture === chosen));
    });
    if (group.children.length) choice.append(group);
  }
}

function open(picture) {
  const all = [...picture.closest("[data-compare]").querySelectorAll(".picture")];
  const kind = picture.dataset.key.split(":")[0];
  const other = all.find((each) => each.dataset.key.split(":")[0] !== kind);
  const keys = [picture.dataset.key, other && other.dataset.key];
  shown = all.filter((each) => keys.includes(each.dataset.key));
  const alike = shown.filter((each) => each.dataset.key === picture.dataset.key);
  fill(left, alike[0]);
  fill(right, picture === alike[0] && alike[1] ? alike[1] : picture);
  draw();
  viewer.showModal();
}

for (const picture of document.querySelectorAll(".picture"))
  picture.addEventListener("click", () => open(picture));
for (const control of [left, right, apart]) control.addEventListener("change", draw);
cut.addEventListener("input", () => stage.style.setProperty("--cut", `${cut.value}%`));
