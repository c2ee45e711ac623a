// A file of MolViewSpec (molstar.org/mol-view-spec), which viewers such as Mol* open: the structure and its colors in one.
const SHADES = 12; // colors of either sign

/** A link to a file of MolViewSpec, made here from the structure and the levels. */
function sceneLink(found, levels, context) {
  const name = `latent_${current}_${found.name.replace(/\.[^.]*$/, "")}.mvsj`;
  const text = JSON.stringify(scene(found, levels, context));
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  return make("a", { href, download: name }, "Download it for Mol*");
}

/** The scene in MolViewSpec's JSON: a cartoon, colored by activation, with the activations as tooltips. */
function scene(found, levels, context) {
  const residues = new Map(); // shade -> residues
  const tips = [];
  levels.forEach((level, i) => {
    if (!level || found.residues[i] === null) return;
    const [, number, insertion] = found.residues[i].match(/^(-?\d+)(.*)$/);
    const residue = { auth_asym_id: found.chain, auth_seq_id: Number(number), ...(insertion && { pdbx_PDB_ins_code: insertion }) };
    const shade = Math.sign(level) * Math.ceil((Math.abs(level) / about.levels) * SHADES);
    residues.set(shade, [...(residues.get(shade) ?? []), residue]);
    tips.push({ kind: "component", params: { selector: residue }, children: [{ kind: "tooltip", params: { text: `latent ${current}: ${context.value(level)}` } }] });
  });
  const hex = (level) => `#${blend(level, LIGHT).map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  const colors = [...residues].map(([shade, selector]) => ({ kind: "color", params: { color: hex(shade / SHADES), selector } }));
  const cartoon = { kind: "representation", params: { type: "cartoon" }, children: [{ kind: "color", params: { color: hex(0), selector: "all" } }, ...colors] };
  const shown = [{ kind: "component", params: { selector: "all" }, children: [cartoon] }, ...tips];
  const model = { kind: "structure", params: { type: "model" }, children: shown };
  const parse = { kind: "parse", params: { format: found.format }, children: [model] };
  const bytes = Array.from(new TextEncoder().encode(found.text), (byte) => String.fromCharCode(byte));
  const url = `data:text/plain;base64,${btoa(bytes.join(""))}`;
  const metadata = { version: "1", timestamp: new Date().toISOString(), title: `Latent ${current} of ${about.sae}`, description: context.example.id };
  return { metadata, root: { kind: "root", children: [{ kind: "download", params: { url }, children: [parse] }] } };
}
