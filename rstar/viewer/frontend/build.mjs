// Bundles src/ and the npm packages it uses into one minified script, headed by the hash of its sources and the
// licences of these packages: node build.mjs OUTPUT. Where this file lies, node_modules is.

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

/** SHA-256 over name and content of everything that decides the bundle; tests/rstar/viewer/test_bundle.py has the same. */
function sourceHash() {
  const names = ["build.mjs", "package-lock.json", "package.json", ...readdirSync(join(here, "src")).map((name) => `src/${name}`)];
  const hash = createHash("sha256");
  for (const name of names.sort()) hash.update(`${name}\0`).update(readFileSync(join(here, name))).update("\0");
  return hash.digest("hex");
}

/** Packages whose code is in the bundle, each once. */
function packagesOf(metafile) {
  const found = Object.keys(metafile.inputs).map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
  return [...new Set(found.filter(Boolean))].sort();
}

/** Licence texts, each with the packages that stand under it. */
function licences(packages) {
  const byText = new Map();
  for (const name of packages) {
    const { version } = JSON.parse(readFileSync(join(here, "node_modules", name, "package.json"), "utf-8"));
    const text = readFileSync(join(here, "node_modules", name, "LICENSE"), "utf-8").trim();
    byText.set(text, [...(byText.get(text) ?? []), `${name} ${version}`]);
  }
  return [...byText].map(([text, names]) => `${names.join(", ")}\n\n${text}`).join("\n\n---\n\n");
}

const { outputFiles, metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.js"],
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "viewer",
  target: "es2022",
  charset: "utf8",
  loader: { ".css": "text" },
  metafile: true,
  write: false,
});
const banner = `/* Built by \`make viewer\` from rstar/viewer/frontend; do not edit.\nsources sha256 ${sourceHash()}\n\n${licences(packagesOf(metafile))}\n*/\n`;
writeFileSync(process.argv[2], banner + outputFiles[0].text);
