// What the model knows: its generators, how they were learned, and the card of the version that is served.
import { el, markdown, svg, table } from "./dom.js";
import { date, list, percent } from "./words.js";

const WIDTH = 720, HEIGHT = 280, LEFT = 50, RIGHT = 190, TOP = 15, BOTTOM = 50, LINE = 14;

export function showModel(place, model) {
  const near = (task) => (task.nearest ? `${task.nearest}${task.similarity === null ? "" : ` (${task.similarity.toFixed(2)})`}` : "not known");
  place.replaceChildren(
    el("h2", {}, `${model.name}, version ${model.version}`),
    el("p", {}, `${model.made_at ? `Made ${date(model.made_at)}${model.promoted_at ? `, promoted ${date(model.promoted_at)}` : ""}. ` : ""}${model.calibrated ? "Its probabilities are calibrated." : "It is not calibrated."}`),
    model.problem ? el("p", { class: "notice" }, `Not all of it is here: ${model.problem}.`) : "",
    el("h3", {}, "Generators"),
    table("Accuracy: of the task's test images, real and synthetic, as the version that learned it and as this one names them. Nearest: the task whose branch was most alike then (1 the same, 0 unrelated)",
      ["task", "generators", "learned", "accuracy then", "accuracy now", "nearest"],
      model.tasks.map((task) => [task.name, task.generators.join(", ") || "more of a known one", task.version === null ? date(null) : `${date(task.learned_at)}, version ${task.version}`,
        percent(task.accuracy[0]), percent(task.accuracy.at(-1)), near(task)])),
    el("p", {}, model.confused.length ? `It confuses: ${model.confused.map((group) => `${list(group)}`).join("; ")}.` : ""),
    el("h3", {}, "Timeline"), timeline(model),
    table("The same in figures: accuracy on each task after each", ["after", ...model.tasks.map((task) => task.name), "average"],
      model.tasks.map((task, after) => [task.name, ...model.tasks.map((one, i) => (i > after ? "" : percent(one.accuracy[after - i]))), percent(model.average[after])])),
    el("h3", {}, "The version's card"),
    ...(model.card ? markdown(model.card) : [el("p", {}, "It can't be had just now.")]),
  );
}

function timeline({ tasks, average }) {
  const least = Math.min(0.95, Math.floor(20 * Math.min(...tasks.flatMap((task) => task.accuracy))) / 20);
  const x = (episode) => LEFT + ((WIDTH - LEFT - RIGHT) * (tasks.length === 1 ? 0.5 : episode / (tasks.length - 1)));
  const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * ((1 - share) / (1 - least));
  const lines = tasks.map((task, i) => ({ name: task.name, from: i, values: task.accuracy, colour: `hsl(${(360 * i) / tasks.length} 60% 50%)`, dash: "none" }));
  lines.push({ name: "average", from: 0, values: average, colour: "currentColor", dash: "6 4" });
  let below = -LINE;
  const labels = [...lines].sort((a, b) => y(a.values.at(-1)) - y(b.values.at(-1))).map((line) => {
    below = Math.max(below + LINE, y(line.values.at(-1)));
    return svg("text", { x: WIDTH - RIGHT + 12, y: below + 4 }, svg("tspan", { fill: line.colour }, "● "), `${line.name} ${percent(line.values.at(-1))}`);
  });
  const grid = [1, (1 + least) / 2, least].map((share) => [svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }), svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${Math.round(1000 * share) / 10} %`)]);
  const names = tasks.map((task, i) => svg("text", { x: x(i), y: HEIGHT - BOTTOM + 18 + (i % 2) * LINE, "text-anchor": "middle" }, task.name));
  const curves = lines.map((line) => [
    svg("polyline", { stroke: line.colour, "stroke-dasharray": line.dash, points: line.values.map((value, i) => `${x(line.from + i)},${y(value)}`).join(" ") }),
    line.values.map((value, i) => svg("circle", { cx: x(line.from + i), cy: y(value), r: 3, fill: line.colour })),
  ]);
  return svg("svg", { class: "timeline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Accuracy on each task after each task was learned; the same follows as a table" }, grid, names, curves.flat(), labels);
}
