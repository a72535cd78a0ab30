// A case as files: all that was found, for somebody else to read and to check. Made and saved by the browser.
import { besides, judge, lossy, probabilities, robustness } from "./parts.js";
import { el, table } from "./dom.js";
import { fields } from "./map.js";
import { BANDS, caution, strangeness, tileWords, words } from "./words.js";

const WIDEST = 900; // pixels of the report's picture
const STYLE = `body{max-width:50rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif;color:#1b1d1f;background:#fff}
table{border-collapse:collapse}caption{text-align:left;color:#55595e}th,td{padding:.2rem .8rem .2rem 0;border-bottom:1px solid #c9ccd0;text-align:left;vertical-align:top}
svg{display:none}
img{max-width:100%}code{overflow-wrap:anywhere}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}`;

function record(one, model) {
  const { name: sent, sha256, ...verdict } = one.verdict; // a form escapes quotes in the name that it sends
  return {
    made_at: new Date().toISOString(),
    image: { name: one.file.name || sent, sha256, bytes: one.file.size, width: one.map?.width ?? null, height: one.map?.height ?? null },
    words: words(one.verdict),
    bands: Object.fromEntries(BANDS.map(([from, said]) => [said, from])),
    caution: caution(one.verdict),
    verdict,
    map: one.map ? { model: one.map.model, side: one.map.side, columns: one.map.columns, tiles: one.map.tiles } : null,
    notes_not_used: one.map?.notes ?? null,
    robustness: model?.robustness ?? null,
    note: one.note ?? "",
  };
}

export function saveJson(one, model) {
  save(JSON.stringify(record(one, model), null, 2), "application/json", fileName(one, "json"));
}

export async function saveReport(one, model) {
  const found = record(one, model), data = JSON.stringify(found, null, 2);
  const seen = await picture(one);
  const page = document.implementation.createHTMLDocument(`${found.words}: ${found.image.name}`);
  page.documentElement.lang = "en";
  page.head.append(
    el("meta", { charset: "utf-8" }),
    el("meta", { "http-equiv": "Content-Security-Policy", content: "default-src 'none'; img-src data:; style-src 'unsafe-inline'" }),
    el("style", {}, STYLE),
  );
  page.body.append(el("main", {},
    el("h1", {}, found.words), el("p", {}, `${found.image.name}, ${found.image.bytes} bytes, judged by ${found.verdict.model.name}, version ${found.verdict.model.version}; report of ${found.made_at}`),
    el("p", {}, found.caution, " A classifier's opinion, one hint among several: not evidence by itself."),
    lossy(one, model),
    found.note ? el("p", {}, el("strong", {}, "Note: "), found.note) : "",
    seen ? el("img", { src: seen, alt: "The image, with what its parts show" }) : "",
    el("h2", {}, "How likely is what"), probabilities(one.verdict, model),
    el("h2", {}, "How strange it is"), el("p", {}, strangeness(one.verdict)),
    el("h2", {}, "What JPEG and scaling would do to it"), ...robustness(model),
    one.map ? [el("h2", {}, "In the file beside its pixels: not used"), ...besides(one.map.notes)] : [],
    el("h2", {}, "Hashes"), judge(one.verdict, model), el("p", {}, "sha256 of the data below: ", el("code", {}, await digest(data))),
    one.map?.tiles.length ? [el("h2", {}, "The map"), table("Squares, row by row", ["from the left, top", "shows"], one.map.tiles.map((tile) => [`${tile.left}, ${tile.top}`, tileWords(tile)]))] : [],
    el("h2", {}, "Data"), el("details", {}, el("summary", {}, "All of it, as JSON"), el("pre", {}, data)),
  ));
  save(`<!doctype html>\n${page.documentElement.outerHTML}`, "text/html", fileName(one, "html"));
}

/** The image with its map, as a data: URL; null where the browser can't show it as it is stored. */
async function picture(one) {
  const isTurned = one.map?.notes.exif.includes("Orientation"), isJpeg = ["JPEG", "MPO"].includes(one.map?.notes.format);
  if (!one.map || (isTurned && !isJpeg)) return null;
  const image = await createImageBitmap(isTurned ? await stored(one.file) : one.file).catch(() => null);
  if (!image) return null;
  const scale = Math.min(1, WIDEST / Math.max(one.map.width, one.map.height));
  const canvas = el("canvas", { width: Math.max(1, Math.round(one.map.width * scale)), height: Math.max(1, Math.round(one.map.height * scale)) });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  for (const { field, colour, opacity } of fields(one.map)) {
    pen.globalAlpha = opacity;
    pen.fillStyle = colour;
    pen.fillRect(...field.map((value) => value * scale));
  }
  return canvas.toDataURL("image/jpeg", 0.85);
}

/** A JPEG without its EXIF: canvases turn photos by it whatever they are told, and the map lies over pixels as stored. */
async function stored(file) {
  const bytes = new Uint8Array(await file.arrayBuffer()), parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (bytes[at] === 0xff && ((bytes[at + 1] & 0xf0) === 0xe0 || bytes[at + 1] === 0xfe)) { // APPn, or a comment
    const end = at + 2 + 256 * bytes[at + 2] + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return new Blob([...parts, bytes.subarray(at)], { type: "image/jpeg" });
}

async function digest(text) {
  if (!globalThis.crypto?.subtle) return "not computed: the browser does that over https or on this machine only";
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const fileName = (one, ending) => `case-${one.verdict.sha256.slice(0, 12)}.${ending}`;

function save(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
