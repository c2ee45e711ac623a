// Downloads: rows as CSV or JSON, and charts as PNG or SVG, made in the page itself.
function toCsv(table) {
  if (!table.length) return "";
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = Object.keys(table[0]);
  const lines = [names, ...table.map((row) => names.map((name) => row[name]))];
  return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function saveRows(name, table, as) {
  const [text, type] = as === "csv" ? [toCsv(table), "text/csv"] : [JSON.stringify(table, null, 1), "application/json"];
  save(`${name}.${as}`, new Blob([text], { type }));
}

/** A picture on white, whatever the colors of the page are. */
async function savePicture(name, as) {
  const view = views[name];
  view.background("white");
  const canvas = as === "png" ? await view.toCanvas(2) : null;
  const blob = canvas
    ? await new Promise((done) => canvas.toBlob(done))
    : new Blob([await view.toSVG()], { type: "image/svg+xml" });
  view.background(null);
  save(`${name}.${as}`, blob);
}

function download(button) {
  const { chart, rows: name } = button.parentElement.dataset;
  const as = button.dataset.as;
  if (name) return saveRows(name, rows[name].filter(wanted), as);
  return as === "png" || as === "svg" ? savePicture(chart, as) : saveRows(chart, rowsOf(chart), as);
}
