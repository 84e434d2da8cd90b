// Without this script the page is complete; with it tables sort by a click on a column, and centers can be picked.
"use strict";
for (const table of document.querySelectorAll("table:not(.matrix)")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  if (rows.length < 2) continue;
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.matches("th, .words") ? cell.textContent : null;
  };
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.ariaSort] ?? "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      const known = rows.filter(row => value(row, column) !== null);
      const sign = next === "descending" ? -1 : 1;
      if (next !== "none") {
        head.ariaSort = next;
        known.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      }
      body.append(...(next === "none" ? rows : new Set([...known, ...rows])));
    });
  });
}
const ofCenters = [...document.querySelectorAll("[data-center]")];
const field = document.querySelector("#centers");
if (field && new Set(ofCenters.map(part => part.dataset.center)).size > 1) {
  field.closest("p").hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const part of ofCenters) {
      part.hidden = words.length > 0 && !words.some(word => part.dataset.center.toLowerCase().includes(word));
    }
  });
}
