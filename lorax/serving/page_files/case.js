// One image: its verdict, and what it rests on.
import { el } from "./dom.js";
import { map } from "./map.js";
import { besides, gauge, judge, lossy, probabilities, robustness } from "./parts.js";
import { saveJson, saveReport } from "./report.js";
import { ask, files, Refusal } from "./server.js";
import { caution, kind, strangeness, trouble, words } from "./words.js";

/** Show a case; its map is asked for once, when it is first looked at. */
export function show(place, one, model) {
  const name = one.file.name || "pasted image";
  if (one.error) {
    const [what, why] = trouble(one.error, name);
    place.replaceChildren(el("h2", { id: "case-words" }, what), el("p", { class: "name faint" }, name), el("p", {}, why));
    return;
  }
  if (!one.verdict) {
    place.replaceChildren(el("h2", { id: "case-words" }, "Waiting for its turn …"), el("p", { class: "name faint" }, name));
    return;
  }
  const warning = el("div"), mapped = el("div", { "aria-live": "polite" }), notes = el("div");
  const note = el("textarea", { id: "note", oninput: () => (one.note = note.value) });
  note.value = one.note ?? "";
  place.replaceChildren(
    el("h2", { id: "case-words", class: kind(one.verdict) }, words(one.verdict)),
    el("p", { class: "name faint" }, name),
    el("p", {}, caution(one.verdict)), warning,
    el("h3", {}, "How likely is what"), probabilities(one.verdict, model),
    el("h3", {}, "How strange it is against what is known"), el("p", {}, strangeness(one.verdict)), gauge(one.verdict),
    el("h3", {}, "Which part of the image says what"), mapped,
    el("h3", {}, "What JPEG and scaling would do to it"), ...robustness(model),
    el("h3", {}, "In the file beside its pixels: not used"), notes,
    el("h3", {}, "Who judged"), judge(one.verdict, model),
    el("h3", {}, "Send this as a case"),
    el("p", {}, "Made in this browser and saved by it: the verdict with all its figures, the image's sha256, and the model version's digests. The server keeps nothing."),
    el("label", { for: "note" }, "A note of yours that goes with it"), note,
    el("button", { type: "button", onclick: () => saveReport(one, model) }, "Save the report (HTML)"), " ",
    el("button", { type: "button", onclick: () => saveJson(one, model) }, "Save the data (JSON)"),
  );
  look(one).then(() => {
    mapped.replaceChildren(...(one.map ? map(one) : [el("p", {}, trouble(one.mapError).join(" "))]));
    notes.replaceChildren(...(one.map ? besides(one.map.notes) : []));
    warning.replaceChildren(...lossy(one, model));
  });
  mapped.append(el("p", { class: "faint" }, "Looking at its parts …"));
}

function look(one) {
  one.looking ??= ask("/v1/tiles", files([one.file])).then(
    (found) => (one.map = found),
    (problem) => {
      one.looking = null; // it is tried again when the case is shown anew
      one.mapError = problem instanceof Refusal ? problem.error : { code: "", reason: String(problem) };
    },
  );
  return one.looking;
}
