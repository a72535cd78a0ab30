// The heat map: fields over the image, coloured by what the square in the middle of each shows.
import { el, svg, table } from "./dom.js";
import { tileWords } from "./words.js";

const COLOURS = { synthetic: "#e66100", real: "#2b7de0", unknown: "#a35bd6", nothing: "#888888" }; // told apart by the colour-blind, too
const NAMES = { synthetic: "synthetic", real: "real", unknown: "like nothing known", nothing: "too little to see" };
const MOST = 0.6; // opacity

/** Each tile with its field (left, top, width, height), colour and opacity; fields meet halfway between tiles. */
export function fields({ width, height, side, columns, tiles }) {
  const rows = tiles.length / columns;
  return tiles.map((tile, i) => {
    const synthetic = 1 - tile.real;
    let what = synthetic > 0.5 ? "synthetic" : "real";
    if (tile.verdict === "synthetic:unknown" || tile.verdict === "undecided") what = "unknown";
    if (tile.verdict === "undecided: too little to see") what = "nothing";
    const opacity = what === "unknown" || what === "nothing" ? MOST / 2 : MOST * Math.abs(2 * synthetic - 1);
    const field = [(width / columns) * (i % columns), (height / rows) * Math.floor(i / columns), width / columns, height / rows];
    return { tile, field, side, what, colour: COLOURS[what], opacity };
  });
}

/** What there is to see of a case's map: picture, key, and the same as a table. */
export function map(one) {
  const found = one.map;
  if (!found.tiles.length) return [picture(one, []), el("p", {}, `The image is hardly larger than the square of ${found.side} pixels that the model looks at, so there are no parts to compare.`)];
  const all = fields(found);
  const shown = el("input", { type: "checkbox", id: "fields", checked: true, onchange: () => drawn.querySelector("svg").toggleAttribute("hidden", !shown.checked) });
  const drawn = picture(one, all);
  const counts = Object.keys(COLOURS).map((what) => [all.filter((field) => field.what === what).length, NAMES[what]]).filter(([count]) => count);
  const covers = all.every(({ field, side }) => field[2] <= side && field[3] <= side);
  const turned = found.notes.exif.includes("Orientation") ? " Pixels are shown as they are stored, not turned." : "";
  return [
    drawn,
    el("p", {}, shown, el("label", { for: "fields" }, " Show the map"), Object.entries(NAMES).map(([what, name]) => [el("span", { class: `key ${what}` }), name])),
    el("p", { class: "faint" }, `Of ${all.length} squares: ${counts.map((pair) => pair.join(" ")).join(", ")}. Each is judged as if it were the whole image; the stronger the colour, the surer. ` +
      (covers ? "" : "What lies between the outlined squares was not looked at. ") + `The verdict itself comes from ${one.verdict.crops === 1 ? "the centre" : "five squares, the centre and the centres of the quarters"}, dashed.${turned}`),
    el("details", {}, el("summary", {}, "The map as a table"), table("Squares, row by row", ["from the left, top", "shows"],
      all.map(({ tile }) => [`${tile.left}, ${tile.top}`, tileWords(tile)]))),
  ];
}

function picture(one, all) {
  const { width, height, side } = one.map;
  const image = el("img", { src: one.url, alt: "", width, height, onerror: () => image.replaceWith(instead(width, height)) });
  const box = ([x, y, w, h], attributes, ...more) => svg("rect", { x, y, width: w, height: h, ...attributes }, ...more);
  const places = all.length ? crops(one.map, one.verdict.crops) : [];
  return el("div", { class: "map" }, image, svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": "The image, with a map of what its parts show; the same follows as a table" },
    all.map(({ tile, field, colour, opacity }) => box(field, { class: "field", fill: colour, "fill-opacity": opacity }, svg("title", {}, tileWords(tile)))),
    all.map(({ tile }) => box([tile.left, tile.top, side, side], { class: "look" })),
    places.map(([left, top]) => box([left, top, side, side], { class: "crop" }))));
}

/** Where the squares lie that the verdict comes from, as lorax/data/crops.py cuts them. */
function crops({ width, height, side }, count) {
  const half = (value) => Math.floor(value / 2);
  const ends = (length) => [half(half(length) - side), half(2 * length - half(length) - side)];
  const centre = [half(width - side), half(height - side)];
  return count === 1 ? [centre] : [centre, ...ends(height).flatMap((top) => ends(width).map((left) => [left, top]))];
}

const instead = (width, height) => svg("svg", { class: "none", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "This browser can't show the image" },
  svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle", "font-size": width / 20, fill: "currentColor" }, "This browser can't show it"));
