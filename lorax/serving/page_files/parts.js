// What both the page and a report show of a verdict.
import { el, svg, table } from "./dom.js";
import { date, percent, perturbation } from "./words.js";

const SHOWN = 50; // names of a file's notes
const KEPT = 0.9; // of the clean accuracy: as the model card has it, verdicts don't survive what takes more

export function probabilities(verdict, model) {
  const real = new Set((model?.classes ?? []).filter((entry) => entry.is_real).map((entry) => entry.label));
  const rows = Object.entries(verdict.probabilities).filter(([label]) => !real.has(label)).map(([label, p]) => [label, p, "synthetic"]);
  rows.sort((a, b) => b[1] - a[1]);
  return table(verdict.calibrated ? "Probabilities, calibrated; together 100 %" : "The network's own probabilities, not calibrated", ["what", "how likely", ""],
    [["real", verdict.real, "real"], ...rows].map(([label, p, what]) => [label, percent(p), bar(p, what)]));
}

const bar = (share, what, mark = null) => svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
  svg("rect", { class: what, width: 100 * share, height: 10 }), mark === null ? null : svg("line", { x1: 100 * mark, x2: 100 * mark, y2: 10 }));

export function gauge(verdict) {
  if (verdict.strangeness === null) return "";
  const most = Math.max(1.5 * verdict.threshold, verdict.strangeness);
  return bar(Math.max(0, verdict.strangeness) / most, verdict.strangeness > verdict.threshold ? "unknown" : "known", verdict.threshold / most);
}

export function robustness(model) {
  const { clean, ...changed } = model?.robustness ?? {};
  if (clean === undefined) return [el("p", {}, "Not known: it was not measured, or the registry can't be asked.")];
  const rows = [["clean", clean], ...Object.entries(changed).sort((a, b) => b[1] - a[1])];
  return [
    el("p", {}, "An image that went through one of these on its way has lost some of what the model looks at, and so would this one if it were sent on like that."),
    table("Measured on the model's test images, not on this one", ["what was done", "named rightly", ""],
      rows.map(([name, share]) => [perturbation(name), percent(share), share < KEPT * clean ? "clearly fewer: don't trust a verdict" : ""])),
  ];
}

/** A warning where the file is of a lossy format that the model's verdicts don't survive. */
export function lossy(one, model) {
  const row = { JPEG: "jpeg-75", MPO: "jpeg-75", WEBP: "webp-80" }[one.map?.notes.format];
  const { clean, [row]: share } = model?.robustness ?? {};
  if (share === undefined || share >= KEPT * clean) return [];
  return [el("p", { class: "notice" }, `The file is lossy. If it was saved anew on its way here, the words above are too sure: of test images ${perturbation(row)}, ${percent(share)} are named rightly, of untouched ones ${percent(clean)}.`)];
}

const some = (names) => names.slice(0, SHOWN).join(", ") + (names.length > SHOWN ? ` and ${names.length - SHOWN} more` : "");

export function besides(notes) {
  const found = [
    notes.exif.length ? `EXIF: ${some(notes.exif)}` : null,
    notes.text.length ? `texts: ${some(notes.text)}` : null,
    notes.xmp ? "an XMP packet" : null,
    notes.c2pa ? "a C2PA manifest (its signature was not checked)" : null,
  ].filter(Boolean);
  return [
    el("p", {}, `Format ${notes.format || "not told"}. ${found.length ? "It also holds, by name:" : "Nothing else was found in it: no EXIF, no texts, no XMP, no C2PA manifest."}`),
    found.length ? el("ul", {}, found.map((text) => el("li", { class: "name" }, text))) : "",
    el("p", { class: "faint" }, "Anyone can write or strip these, so no verdict looks at them."),
  ];
}

export function judge(verdict, model) {
  const { name, version, state, data } = verdict.model;
  const made = model?.version === version && model.made_at ? `, of ${date(model.made_at)}` : "";
  const rows = [["model", `${name}, version ${version}${made}`], ["state", state], ["data", data.digest], ["commit", data.commit ?? "none"], ["image, sha256", verdict.sha256]];
  return table("Digests, for looking this up again", ["what", "which"], rows.map(([what, which]) => [what, el("code", {}, which)]));
}
