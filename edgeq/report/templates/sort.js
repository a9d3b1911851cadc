"use strict";
// A heading with a button sorts its table: ascending, then descending. Cells without data-key stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column].dataset.key, b.cells[column].dataset.key, ascending));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    });
  });
}
function compare(a, b, ascending) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  const numeric = a !== "" && b !== "" && !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
  const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  return ascending ? order : -order;
}
addEventListener("beforeprint", () => {
  for (const item of document.querySelectorAll("details")) item.open = true;
});
