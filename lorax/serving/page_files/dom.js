// Elements from data. Text goes in as text nodes alone, so that nothing that a file or a card says can become markup.
const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

/** A table that can be scrolled: a caption, heads, and rows of cells, texts or elements; the first of a row names it. */
export function table(caption, heads, rows) {
  const cells = (row) => row.map((cell, i) => (i ? el("td", {}, cell) : el("th", { scope: "row" }, cell)));
  return el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": caption }, el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head) => el(head.length ? "th" : "td", { scope: head.length ? "col" : null }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}

/** The Markdown that a model card is written in: headings, tables, lists, code, `code` and **bold**. */
export function markdown(text) {
  const blocks = [];
  let rows = [], items = [], code = [], under = "";
  const end = () => {
    if (rows.length) blocks.push(table(under, rows[0].map(inline), rows.slice(2).map((row) => row.map(inline))));
    if (items.length) blocks.push(el("ul", {}, items.map((item) => el("li", {}, inline(item)))));
    if (code.length) blocks.push(el("pre", { tabindex: 0 }, code.join("\n")));
    [rows, items, code] = [[], [], []];
  };
  for (const line of text.split("\n")) {
    if (line.startsWith("|")) rows.push(line.split("|").slice(1, -1).map((cell) => cell.trim()));
    else if (line.startsWith("- ")) items.push(line.slice(2));
    else if (line.startsWith("    ")) code.push(line.slice(4));
    else {
      if (line.trim() || !items.length) end();
      const head = line.match(/^(#+) (.*)/);
      if (head) blocks.push(el(`h${Math.min(6, head[1].length + 3)}`, {}, inline((under = head[2]))));
      else if (line.trim()) blocks.push(el("p", {}, inline(line)));
    }
  }
  end();
  return blocks;
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.startsWith("`") && part.length > 2) return el("code", {}, part.slice(1, -1));
    return part.startsWith("**") && part.length > 4 ? el("strong", {}, part.slice(2, -2)) : part;
  });
}
