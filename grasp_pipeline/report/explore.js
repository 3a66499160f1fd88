// The page's interactive views, drawn from the JSON in #explore-data. Text only ever enters by textContent.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("explore-data").textContent);
  const root = document.getElementById("explore-views");
  const NS = "http://www.w3.org/2000/svg";
  const WIDTH = 640;
  const ROW = 22;
  const LEFT = 190;
  const RIGHT = 70;
  const HUES = ["accent", "second", "mark", "good", "muted", "soft"];
  const SHOWN = 20;

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
    for (const child of children) if (child !== null) node.append(child);
    return node;
  };
  const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
  const colour = (name) => `var(--${name})`;
  const count = (value) => value.toLocaleString("en-US");
  const number = (value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace("-", "−");
    return String(Number(value.toPrecision(4))).replace("-", "−");
  };
  const compact = (value) =>
    value >= 1e9 ? `${number(value / 1e9)}B` : value >= 1e6 ? `${number(value / 1e6)}M`
      : value >= 1e3 ? `${number(value / 1e3)}k` : number(value);
  const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "–");
  const unique = (values) => [...new Set(values)];
  const sum = (values) => values.reduce((all, value) => all + value, 0);
  const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  let serial = 0;
  const choice = (label, options, onChange) => {
    const id = `choice-${(serial += 1)}`;
    const list = html("select", { id }, ...options.map(([value, text]) => {
      const option = html("option", { value });
      option.textContent = text;
      return option;
    }));
    list.addEventListener("change", onChange);
    const named = html("label", { for: id });
    named.textContent = label;
    return { box: html("span", { class: "control" }, named, list), get: () => list.value };
  };
  const field = (label, type, onChange) => {
    const id = `choice-${(serial += 1)}`;
    const input = html("input", { id, type });
    input.addEventListener("input", onChange);
    const named = html("label", { for: id });
    named.textContent = label;
    return { box: html("span", { class: "control" }, named, input), get: () => input.value.trim(), input };
  };
  const text = (x, y, said, more = {}) => {
    const node = svg("text", { x, y, fill: colour("ink"), "font-size": 12, ...more });
    node.textContent = said;
    return node;
  };
  const told = (node, said) => {
    const title = svg("title");
    title.textContent = said;
    node.append(title);
    node.dataset.told = said;
    return node;
  };
  const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  const ticks = (low, high, most = 5) => {
    const step = 10 ** Math.floor(Math.log10((high - low || 1) / most));
    const by = [1, 2, 5, 10].map((times) => times * step).find((size) => (high - low) / size <= most) || step;
    const found = [];
    for (let at = Math.ceil(low / by) * by; at <= high + by / 1e6; at += by) found.push(Number(at.toPrecision(12)));
    return found;
  };
  const axis = (at, low, high, height, format) => ticks(low, high).flatMap((value) => [
    svg("line", { x1: at(value), x2: at(value), y1: 18, y2: height - 22, stroke: colour("grid") }),
    text(at(value), height - 6, format(value), { "text-anchor": "middle", fill: colour("muted") }),
  ]);
  const picture = (height, label, ...children) =>
    svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, ...children);
  const names = (rows) => rows.map((name, i) =>
    told(text(LEFT - 8, 18 + ROW * i + 15, cut(name, 28), { "text-anchor": "end" }), name));

  const table = (caption, columns, rows) => {
    const cell = (tag, value, i, more = {}) => {
      const node = html(tag, { ...more, ...(typeof value === "number" ? { class: "number" } : {}) });
      node.textContent = typeof value === "number" ? number(value) : value === null ? "–" : value;
      return node;
    };
    const heads = columns.map((name) => cell("th", name, 0, { scope: "col" }));
    const body = rows.slice(0, 300).map((row) => html("tr", {}, ...row.map((value, i) =>
      i === 0 ? cell("th", value, i, { scope: "row" }) : cell("td", value, i))));
    const title = html("caption");
    title.textContent = caption + (rows.length > 300 ? ` (the first 300 of ${count(rows.length)} rows)` : "");
    const inside = html("table", {}, title, html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...body));
    return html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${caption}, table` }, inside);
  };

  // A view: heading, controls, picture, what is under the pointer, and the same numbers as a table.
  const view = (id, title, about, controls, draw) => {
    const heading = html("h3", { id: `${id}-title` });
    heading.textContent = title;
    const words = html("p", { class: "note" });
    words.textContent = about;
    const stage = html("figure", { tabindex: 0, role: "group", "aria-label": title });
    const reading = html("p", { class: "reading" });
    const caption = html("summary");
    caption.textContent = "The same as a table";
    const fold = html("details", {}, caption);
    const made = controls.map(([label, options]) => choice(label, options, () => redraw()));
    const refold = (drawn) => {
      while (fold.children.length > 1) fold.lastChild.remove();
      if (fold.open) fold.append(table(title, drawn.columns, drawn.rows));
    };
    let last = null;
    const redraw = () => {
      last = draw(...made.map((each) => each.get()));
      stage.replaceChildren(last.picture);
      reading.textContent = last.said || "";
      refold(last);
    };
    fold.addEventListener("toggle", () => refold(last));
    stage.addEventListener("pointerover", (event) => {
      const found = event.target.closest("[data-told]");
      reading.textContent = found ? found.dataset.told : last.said || "";
    });
    const bar = html("div", { class: "controls" }, ...made.map((each) => each.box));
    root.append(html("div", { id, class: "view" },
      heading, words, made.length ? bar : null, stage, reading, fold));
    redraw();
  };

  const bars = (label, rows, format) => {
    const most = Math.max(...rows.map(([, parts]) => sum(parts.map((part) => part.value))), 1e-12);
    const height = 18 + ROW * rows.length + 26;
    const at = linear(0, most, LEFT, WIDTH - RIGHT);
    const marks = rows.flatMap(([name, parts, beside], i) => {
      let from = 0;
      const drawn = parts.map((part) => {
        const node = svg("rect", {
          x: at(from), y: 18 + ROW * i + 3, width: Math.max(at(from + part.value) - at(from), 0), height: ROW - 6,
          fill: colour(part.colour),
        });
        from += part.value;
        return told(node, `${name}: ${part.told}`);
      });
      return [...drawn, text(at(from) + 6, 18 + ROW * i + 15, beside)];
    });
    return picture(height, label, ...axis(at, 0, most, height, format), ...names(rows.map(([name]) => name)), ...marks);
  };

  if (data.funnel.length) {
    const stages = unique(data.funnel.map(([stage]) => stage));
    const sources = unique(data.funnel.map(([, source]) => source));
    view("view-funnel", "From what came in to what is kept",
      "Documents left after each stage, of all sources or of one.",
      [["Source", [["", "all sources"], ...sources.map((name) => [name, name])]]],
      (source) => {
        const rows = stages.map((stage) => [stage, sum(data.funnel
          .filter(([at, of]) => at === stage && (!source || of === source)).map(([, , n]) => n))]);
        const first = rows[0][1];
        return {
          picture: bars("Documents left after each stage", rows.map(([stage, n], i) => [stage, [{
            value: n, colour: i === rows.length - 1 ? "good" : "accent",
            told: `${count(n)} documents, ${share(n, first)} of what came in`,
          }], share(n, first)]), compact),
          columns: ["Stage", "Documents", "Share of what came in"],
          rows: rows.map(([stage, n]) => [stage, n, share(n, first)]),
          said: `${count(first)} documents came in, of ${count(rows[rows.length - 1][1])} something is kept.`,
        };
      });
  }

  if (data.mixture.length) {
    view("view-mixture", "Mixture before and after",
      "Each source's share of the tokens, of the clean corpus and of what is kept.",
      [["Order", [["before", "by share before"], ["after", "by share after"], ["change", "by change"]]]],
      (order) => {
        const before = sum(data.mixture.map(([, n]) => n)) || 1;
        const after = sum(data.mixture.map(([, , n]) => n)) || 1;
        const rows = data.mixture.map(([name, all, kept]) => [name, all / before, kept / after]);
        const by = { before: (row) => row[1], after: (row) => row[2], change: (row) => row[2] / (row[1] || 1e-12) }[order];
        rows.sort((a, b) => by(b) - by(a));
        const most = Math.max(...rows.flatMap((row) => [row[1], row[2]]), 1e-9);
        const at = linear(0, most, LEFT, WIDTH - RIGHT);
        const height = 18 + ROW * rows.length + 26;
        const percent = (value) => `${number(100 * value)}%`;
        const marks = rows.flatMap(([name, a, b], i) => {
          const said = `${name}: ${(100 * a).toFixed(1)}% before, ${(100 * b).toFixed(1)}% after`;
          const y = 18 + ROW * i;
          return [
            told(svg("rect", { x: LEFT, y: y + 3, width: at(a) - LEFT, height: 7, fill: colour("soft") }), said),
            told(svg("rect", { x: LEFT, y: y + 11, width: at(b) - LEFT, height: 7, fill: colour("accent") }), said),
            text(Math.max(at(a), at(b)) + 6, y + 15, `×${number(Number((b / (a || 1e-12)).toPrecision(2)))}`),
          ];
        });
        return {
          picture: picture(height, "Share of tokens by source before and after", ...axis(at, 0, most, height, percent),
            ...names(rows.map(([name]) => name)), ...marks),
          columns: ["Source", "Before, %", "After, %"],
          rows: rows.map(([name, a, b]) => [name, 100 * a, 100 * b]),
          said: "Grey: before. Blue: after. Right: after over before.",
        };
      });
  }

  if (data.grid.length) {
    const kinds = unique(data.grid.map(([kind, form]) => `${kind}, ${form}`));
    view("view-grid", "Candidate configurations",
      "Every configuration that was compared: how well it ranked the calibration subsets, by smoothing or damping rho " +
      "and redundancy penalty lambda. The chosen one is framed.",
      [["Kind and form", kinds.map((name) => [name, name])],
        ["Value", [["4", "rank correlation"], ["5", "its lower bound"]]]],
      (kind, column) => {
        const rows = data.grid.filter(([a, b]) => `${a}, ${b}` === kind);
        const rhos = unique(rows.map((row) => row[2])).sort((a, b) => a - b);
        const lambdas = unique(rows.map((row) => row[3])).sort((a, b) => a - b);
        const values = data.grid.map((row) => row[column]).filter((value) => value !== null);
        const low = Math.min(...values);
        const high = Math.max(...values);
        const wide = Math.min(86, (WIDTH - LEFT - 20) / lambdas.length);
        const height = 40 + 34 * rhos.length + 10;
        const cells = rows.flatMap((row) => {
          const x = LEFT + wide * lambdas.indexOf(row[3]);
          const y = 36 + 34 * rhos.indexOf(row[2]);
          const value = row[column];
          const said = `${row[6]}: rank correlation ${number(row[4])}, lower bound ${number(row[5])}`;
          const strength = value === null ? 0 : 0.05 + 0.45 * ((value - low) / (high - low || 1));
          const mine = row[6] === data.chosen;
          return [
            told(svg("rect", {
              x: x + 1, y: y + 1, width: wide - 2, height: 32, fill: colour("accent"), "fill-opacity": strength,
              stroke: colour(mine ? "mark" : "grid"), "stroke-width": mine ? 3 : 1,
            }), said),
            text(x + wide / 2, y + 21, number(value === null ? null : Number(value.toFixed(3))),
              { "text-anchor": "middle", "pointer-events": "none" }),
          ];
        });
        return {
          picture: picture(height, `Grid of ${kind}`,
            ...lambdas.map((value, i) => text(LEFT + wide * (i + 0.5), 26, `λ ${number(value)}`,
              { "text-anchor": "middle", fill: colour("muted") })),
            ...rhos.map((value, i) => text(LEFT - 8, 36 + 34 * i + 21, `ρ ${number(value)}`,
              { "text-anchor": "end", fill: colour("muted") })), ...cells),
          columns: ["Configuration", "Rho", "Lambda", "Rank correlation", "Lower bound"],
          rows: rows.map((row) => [row[6], row[2], row[3], row[4], row[5]]),
          said: `Chosen: ${data.chosen || "none"}.`,
        };
      });
  }

  if (data.forest.length) {
    const tasks = unique(data.forest.map(([task]) => task));
    const first = tasks.includes("mean over tasks") ? "mean over tasks" : tasks[0];
    view("view-forest", "Finalists against the picked one",
      "How much higher the loss is with each other corpus, in nats per token, with its 95% interval over documents. " +
      "Right of 0: worse than the picked one.",
      [["Task", [first, ...tasks.filter((name) => name !== first)].map((name) => [name, name])]],
      (task) => {
        const rows = data.forest.filter(([of]) => of === task);
        const ends = rows.flatMap((row) => row.slice(2)).filter((value) => value !== null);
        const pad = 0.05 * (Math.max(...ends, 0) - Math.min(...ends, 0) || 1);
        const low = Math.min(...ends, 0) - pad;
        const high = Math.max(...ends, 0) + pad;
        const at = linear(low, high, LEFT, WIDTH - RIGHT);
        const height = 18 + ROW * rows.length + 26;
        const marks = rows.flatMap(([, arm, value, from, to], i) => {
          const y = 18 + ROW * i + ROW / 2;
          const mine = from === null;
          const said = mine ? `${arm}: picked` : `${arm}: ${number(value)} [${number(from)}, ${number(to)}]`;
          return [
            mine ? null : told(svg("line", { x1: at(from), x2: at(to), y1: y, y2: y, stroke: colour("muted"), "stroke-width": 2 }), said),
            told(svg("circle", { cx: at(value), cy: y, r: mine ? 6 : 4.5, fill: colour(mine ? "accent" : "muted") }), said),
            text(WIDTH - RIGHT + 8, y + 4, mine ? "picked" : number(value)),
          ].filter((node) => node !== null);
        });
        return {
          picture: picture(height, `Loss above the picked corpus's, ${task}`, ...axis(at, low, high, height, number),
            svg("line", { x1: at(0), x2: at(0), y1: 18, y2: height - 22, stroke: colour("accent"), "stroke-dasharray": "4 3" }),
            ...names(rows.map((row) => row[1])), ...marks),
          columns: ["Corpus", "Loss above the picked one's", "From", "To"],
          rows: rows.map((row) => row.slice(1)),
          said: "The luck of training runs comes on top; the certificate counts it.",
        };
      });
  }

  if (data.predicted.length) {
    const splits = unique(data.predicted.map(([split]) => split));
    const tasks = unique(data.predicted.map(([, task]) => task));
    view("view-predicted", "Predicted against measured",
      "Each point is a subset that a model was really trained on: what the chosen configuration predicted, and the " +
      "utility that was measured (minus loss). Calibration subsets chose the configuration; sealed ones did not.",
      [["Subsets", splits.map((name) => [name, name])], ["Task", tasks.map((name) => [name, name])]],
      (split, task) => {
        const rows = data.predicted.filter(([a, b]) => a === split && b === task);
        const strata = unique(rows.map((row) => row[2]));
        const ends = (column) => {
          const values = rows.map((row) => row[column]);
          const pad = 0.05 * (Math.max(...values) - Math.min(...values) || 1);
          return [Math.min(...values) - pad, Math.max(...values) + pad];
        };
        const height = 380;
        const [left, right] = ends(3);
        const [bottom, top] = ends(4);
        const x = linear(left, right, 80, WIDTH - 20);
        const y = linear(bottom, top, height - 40, 20 + 18 * Math.ceil(strata.length / 3));
        const shapes = rows.map((row) => told(svg("circle", {
          cx: x(row[3]), cy: y(row[4]), r: 4.5, fill: colour(HUES[strata.indexOf(row[2]) % HUES.length]), "fill-opacity": 0.75,
        }), `${row[2]}: predicted ${number(row[3])}, measured ${number(row[4])}`));
        const keys = strata.flatMap((name, i) => {
          const from = 80 + 185 * (i % 3);
          const down = 14 + 18 * Math.floor(i / 3);
          return [svg("circle", { cx: from, cy: down - 4, r: 4.5, fill: colour(HUES[i % HUES.length]) }), text(from + 9, down, cut(name, 24))];
        });
        return {
          picture: picture(height, `Predicted against measured utility, ${task}, ${split} subsets`,
            ...ticks(left, right).map((value) => text(x(value), height - 22, number(value), { "text-anchor": "middle", fill: colour("muted") })),
            ...ticks(bottom, top).flatMap((value) => [
              svg("line", { x1: 80, x2: WIDTH - 20, y1: y(value), y2: y(value), stroke: colour("grid") }),
              text(74, y(value) + 4, number(value), { "text-anchor": "end", fill: colour("muted") }),
            ]),
            text(WIDTH - 20, height - 6, "predicted", { "text-anchor": "end", fill: colour("muted") }), ...keys, ...shapes),
          columns: ["Stratum", "Predicted", "Measured"],
          rows: rows.map((row) => row.slice(2)),
          said: `${count(rows.length)} ${split} subsets, ${task}. Across: predicted. Up: measured utility.`,
        };
      });
  }

  if (data.values.length) {
    const scores = unique(data.values.map(([score]) => score));
    view("view-values", "Distribution of value, and the threshold",
      "Chunks by the score that decided on them. The dashed line is where the budget was spent.",
      [["Score", scores.map((name) => [name, name.replaceAll("_", " ")])]],
      (score) => {
        const rows = data.values.filter(([of]) => of === score);
        const outcomes = unique(rows.map((row) => row[1])).sort((a, b) => (b === "kept") - (a === "kept") || (a < b ? -1 : 1));
        const low = Math.min(...rows.map((row) => row[2]));
        const high = Math.max(...rows.map((row) => row[3]));
        const stacked = new Map();
        for (const row of rows) stacked.set(row[2], (stacked.get(row[2]) || 0) + row[4]);
        const most = Math.max(...stacked.values());
        const height = 300;
        const x = linear(low, high, 70, WIDTH - 20);
        const y = linear(0, most, height - 40, 30);
        const under = new Map();
        const marks = outcomes.flatMap((name, i) => rows.filter((row) => row[1] === name).map((row) => {
          const from = under.get(row[2]) || 0;
          under.set(row[2], from + row[4]);
          return told(svg("rect", {
            x: x(row[2]), width: Math.max(x(row[3]) - x(row[2]) - 0.5, 0.5), y: y(from + row[4]), height: y(from) - y(from + row[4]),
            fill: colour(HUES[i % HUES.length]),
          }), `${name}: ${count(row[4])} chunks from ${number(row[2])} to ${number(row[3])}`);
        }));
        const limit = rows[0][5];
        const keys = outcomes.flatMap((name, i) => [
          svg("rect", { x: 70 + 140 * i, y: 6, width: 10, height: 10, fill: colour(HUES[i % HUES.length]) }), text(84 + 140 * i, 15, name)]);
        const line = limit === null || limit < low || limit > high ? []
          : [svg("line", { x1: x(limit), x2: x(limit), y1: 24, y2: height - 40, stroke: colour("ink"), "stroke-dasharray": "4 3", "stroke-width": 1.5 })];
        return {
          picture: picture(height, `Distribution of ${score}`,
            ...ticks(low, high).map((value) => text(x(value), height - 22, number(value), { "text-anchor": "middle", fill: colour("muted") })),
            ...ticks(0, most).map((value) => text(64, y(value) + 4, compact(value), { "text-anchor": "end", fill: colour("muted") })),
            ...marks, ...line, ...keys),
          columns: ["Outcome", "From", "To", "Chunks"],
          rows: rows.map((row) => row.slice(1, 5)),
          said: `Threshold ${number(limit)}. The outermost bars count what lies beyond.`,
        };
      });
  }

  if (data.cost.length) {
    view("view-cost", "Cost per stage", "Seconds of every stage of the run.",
      [["Order", [["run", "as they ran"], ["size", "longest first"]]]],
      (order) => {
        const rows = data.cost.map((row) => [...row]);
        if (order === "size") rows.sort((a, b) => b[1] - a[1]);
        const all = sum(rows.map((row) => row[1]));
        return {
          picture: bars("Seconds per stage", rows.map(([stage, seconds]) => [stage.replaceAll("_", " "), [{
            value: seconds, colour: "accent", told: `${number(seconds)} s, ${share(seconds, all)}` }], `${number(Number(seconds.toPrecision(3)))} s`]), compact),
          columns: ["Stage", "Seconds"],
          rows,
          said: `${count(Math.round(all))} s in all.`,
        };
      });
  }

  // The browser of texts.
  const texts = data.samples;
  const place = document.getElementById("texts-list");
  if (!place || !texts.length) return;
  const options = (name) => [["", "all"], ...unique(texts.map((row) => row[name])).sort().map((value) => [value, value])];
  let limit = SHOWN;
  const again = () => { limit = SHOWN; list(); };
  const outcome = choice("Outcome", options("outcome"), again);
  const source = choice("Source", options("source"), again);
  const reason = choice("Reason", options("reason"), again);
  const order = choice("Order", [["", "as drawn"], ["value", "value, highest first"], ["-value", "value, lowest first"],
    ["similarity", "most like a kept text first"], ["tokens", "longest first"]], again);
  const wanted = field("Words in the text", "search", again);
  const id = field("Id begins with", "search", again);
  document.getElementById("texts-controls").append(...[outcome, source, reason, order, wanted, id].map((each) => each.box));
  const found = document.getElementById("texts-found");
  const more = document.getElementById("texts-more");
  more.addEventListener("click", () => { limit += SHOWN; list(); });

  // Offsets are of code points, as in Python.
  const marked = (said, spans) => {
    const node = html("p", { class: "text", dir: "auto" });
    const points = Array.from(said);
    let at = 0;
    for (const [from, to] of spans) {
      node.append(points.slice(at, from).join(""));
      const passage = html("mark");
      passage.textContent = points.slice(from, to).join("");
      node.append(passage);
      at = to;
    }
    node.append(points.slice(at).join(""));
    return node;
  };
  const facts = (row) => {
    const parts = [row.source, row.reason === row.outcome ? null : row.reason,
      row.tokens ? `${count(row.tokens)} tokens` : null,
      row.value === null || row.value === undefined ? null
        : `${(row.score || "value").replaceAll("_", " ")} ${number(row.value)}` +
          (row.threshold === null || row.threshold === undefined ? "" : `, threshold ${number(row.threshold)}`)];
    return parts.filter((part) => part).join(" · ");
  };
  const article = (row) => {
    const head = html("p", { class: "facts-line" });
    const badge = html("strong", { class: `fate ${row.outcome}` });
    badge.textContent = row.outcome;
    const about = html("span");
    about.textContent = ` ${facts(row)}`;
    const name = html("code");
    name.textContent = row.id;
    head.append(badge, about, html("br"), name);
    const node = html("article", {}, head);
    const scored = row.tasks.filter(([task]) => task);
    if (scored.length || row.note) {
      const line = html("p", { class: "note" });
      line.textContent = [...scored.map(([task, value]) => `${task} ${number(value)}`), row.note].filter((part) => part).join(" · ");
      node.append(line);
    }
    if (!row.near) {
      node.append(row.text ? marked(row.text, []) : Object.assign(html("p", { class: "note" }), {
        textContent: "The text of a rejected document is not stored; its origin says where it is." }));
      return node;
    }
    const side = (title, said, spans) => {
      const label = html("p", { class: "side-title" });
      label.textContent = title;
      return html("div", {}, label, said ? marked(said, spans)
        : Object.assign(html("p", { class: "note" }), { textContent: "The text is not stored." }));
    };
    const like = row.near.similarity === null || row.near.similarity === undefined ? "" : `, cosine ${number(row.near.similarity)}`;
    const right = row.outcome === "rejected" ? "Stayed in its place" : "Nearest kept text";
    node.append(html("div", { class: "pair" }, side("This text", row.text, row.near.mine),
      side(`${right}${like}: ${row.near.id}`, row.near.text, row.near.theirs)));
    return node;
  };
  const list = () => {
    const words = wanted.get().toLowerCase();
    const rows = texts.filter((row) => (!outcome.get() || row.outcome === outcome.get()) &&
      (!source.get() || row.source === source.get()) && (!reason.get() || row.reason === reason.get()) &&
      (!id.get() || row.id.startsWith(id.get()) || row.doc.startsWith(id.get())) &&
      (!words || `${row.text || ""} ${row.near ? row.near.text || "" : ""}`.toLowerCase().includes(words)));
    const by = { value: (row) => -(row.value ?? -Infinity), "-value": (row) => row.value ?? Infinity,
      similarity: (row) => -((row.near && row.near.similarity) ?? -Infinity), tokens: (row) => -(row.tokens || 0) }[order.get()];
    const keyed = by ? rows.map((row) => [by(row), row]).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)).map(([, row]) => row) : rows;
    place.replaceChildren(...keyed.slice(0, limit).map(article));
    found.textContent = `${count(rows.length)} of ${count(texts.length)} sampled texts`;
    more.hidden = rows.length <= limit;
  };
  list();
})();
