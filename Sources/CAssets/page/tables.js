// What the page draws with: figures as text, tables that are sorted and searched, charts. All text that came from elsewhere is
// written as text (textContent), never as HTML.

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Sets text only where it changes: what a screen reader has said is not said again, and a selection stays. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// ---- Figures as text ----

const NONE = "–";
const grouped = [0, 1, 2].map((digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

/** 12,345, 123, 12.3 or 1.23; whole numbers as they are. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  return grouped[value >= 99.95 || Number.isInteger(value) ? 0 : value >= 9.995 ? 1 : 2].format(value);
}

/** So many a second, with as many digits for all: 123, 12.3, 0.5. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value > 0 && value < 0.05) return "< 0.1";
  return value === 0 || value >= 99.95 ? grouped[0].format(value) : value.toFixed(1);
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return `${number(unit === 0 ? Math.round(value) : value)} ${units[unit]}`;
}

/** A share of one processor, or of requests. */
export function percent(value) {
  return value === null || value === undefined ? NONE : `${rate(value * 100)} %`;
}

/** A latency, from microseconds to seconds. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds >= 1) return `${number(seconds)} s`;
  return seconds >= 0.001 ? `${number(seconds * 1000)} ms` : `${number(Math.round(seconds * 1e6))} µs`;
}

/** How long something has been so: 3 d 4 h, 12 min 5 s. */
export function age(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min${whole % 60 ? ` ${whole % 60} s` : ""}` : `${whole} s`;
}

// ---- Tables ----

const ROWS_MAX = 200;
const names = new Intl.Collator("en", { numeric: true });

/**
 * A table below a section's heading. Columns: `name`, `value(row)` to sort by, `text(row)` to show (or the value), `isFigure`,
 * `kind(row)` for a class, `title(row)`. Rows are reused, so that neither focus nor selection is lost when figures change.
 */
export class Table {
  constructor(section, caption, columns, { sortBy = 0, descending = false, searched = null, empty = "None." } = {}) {
    this.columns = columns;
    this.sortBy = sortBy;
    this.isDescending = descending;
    this.searched = searched;
    this.rows = [];
    this.empty = empty;
    this.count = section.querySelector(".count");
    this.search = section.querySelector("input[type=search]");
    this.headers = columns.map((column, index) => {
      const button = element("button", { type: "button" }, column.name);
      button.addEventListener("click", () => this.sort(index));
      return element("th", { scope: "col", className: column.isFigure ? "number" : "text" }, button);
    });
    this.body = element("tbody");
    const table = element("table", {}, element("caption", { textContent: caption }),
      element("thead", {}, element("tr", {}, ...this.headers)), this.body);
    // A region that can be scrolled by keys, as it may be wider than the window.
    section.append(element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-labelledby": `${section.id}-title` }, table));
    this.search?.addEventListener("input", () => this.draw());
    this.draw();
  }

  sort(index) {
    this.isDescending = this.sortBy === index ? !this.isDescending : Boolean(this.columns[index].isFigure);
    this.sortBy = index;
    this.draw();
  }

  set(rows) {
    this.rows = rows;
    this.draw();
  }

  draw() {
    const wanted = this.search?.value.trim().toLowerCase() ?? "";
    const found = wanted ? this.rows.filter((row) => this.searched(row).some((text) => text.toLowerCase().includes(wanted))) : this.rows;
    const sign = this.isDescending ? -1 : 1;
    const order = (left, right) => typeof left === "string" ? names.compare(left, right) : left - right;
    const first = this.columns[0].value;
    const key = this.columns[this.sortBy].value;
    const shown = found
      .map((row) => [key(row) ?? -1, first(row), row])
      .sort((left, right) => sign * order(left[0], right[0]) || order(left[1], right[1]))
      .slice(0, ROWS_MAX).map((entry) => entry[2]);
    this.headers.forEach((header, index) => {
      const now = index !== this.sortBy ? "none" : this.isDescending ? "descending" : "ascending";
      if (header.getAttribute("aria-sort") !== now) header.setAttribute("aria-sort", now);
    });
    this.drawRows(shown, wanted ? "Nothing is called so." : this.empty);
    const more = found.length > shown.length ? `; the first ${number(shown.length)} are shown, ${number(found.length - shown.length)} more are not` : "";
    setText(this.count, (wanted ? `${number(found.length)} of ${number(this.rows.length)}` : number(this.rows.length)) + more);
  }

  drawRows(shown, empty) {
    const isEmpty = shown.length === 0;
    if (isEmpty !== (this.body.dataset.empty === "yes")) {
      this.body.replaceChildren();
      this.body.dataset.empty = isEmpty ? "yes" : "no";
    }
    if (isEmpty) {
      if (!this.body.firstChild) this.body.append(element("tr", {}, element("td", { colSpan: this.columns.length, className: "empty" })));
      setText(this.body.firstChild.firstChild, empty);
      return;
    }
    while (this.body.rows.length > shown.length) this.body.lastChild.remove();
    shown.forEach((row, place) => {
      const line = this.body.rows[place] ?? this.body.appendChild(this.emptyRow());
      this.columns.forEach((column, index) => {
        const cell = line.cells[index];
        setText(cell.firstChild, String((column.text ?? column.value)(row)));
        const kind = `${column.isFigure ? "number" : "text"} ${column.kind?.(row) ?? ""}`.trim();
        if (cell.className !== kind) cell.className = kind;
        const title = column.title?.(row) ?? "";
        if (cell.title !== title) cell.title = title;
      });
    });
  }

  emptyRow() {
    return element("tr", {}, ...this.columns.map((_, index) =>
      element(index ? "td" : "th", index ? {} : { scope: "row" }, element("span"))));
  }
}

// ---- Charts ----

const [WIDTH, HEIGHT] = [300, 72];
const [SPAN_LEAST, SPAN] = [60_000, 300_000];     // milliseconds that a chart shows: it grows with what there is

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** The next round number: what the top of a chart stands for. */
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((factor) => factor * unit).find((candidate) => candidate >= value * 0.999);
}

/** Lines over up to the last five minutes. `lines`: the names; `format`: a value as text; `least`: what the top stands for at least. */
export class Chart {
  constructor(parent, title, lines, format, least) {
    Object.assign(this, { title, lines, format, least, points: [] });
    this.picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const height of [0.5, HEIGHT / 2, HEIGHT - 0.5]) {
      this.picture.append(drawn("line", { class: "grid", x1: 0, x2: WIDTH, y1: height, y2: height }));
    }
    this.paths = lines.map((_, index) => this.picture.appendChild(drawn("path", { class: `line line-${index}` })));
    this.top = element("span", { className: "top figure" });
    this.since = element("span", { className: "figure" });
    this.values = lines.map(() => element("b", { className: "figure", textContent: NONE }));
    const legend = element("ul", { className: "legend" }, ...lines.map((name, index) =>
      element("li", { className: `line-${index}` }, element("i", { "aria-hidden": "true" }), `${name} `, this.values[index])));
    this.figure = element("figure", { className: `chart ${title.toLowerCase().replace(/\W+/g, "-")}` },
      element("figcaption", {}, element("span", { textContent: title }), legend),
      element("div", { className: "plot" }, this.picture, this.top),
      element("div", { className: "time", "aria-hidden": "true" }, this.since, element("span", { className: "figure", textContent: "now" })));
    parent.append(this.figure);
  }

  /** Adds what was measured: a number a line, null where there is none. `texts`: the values as text, where they are to be other. */
  add(time, values, texts = []) {
    this.points.push({ time, values });
    while (this.points[0].time < time - SPAN) this.points.shift();
    const highest = Math.max(0, ...this.points.flatMap((point) => point.values.map((value) => value ?? 0)));
    const top = roundUp(Math.max(highest, this.least));
    const span = Math.max(SPAN_LEAST, time - this.points[0].time);
    this.paths.forEach((path, index) => path.setAttribute("d", this.path(index, time, span, top)));
    setText(this.top, this.format(top).replace(/(\.\d*?)0+(?= |$)/, "$1").replace(/\.(?= |$)/, ""));
    setText(this.since, `${age(span / 1000)} ago`);
    const now = values.map((value, index) => texts[index] ?? this.format(value));
    now.forEach((text, index) => setText(this.values[index], text));
    this.picture.setAttribute("aria-label", `${this.title}: ` + this.lines.map((name, index) => {
      const known = this.points.map((point) => point.values[index]).filter((value) => value !== null);
      return `${name} now ${now[index]}, at most ${known.length ? this.format(Math.max(...known)) : NONE} in five minutes`;
    }).join("; "));
  }

  path(index, now, span, top) {
    let text = "", isOpen = false;
    for (const { time, values } of this.points) {
      const value = values[index];
      if (value === null || value === undefined) { isOpen = false; continue; }
      const x = WIDTH - (now - time) / span * WIDTH;
      const y = HEIGHT - 1 - value / top * (HEIGHT - 3);
      text += `${isOpen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${isOpen ? "" : "h.01"}`;
      isOpen = true;
    }
    return text;
  }
}
