// Every word that the page says of a verdict. Probabilities become words by these bands alone (docs/how-to/page.md has
// them, too; a test compares the two). Source of the bands: Mastrandrea et al., Guidance Note for Lead Authors of the
// IPCC Fifth Assessment Report on Consistent Treatment of Uncertainties (2010), table 1; its "virtually certain" is "almost certainly" here.
export const BANDS = [
  [0.99, "Almost certainly"],
  [0.9, "Very likely"],
  [0.66, "Likely"],
  [0.5, "More likely than not"],
];

const PERTURBATIONS = {
  clean: () => "as it is",
  jpeg: (quality) => `saved as JPEG, quality ${quality}`,
  webp: (quality) => `saved as WebP, quality ${quality}`,
  resize: (percent) => `scaled to ${percent} % and back`,
  blur: (hundredths) => `blurred, sigma ${hundredths / 100} pixels`,
  crop: (percent) => `${percent} % cut away at the top and left`,
  png: () => "saved as PNG",
  screenshot: () => "shown, captured and saved as JPEG",
};

/** What was done to an image, by the name that the model card has for it. */
export function perturbation(name) {
  const [kind, strength] = name.split("-");
  return PERTURBATIONS[kind]?.(strength) ?? name;
}

export const percent = (share) => {
  if (share === null || share === undefined) return "";
  if (share > 0.9995 && share < 1) return ">\u00a099.9\u00a0%";
  return share > 0 && share < 0.0005 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`;
};

export const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`);

const band = (probability) => BANDS.find(([from]) => probability >= from)?.[1] ?? "Not likely";

/** One of real, synthetic, unknown: how a verdict is shown. */
export function kind(verdict) {
  if (verdict.verdict === "real") return "real";
  return verdict.verdict === "synthetic:unknown" || verdict.verdict.startsWith("undecided") ? "unknown" : "synthetic";
}

/** The verdict in words. */
export function words(verdict) {
  const synthetic = 1 - verdict.real;
  if (verdict.verdict === "undecided: too little to see") return "Too little to see: no verdict";
  if (strange(verdict)) { // no band: what probabilities are worth was calibrated on other images
    return `Like nothing the model was shown: ${verdict.verdict === "undecided" ? "undecided" : "synthetic rather than real"}`;
  }
  if (verdict.verdict === "undecided") return "Undecided: neither real nor synthetic is likely enough";
  const say = (what, probability) => (verdict.calibrated ? `${band(probability)} ${what}` : `Called ${what}; how sure that is can't be said`);
  if (verdict.verdict === "real") return say("real", verdict.real);
  if (verdict.generator !== null) return `${say("synthetic", synthetic)}, most like ${verdict.generator}`;
  return say("synthetic", synthetic) + (verdict.one_of.length ? `, by ${list(verdict.one_of)}` : ", by no generator for sure");
}

export const strange = (verdict) => verdict.strangeness !== null && verdict.threshold !== null && verdict.strangeness > verdict.threshold;

/** What the verdict must not be taken for. */
export function caution(verdict) {
  if (!verdict.calibrated) return "This version is not calibrated: its probabilities tend to be too sure, and it calls nothing unknown.";
  if (verdict.verdict.startsWith("undecided: too little")) return "Nearly one colour, a strip, or a few pixels: the figures below mean nothing.";
  if (strange(verdict)) return "The image is unlike everything the model learned, so the figures below say little of it. Maybe a new generator, maybe another kind of photo.";
  return "How sure these words are was measured on images like those that the model learned. A generator that it never saw may pass for a known one, or for real.";
}

/** How strange, in words. */
export function strangeness(verdict) {
  if (verdict.strangeness === null) return "Not known: this version is not calibrated.";
  const numbers = `${verdict.strangeness.toFixed(2)}, where an ordinary image of what was learned has 1, and the threshold is ${verdict.threshold.toFixed(2)}`;
  return `${strange(verdict) ? "Like nothing known" : "Within what is known"}: ${numbers}.`;
}

/** What a tile shows, in two or three words. */
export function tileWords(tile) {
  if (tile.verdict === "undecided: too little to see") return "too little to see";
  if (tile.verdict === "synthetic:unknown" || tile.verdict === "undecided") return tile.verdict.replace(":", ", ");
  return tile.verdict === "real" ? `real ${percent(tile.real)}` : `synthetic ${percent(1 - tile.real)}${tile.generator ? `, ${tile.generator}` : ""}`;
}

export const date = (text) => (text ? text.slice(0, 10) : "not known");

const TROUBLE = {
  not_an_image: "This is no image that the server can read.",
  damaged: "The image file is damaged.",
  empty: "The file is empty.",
  image_too_large: "The file is too large.",
  too_many_pixels: "The image has too many pixels.",
  overloaded: "The server has too much to do just now.",
  unreachable: "The server does not answer.",
};
const HEIC = /\.(heic|heif)$/i;

/** Why there is no verdict, in words: what it is, and what the server said. */
export function trouble(error, name = "") {
  if (error.code === "not_an_image" && HEIC.test(name)) {
    return ["HEIC images can't be read.", "Ask for the photo as JPEG as the phone exports it. Whatever is saved anew, in any format, has lost some of what a verdict looks at."];
  }
  const reason = error.reason.charAt(0).toUpperCase() + error.reason.slice(1);
  return [TROUBLE[error.code] ?? "There is no verdict on this.", reason];
}
