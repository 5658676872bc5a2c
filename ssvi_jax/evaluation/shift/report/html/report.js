"use strict";
// Tables sort by a click on a header, or Enter on it; without JavaScript they stay as
// they are. Numbers are compared by data-v, all their digits; what is missing is last.

function value(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  return text === "–" ? null : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(table, heads, column) {
  const down = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head, i) => {
    const order = down ? "descending" : "ascending";
    head.setAttribute("aria-sort", i === column ? order : "none");
  });
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [value(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return down ? compare(b, a) : compare(a, b);
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, heads, column));
  });
}
